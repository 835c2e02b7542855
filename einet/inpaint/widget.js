// The widget: images, a mask that is painted over one of them, and what the model says about what it covers. A kernel
// answers (anywidget calls `render`), or in pages without one the engine (`start`, called by the script that
// einet/inpaint/pages.py makes). `page` is what InpaintWidget knows, as in einet/inpaint/widget.py.

import { clamp, random, readModel, sha256, total } from "./engine.js";

const VIEWS = {
  sample: { name: "sample", about: "drawn from the exact conditional distribution" },
  mean: { name: "mean", about: "the exact conditional mean" },
  deviation: { name: "standard deviation", about: "the exact conditional standard deviation" },
  explanation: { name: "most probable", about: "the most probable completion that was found, an approximation" },
};
const PRESETS = {
  "left half": (row, column, height, width) => column < width / 2,
  "right half": (row, column, height, width) => column >= width / 2,
  "upper half": (row, column, height) => row < height / 2,
  "lower half": (row, column, height) => row >= height / 2,
  "every other pixel": (row, column) => (row + column) % 2 === 0,
  clear: () => false,
};
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const SILENCE = 400, PATIENCE = 5000; // milliseconds until a kernel is called silent, and until a newer question goes out
const SILENT = "No kernel answers. A page without one shows only the images; a kernel that is busy answers when it can.";

// Small tools

function decoded(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

// Numbers of images and answers as widget.py writes them: the bytes, low ones first, of one dtype
function numbers(bytes, { dtype, height, width, channels }) {
  const Numbers = { float32: Float32Array, float64: Float64Array }[dtype], count = height * width * channels;
  if (!Numbers || bytes.length !== count * Numbers.BYTES_PER_ELEMENT) {
    throw new Error("the images were written by another version of einet, or are damaged: run the cell again");
  }
  return Float64Array.from(new Numbers(bytes.slice().buffer)); // slice: an answer's bytes may begin anywhere
}

function element(parent, tag, attributes = {}, text = "") {
  const made = parent.appendChild(document.createElement(tag));
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

// Colours: functions from the number of a pixel to its [red, green, blue], 0 to 255

function coloursOf(x, { low, high, channels }) {
  const byte = (value) => (255 * (value - low)) / (high - low);
  return (pixel) => [0, 1, 2].map((colour) => byte(x[pixel * channels + Math.min(colour, channels - 1)]));
}

// As the gradient in inpaint.css
const HEAT = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39],
  [252, 255, 164]];

// By the root mean square over a pixel's channels
function heatOf(deviation, { channels }) {
  const each = Array.from({ length: deviation.length / channels }, (_, pixel) =>
    Math.hypot(...deviation.subarray(pixel * channels, (pixel + 1) * channels)) / Math.sqrt(channels));
  const top = Math.max(...each), steps = HEAT.length - 1;
  const colour = (pixel) => {
    const place = top && (each[pixel] / top) * steps, i = Math.min(Math.floor(place), steps - 1);
    return HEAT[i].map((low, c) => low + (place - i) * (HEAT[i + 1][c] - low));
  };
  return { colour, top };
}

// Onto a canvas, `size` times as large: each pixel stays a sharp square
function drawPixels(canvas, { height, width }, colour, size) {
  const small = document.createElement("canvas"), pixels = new ImageData(width, height);
  [small.width, small.height] = [width, height];
  for (let pixel = 0; pixel < height * width; pixel++) pixels.data.set([...colour(pixel), 255], 4 * pixel); // it clamps
  small.getContext("2d").putImageData(pixels, 0, 0);
  if (canvas.width !== width * size) [canvas.width, canvas.height] = [width * size, height * size];
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  return context;
}

// Ink that can be read on any page: the page's own where it contrasts with what lies below, or else black or white

// Any CSS colour as [red, green, blue, opacity], 0 to 255
function channelsOf(colour) {
  const context = document.createElement("canvas").getContext("2d");
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data];
}

// WCAG 2: from 1, the same, to 21, black on white
function contrast(one, other) {
  const linear = (byte) => (byte <= 10 ? byte / 255 / 12.92 : ((byte / 255 + 0.055) / 1.055) ** 2.4);
  const [dark, light] = [one, other].map(([r, g, b]) =>
    0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) + 0.05).sort((a, b) => a - b);
  return light / dark;
}

