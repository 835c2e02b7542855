// A page without a kernel: the engine answers. Models come as classic scripts that hold base64, since a page from the disk may
// not fetch. `start` is called by the script that einet/inpaint/pages.py makes.

import { decoded, element } from "./elements.js";
import { readModel } from "./engine.js";
import { sha256 } from "./file.js";
import { followGround } from "./ground.js";
import { random } from "./tools.js";
import { Widget } from "./widget.js";

const ANSWERS = {
  sample: (given, next, noise) => ({ values: given.sample(next, noise) }),
  samples(given, next, noise) {
    const drawn = Array.from({ length: 6 }, () => given.sample(next, noise));
    return { values: Float64Array.from(drawn.flatMap((x) => [...x])) };
  },
  mean: (given) => ({ values: given.moments().mean }),
  deviation: (given) => ({ values: given.moments().deviation }),
  explanation(given) {
    const { x, logDensity, upperBound } = given.explanation();
    return { values: x, logCompleted: logDensity, upperBound };
  },
  kind(given) {
    const { kind, x } = given.kind();
    return { values: x, kind, probability: given.posterior[kind] };
  },
  truth: (given) => ({ values: given.x, logCompleted: given.logDensityOfAll() }),
};

function engineAnswers(model) {
  const next = random(Date.now());
  let given = {};
  return async ({ x, observed, view, noise }) => {
    await new Promise(requestAnimationFrame); // the stroke is drawn before the engine works
    if (given.x !== x || given.observed !== observed) given = model.given(x, observed);
    return { logDensity: given.logDensity, ...ANSWERS[view](given, next, noise) };
  };
}

const loading = {};

function loadModel(file, base) {
  loading[file] ??= new Promise((resolve, reject) => {
    const script = element(document.head, "script", { src: new URL(`${encodeURIComponent(file)}.js`, base) });
    script.onload = () => resolve(globalThis.einetModels?.[file]);
    script.onerror = () => reject(new Error("there is no such file"));
  }).then((text) => readModel(checked(text ?? "", file).buffer));
  return loading[file];
}

// The bytes of a file whose name ends in their SHA-256, from base64
function checked(text, file) {
  let bytes = new Uint8Array();
  try {
    bytes = decoded(text);
  } catch { /* it is no base64: then neither is it what the name says */ }
  if (sha256(bytes) !== file.slice(-64)) throw new Error("it is damaged, its checksum is not the one in its name");
  return bytes;
}

// Until the model is there, and where it cannot be read, the picture that is in the page stays
async function startOne(root, base) {
  const page = JSON.parse(root.dataset.page);
  root.removeAttribute("data-page");
  const forget = followGround(root), status = root.querySelector("p") ?? element(root, "p");
  status.textContent = "The model is being loaded.";
  try {
    const model = await loadModel(page.file, base);
    const [own, wanted] = [model, page].map(({ height, width, channels }) => `${height} x ${width} x ${channels}`);
    if (own !== wanted) throw new Error(`it is a model of images of ${own}, these are of ${wanted}`);
    forget();
    new Widget(root, page, engineAnswers(model));
  } catch (error) {
    const text = `The model “${page.file.slice(0, -65)}” could not be read: ${error.message}. `
      + "Build the book anew, or run this page in JupyterLab.";
    status.remove();
    element(root, "p", { class: "message", role: "alert" }, text);
  }
}

function start(base) {
  document.querySelectorAll(".einet-inpaint[data-page]").forEach((root) => startOne(root, base));
}

export { loadModel, start };
