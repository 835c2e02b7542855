// Ink that can be read on any page: the page's own where it contrasts with what lies below, or else black or white

import { element } from "./elements.js";

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

export { followGround };