const BLACK = [0, 0, 0], WHITE = [255, 255, 255];
const over = (top, below) => below.map((value, i) => value + (top[3] / 255) * (top[i] - value));
const clearer = (ground) => (contrast(BLACK, ground) > contrast(WHITE, ground) ? BLACK : WHITE);
const parentOf = (node) => node.assignedSlot ?? node.parentElement ?? node.getRootNode().host;

// Behind everything is the browser's canvas; in a frame, which may be transparent, the page's ink is all there is to tell
function canvasBelow(ink) {
  if (window !== window.parent) return clearer(ink);
  const probe = element(document.documentElement, "i", { style: "background: Canvas" });
  const colour = channelsOf(getComputedStyle(probe).backgroundColor);
  probe.remove();
  return colour.slice(0, 3);
}

function matchGround(root) {
  const layers = [], own = channelsOf(getComputedStyle(parentOf(root) ?? document.documentElement).color);
  for (let at = root; at && layers.at(-1)?.[3] !== 255; at = parentOf(at)) {
    layers.push(channelsOf(getComputedStyle(at).backgroundColor));
  }
  const bottom = layers.at(-1)[3] === 255 ? WHITE : canvasBelow(own);
  const ground = layers.reduceRight((below, layer) => over(layer, below), bottom), ink = over(own, ground);
  const readable = contrast(ink, ground) >= 4.5 ? ink : clearer(ground);
  root.style.setProperty("--ink", `rgb(${readable.map(Math.round)})`);
  root.dataset.ground = clearer(ground) === WHITE ? "dark" : "light";
}

// Now, and when the page changes its theme. The function that is returned ends it.
function followGround(root) {
  const match = () => root.isConnected && matchGround(root), end = new AbortController(), { signal } = end;
  const observer = new MutationObserver(match);
  for (const each of [document.documentElement, document.body]) observer.observe(each, { attributes: true });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", match, { signal });
  document.addEventListener("transitionend", match, { signal });
  window.addEventListener("load", match, { signal });
  requestAnimationFrame(match); // `render` may be called before its element is in the page
  match();
  signal.addEventListener("abort", () => observer.disconnect());
  return () => end.abort();
}

// Painting: places are (x, y), measured in pixels

// A mouse, a pen or a finger: along(places) for each piece of a stroke, then end()
function listenToStrokes(canvas, { height, width }, along, end) {
  let stroke = null;
  const place = ({ clientX, clientY }) => {
    const box = canvas.getBoundingClientRect();
    return [((clientX - box.left) / box.width) * width, ((clientY - box.top) / box.height) * height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    stroke = { pointer: event.pointerId, at: place(event) };
    along([stroke.at]);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (stroke?.pointer !== event.pointerId) return;
    const moves = event.getCoalescedEvents?.() ?? []; // some browsers have none
    const places = [stroke.at, ...(moves.length ? moves : [event]).map(place)];
    stroke.at = places.at(-1);
    along(places);
  });
  for (const over of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(over, (event) => {
      if (stroke?.pointer !== event.pointerId) return;
      stroke = null;
      end();
    });
  }
}

// Whether a pixel's centre is within reach of a line, or the line ends in the pixel, however thin the brush
function isOn([x0, y0], [x1, y1], reach, row, column) {
  if (row === Math.floor(y1) && column === Math.floor(x1)) return true;
  const dx = x1 - x0, dy = y1 - y0, x = column + 0.5 - x0, y = row + 0.5 - y0;
  const along = clamp((x * dx + y * dy) / (dx * dx + dy * dy || 1), 0, 1);
  return Math.hypot(x - along * dx, y - along * dy) <= reach;
}

// `answer(question, widget)` promises {values, logDensity, ...} for a question {image, x, observed, view}, or null where
// it gave way to a newer one
class Widget {
  constructor(root, page, answer) {
    Object.assign(this, { root, page, answer });
    Object.assign(this, { image: 0, view: "sample", hiding: true, painting: false, cursor: null, answers: 0,
      silent: false });
    this.images = page.images.map((image) => numbers(decoded(image), page));
    this.observed = new Uint8Array(page.height * page.width);
    this.cell = Math.max(4, Math.floor(448 / page.width)); // of the canvas, which the style sheet fits to the page
    this.#layOut();
    this.forget = followGround(root);
    this.preset("lower half");
  }

