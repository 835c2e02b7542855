// What there is to ask and to hide, and how answers read

import { total } from "./tools.js";

const VIEWS = {
  sample: { name: "sample", about: "drawn from the exact conditional distribution" },
  samples: { name: "six samples", about: "six draws from the exact conditional distribution" },
  mean: { name: "mean", about: "the exact conditional mean" },
  deviation: { name: "standard deviation", about: "the exact conditional standard deviation" },
  kind: { name: "most probable kind", about: "the exact conditional mean within the most probable kind" },
  explanation: { name: "most probable", about: "the most probable completion that was found, an approximation" },
  truth: { name: "the truth", about: "what was hidden" },
};
// Of real numbers no completion has a probability, and the densest is not what to expect.
const DENSEST = { name: "highest density", about: "the completion of the highest density that was found, an approximation" };
const viewOf = (view, { whole }) => (view === "explanation" && !whole ? DENSEST : VIEWS[view]);
const WARNING = " A density is highest where its bells are narrow, not where most of its mass is. "
  + "So whatever may be plain ground is shown as ground, and things get holes.";

const PRESETS = {
  "left half": (row, column, height, width) => column < width / 2,
  "right half": (row, column, height, width) => column >= width / 2,
  "upper half": (row, column, height) => row < height / 2,
  "lower half": (row, column, height) => row >= height / 2,
  "every other pixel": (row, column) => (row + column) % 2 === 0,
  "hide all": () => true,
  invert: (row, column, height, width, seen) => seen,
  clear: () => false,
};

const nats = (x) => `${x.toFixed(1).replace("-", "−")} nats`;
const isDraw = (view) => view === "sample" || view === "samples";

const MORE = {
  deviation: ({ largest }) => `; the largest is ${largest.toPrecision(2)}`,
  explanation: ({ logCompleted, upperBound }) => `, of ${nats(logCompleted)}; none exceeds ${nats(upperBound)}`,
  kind: ({ kind, probability }, { kinds }) => `, ${kinds[kind]}, whose probability is ${(100 * probability).toFixed(0)} %`,
  truth: ({ logCompleted, logDensity }) =>
    `: all of the image has ${nats(logCompleted)}, the hidden part, given the rest, ${nats(logCompleted - logDensity)}`,
};

// An answer in words: what was visible, and what is shown
function summary(answer, page) {
  const { observed, logDensity, view, noise } = answer, visible = total(observed);
  const seen = `${visible} of ${observed.length} pixels visible, log-density ${nats(logDensity)}. `;
  if (visible === observed.length) return `${seen}Nothing is hidden: this is the image itself.`;
  const quiet = isDraw(view) && !noise ? ", without the noise of the leaves" : "";
  const warning = view === "explanation" && !page.whole ? WARNING : "";
  return `${seen}Shown: ${viewOf(view, page).about}${quiet}${MORE[view]?.(answer, page) ?? ""}.${warning}`;
}

export { isDraw, PRESETS, summary, viewOf, VIEWS };