  // The elements

  #layOut() {
    this.root.textContent = "";
    this.root.classList.add("einet-inpaint-ready");
    this.#layOutImages();
    this.#layOutPanels();
    this.#layOutBrush();
    this.#buttons("Mask", Object.keys(PRESETS), (name) => this.preset(name));
    this.#layOutViews();
    this.message = element(this.root, "p", { class: "message", role: "alert" });
    this.numbers = element(this.root, "p", { class: "numbers" });
    this.spoken = element(this.root, "p", { class: "spoken", "aria-live": "polite" });
  }

  // A row of buttons below its name, which call act(text, number)
  #buttons(label, texts, act) {
    const group = element(this.root, "div", { class: "group", role: "group", "aria-label": label });
    element(group, "span", { class: "name", "aria-hidden": "true" }, label);
    const items = element(group, "div", { class: "items" });
    return texts.map((text, i) => {
      const button = element(items, "button", { type: "button" }, text);
      button.addEventListener("click", () => act(text, i));
      return button;
    });
  }

  #layOutImages() {
    this.thumbnails = this.#buttons("Image", this.images.map(() => ""), (_, i) => this.choose(i));
    this.thumbnails.forEach((button, i) => {
      button.className = "thumbnail";
      button.ariaLabel = this.page.labels[i];
      const canvas = element(button, "canvas", { "aria-hidden": "true" });
      drawPixels(canvas, this.page, coloursOf(this.images[i], this.page), 1);
    });
  }

  #layOutPanels() {
    const { height, width } = this.page, panels = element(this.root, "div", { class: "panels" });
    const panel = (caption, attributes) => {
      const figure = element(panels, "figure");
      this.caption = element(figure, "figcaption", {}, caption); // the last one's is changed
      return element(figure, "canvas", attributes);
    };
    this.editor = panel("paint here", {
      class: "editor", tabindex: "0", role: "application", "aria-roledescription": "mask editor",
      "aria-label": `Mask of ${height} by ${width} pixels. Arrow keys move the cursor, space paints, `
        + "shift with an arrow paints along.",
    });
    this.picture = panel("", { class: "answer", role: "img" });
    this.scale = element(this.picture.parentNode, "div", { class: "scale" });
    this.#listen();
  }

  #layOutBrush() {
    this.modes = this.#buttons("Brush", ["hide", "show"], (name) => this.setMode(name === "hide"));
    this.modes[0].ariaLabel = "hide pixels";
    this.modes[1].ariaLabel = "show pixels again";
    this.setMode(true);
    const { height } = this.page, value = Math.max(1, Math.round(height / 7));
    const label = element(this.modes[0].parentNode, "label", {}, "size ");
    this.brush = element(label, "input", { type: "range", min: 1, max: Math.ceil(height / 2), step: 1, value });
  }

  #layOutViews() {
    const names = Object.keys(VIEWS), again = "↻ draw again";
    const texts = [...names.map((view) => VIEWS[view].name), again];
    this.views = this.#buttons("Answer", texts, (_, i) => this.show(names[i] ?? "sample"));
    this.views.pop().classList.add("again");
  }

  // What the user does

  choose(image) {
    this.image = image;
    this.ask();
  }

  setMode(hiding) {
    this.hiding = hiding;
    press(this.modes, hiding ? 0 : 1);
  }

  preset(name) {
    this.#setMask((row, column) => !PRESETS[name](row, column, this.page.height, this.page.width));
  }

  show(view) {
    this.view = view;
    this.ask();
  }

  paint(places) {
    const reach = Number(this.brush.value) / 2;
    const isPainted = (...pixel) => places.some((to, i) => isOn(places[Math.max(i - 1, 0)], to, reach, ...pixel));
    this.#setMask((row, column, seen) => (isPainted(row, column) ? !this.hiding : seen));
  }

  #setMask(visible) {
    const { width } = this.page;
    this.observed = this.observed.map((seen, i) => visible(Math.floor(i / width), i % width, seen));
    this.ask();
  }

  #listen() {
    const along = (places) => {
      this.painting = true;
      this.cursor = null;
      this.paint(places);
    };
    const end = () => {
      this.painting = false;
      this.#speak();
    };
    listenToStrokes(this.editor, this.page, along, end);
    this.editor.addEventListener("keydown", (event) => this.#key(event));
    this.editor.addEventListener("blur", () => {
      this.cursor = null;
      this.#drawEditor();
    });
  }

  #key(event) {
    const arrow = ARROWS[event.key], { height, width } = this.page;
    if ((!arrow && event.key !== " ") || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const from = this.cursor ?? [Math.floor(height / 2), Math.floor(width / 2)];
    const [down, right] = (this.cursor && arrow) ?? [0, 0]; // the first key only shows the cursor
    const to = [clamp(from[0] + down, 0, height - 1), clamp(from[1] + right, 0, width - 1)];
    this.cursor = to;
    if (!arrow || event.shiftKey) this.paint([from, to].map(([row, column]) => [column + 0.5, row + 0.5]));
    else this.#drawEditor();
    this.spoken.textContent = `Row ${to[0] + 1}, column ${to[1] + 1}`;
  }

  // Questions and answers: one in flight, and of those that come meanwhile only the last

  ask() {
    this.#drawEditor();
    if (this.silent) this.#drawImage();
    const { image, images, observed, view } = this;
    this.waiting = { image, x: images[image], observed, view };
    if (!this.running) this.#run();
  }

  async #run() {
    this.running = true;
    while (this.waiting) {
      const question = this.waiting;
      this.waiting = null;
      try {
        const answer = await this.answer(question, this);
        if (!answer) continue;
        this.silent = false;
        this.answered = { ...question, ...answer };
        this.message.textContent = "";
        this.#drawAnswer();
      } catch (error) {
        this.silent = false;
        this.message.textContent = error.message;
      }
      this.root.dataset.answers = ++this.answers;
    }
    this.running = false;
    if (!this.painting && !this.cursor) this.#speak();
  }

  // No answer for a while: the images stand for it until one comes, however late
  fallSilent() {
    if (this.silent) return;
    this.silent = true;
    this.message.textContent = SILENT;
    this.#drawImage();
  }

  // Drawing

  #drawEditor() {
    const { cell, page: { width } } = this, style = getComputedStyle(this.root);
    const context = drawPixels(this.editor, this.page, coloursOf(this.images[this.image], this.page), cell);
    for (const [colour, size] of [["--cover", cell], ["--mark", Math.ceil(cell / 5)]]) {
      context.fillStyle = style.getPropertyValue(colour).trim() || "#888";
      const margin = (cell - size) / 2;
      this.observed.forEach((seen, i) => {
        const x = (i % width) * cell + margin, y = Math.floor(i / width) * cell + margin;
        if (!seen) context.fillRect(x, y, size, size);
      });
    }
    if (this.cursor) this.#drawCursor(context);
    press(this.thumbnails, this.image);
    press(this.views, Object.keys(VIEWS).indexOf(this.view));
  }

  #drawCursor(context) {
    const { cell, cursor: [row, column] } = this;
    for (const [strokeStyle, lineWidth] of [["#fff", 5], ["#000", 2]]) { // seen on any ground
      Object.assign(context, { strokeStyle, lineWidth });
      context.strokeRect(column * cell, row * cell, cell, cell);
    }
  }

  #drawImage() {
    const { page, image } = this;
    drawPixels(this.picture, page, coloursOf(this.images[image], page), this.cell);
    this.scale.style.visibility = "hidden";
    this.caption.textContent = "the image";
    this.picture.ariaLabel = `The image itself, ${page.labels[image]}`;
    this.numbers.textContent = "";
  }

  #drawAnswer() {
    const { page, answered: { values, view, image } } = this;
    const { colour, top } = view === "deviation" ? heatOf(values, page) : { colour: coloursOf(values, page) };
    drawPixels(this.picture, page, colour, this.cell);
    this.scale.style.visibility = top === undefined ? "hidden" : ""; // its place is kept: the buttons below stay
    this.scale.textContent = `black: 0, lightest: ${top?.toPrecision(2) ?? ""}`;
    this.caption.textContent = VIEWS[view].name;
    this.picture.ariaLabel = `The answer for ${page.labels[image]}: ${VIEWS[view].about}`;
    this.numbers.textContent = this.#summary();
  }

  #summary() {
    const { observed, logDensity, view, logCompleted, upperBound } = this.answered;
    const nats = (x) => `${x.toFixed(1).replace("-", "−")} nats`;
    const seen = `${total(observed)} of ${observed.length} pixels visible, log-density ${nats(logDensity)}.`;
    const limits = view === "explanation" ? ` of ${nats(logCompleted)}; none exceeds ${nats(upperBound)}` : "";
    return `${seen} Shown: ${VIEWS[view].about}${limits}.`;
  }

  #speak() {
    if (this.answered) this.spoken.textContent = this.#summary();
  }
}

function press(buttons, pressed) {
  buttons.forEach((button, i) => (button.ariaPressed = String(i === pressed)));
}

// Who answers: the engine, or a kernel

function engineAnswers(model) {
  const next = random(Date.now());
  let key = "", given = null;
  return async ({ image, x, observed, view }) => {
    await new Promise(requestAnimationFrame); // the stroke is drawn before the engine works
    const asked = `${image} ${observed}`;
    if (asked !== key) [key, given] = [asked, model.given(x, observed)];
    const { logDensity } = given;
    if (view === "sample") return { logDensity, values: given.sample(next) };
    if (view !== "explanation") return { logDensity, values: given.moments()[view] };
    const best = given.explanation();
    return { logDensity, values: best.x, logCompleted: best.logDensity, upperBound: best.upperBound };
  };
}

// However late: a busy kernel keeps the question. One that may have been lost is given up for a newer one.
function kernelAnswers(model) {
  let count = 0;
  return ({ image, observed, view }, widget) => new Promise((resolve, reject) => {
    const id = ++count, asked = Date.now();
    const finish = (settle, result) => {
      clearInterval(watch);
      model.off("msg:custom", listen);
      settle(result);
    };
    const listen = (content, buffers) => {
      if (content.id !== id) return;
      if (content.error) return finish(reject, new Error(content.error));
      const { buffer, byteOffset, byteLength } = buffers[0];
      finish(resolve, { ...content, values: numbers(new Uint8Array(buffer, byteOffset, byteLength), widget.page) });
    };
    const watch = setInterval(() => {
      widget.fallSilent();
      if (widget.waiting && Date.now() - asked > PATIENCE) finish(resolve, null);
    }, SILENCE);
    model.on("msg:custom", listen);
    model.send({ id, image, view }, undefined, [observed.buffer]);
  });
}

// JupyterLab shows "model not found" in a notebook that is opened again, unless the state of its widgets was saved, which is
// off by default. So the state of the inpainters that the notebook shows goes into it, in JupyterLab's own format.
function keepInNotebook(manager) {
  const notebook = manager?.context?.model, kind = "application/vnd.jupyter.widget-state+json";
  if (!notebook?.setMetadata || !manager.get_state_sync) return; // not JupyterLab
  const cells = JSON.stringify(notebook.toJSON().cells), saved = notebook.getMetadata("widgets")?.[kind]?.state ?? {};
  const now = manager.get_state_sync({ drop_defaults: true });
  const withLayouts = (all, isMeant) => Object.keys(all)
    .filter((id) => all[id].state?._anywidget_id?.endsWith(".InpaintWidget") && isMeant(id))
    .flatMap((id) => [id, String(all[id].state.layout).replace("IPY_MODEL_", "")]);
  const old = new Set(withLayouts(saved, () => true)), shown = new Set(withLayouts(now.state, (id) => cells.includes(id)));
  const of = (all, isMeant) => Object.entries(all).filter(([id]) => isMeant(id));
  const state = Object.fromEntries([...of(saved, (id) => !old.has(id)), ...of(now.state, (id) => shown.has(id))]);
  notebook.setMetadata("widgets", { [kind]: { ...now, state } });
}

function render({ model, el }) {
  const root = element(el, "div", { class: "einet-inpaint" });
  keepInNotebook(model.widget_manager);
  try {
    const widget = new Widget(root, model.get("page"), kernelAnswers(model));
    return () => widget.forget();
  } catch (error) {
    element(root, "p", { class: "message", role: "alert" }, `This widget cannot be shown: ${error.message}.`);
  }
}

// A page without a kernel: models come as classic scripts that hold base64, since a page from the disk may not fetch

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

export { start };
export default { render };
