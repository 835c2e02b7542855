// The elements of a widget, which say to it what the user does

import { element, press } from "./elements.js";
import { coloursOf, drawPixels, scaleTop } from "./colours.js";
import { PRESETS, viewOf, VIEWS } from "./views.js";

// Rows of elements below a name
function groupOf(root, label) {
  const group = element(root, "div", { class: "group", role: "group", "aria-label": label });
  element(group, "span", { class: "name", "aria-hidden": "true" }, label);
  return element(group, "div", { class: "items" });
}

function buttonOf(items, text, act, attributes = {}) {
  const button = element(items, "button", { type: "button", ...attributes }, text);
  button.addEventListener("click", act);
  return button;
}

function layOutImages(widget) {
  const items = groupOf(widget.root, "Image");
  const thumbnail = (label, i) => buttonOf(items, "", () => widget.choose(i), { class: "thumbnail", "aria-label": label });
  widget.thumbnails = widget.page.labels.map(thumbnail);
  widget.thumbnails.forEach((button, i) => drawThumbnail(widget, button, i));
  const own = thumbnail("yours", widget.own);
  own.hidden = true; // until there is one
  widget.thumbnails.push(own);
  const file = element(items, "input", { type: "file", accept: "image/*", hidden: "", "aria-label": "a picture" });
  file.addEventListener("change", () => {
    if (file.files.length) widget.open(file.files[0]);
    file.value = ""; // the same file may be chosen again
  });
  buttonOf(items, "open a picture…", () => file.click(), { class: "other" });
  buttonOf(items, "draw one", () => widget.startDrawing(), { class: "other" });
}

function drawThumbnail({ images, page }, button, i) {
  const canvas = button.querySelector("canvas") ?? element(button, "canvas", { "aria-hidden": "true" });
  drawPixels(canvas, page, coloursOf(images[i], page), 1);
}

// A picture below its title
function panelOf(panels, title, { height, width }, attributes) {
  const figure = element(panels, "figure"), caption = element(figure, "figcaption");
  const name = element(caption, "span", { class: "title" }, title), stage = element(figure, "div", { class: "stage" });
  const canvas = element(stage, "canvas", { style: `aspect-ratio: ${width} / ${height}`, ...attributes });
  return { canvas, caption, name, stage };
}

function layOutPanels(widget) {
  const { page, root } = widget, panels = element(root, "div", { class: "panels" });
  const left = panelOf(panels, "paint here", page, {
    class: "editor", tabindex: "0", role: "application", "aria-roledescription": "mask editor",
    "aria-label": `Mask of ${page.height} by ${page.width} pixels. Arrow keys move the cursor, space paints, `
      + "shift with an arrow paints along, control with Z undoes.",
  });
  const right = panelOf(panels, "", page, { class: "answer", role: "img" });
  [widget.editor, widget.picture, widget.caption] = [left.canvas, right.canvas, right.name];
  widget.ring = element(left.stage, "div", { class: "ring", "aria-hidden": "true", hidden: "" });
  widget.scale = element(right.caption, "span", { class: "scale", hidden: "" });
  element(widget.scale, "span", {}, "0");
  element(widget.scale, "i");
  element(widget.scale, "span", {}, String(Number(scaleTop(page).toPrecision(3))));
}

const MODES = { hide: "hide pixels", show: "show pixels again" };

function layOutBrush(widget) {
  const items = groupOf(widget.root, "Brush"), { height } = widget.page, value = Math.max(1, Math.round(height / 7));
  const modes = Object.entries(MODES).map(([text, label]) =>
    buttonOf(items, text, () => widget.setMode(text), { "aria-label": label }));
  const draw = buttonOf(items, "draw", () => widget.setMode("draw"), { "aria-label": "draw on your image", hidden: "" });
  widget.modes = { hide: modes[0], show: modes[1], draw };
  const label = element(items, "label", {}, "size ");
  widget.brush = element(label, "input", { type: "range", min: 1, max: Math.ceil(height / 2), step: 1, value });
  const size = element(label, "output", {}, String(value));
  widget.brush.addEventListener("input", () => {
    size.textContent = widget.brush.value;
    widget.showBrush();
  });
}

function layOutMask(widget) {
  const items = groupOf(widget.root, "Mask");
  for (const name of Object.keys(PRESETS)) buttonOf(items, name, () => widget.preset(name));
  widget.steps = {
    back: buttonOf(items, "↶ undo", () => widget.undo(), { "aria-keyshortcuts": "Control+Z" }),
    again: buttonOf(items, "↷ redo", () => widget.redo(), { "aria-keyshortcuts": "Control+Shift+Z Control+Y" }),
  };
}

function layOutAnswers(widget) {
  const items = groupOf(widget.root, "Answer");
  const views = Object.keys(VIEWS).filter((view) => view !== "kind" || widget.page.kinds?.length);
  widget.views = Object.fromEntries(views.map((view) =>
    [view, buttonOf(items, viewOf(view, widget.page).name, () => widget.show(view))]));
  const more = groupOf(widget.root, "Draws");
  buttonOf(more, "↻ draw again", () => widget.drawAgain(), { class: "again" });
  const label = element(more, "label", { class: "tick" });
  widget.noise = element(label, "input", { type: "checkbox" });
  label.append(" noise of the leaves");
  widget.noise.addEventListener("change", () => widget.drawAgain());
  buttonOf(more, "copy as PNG", () => widget.copy());
  widget.done = element(more, "span", { class: "done", role: "status" });
}

function layOut(widget) {
  const { root } = widget;
  root.textContent = "";
  root.classList.add("einet-inpaint-ready");
  root.dataset.lmSuppressShortcuts = "true"; // in JupyterLab keys are the widget's while it has the focus
  for (const part of [layOutImages, layOutPanels, layOutBrush, layOutMask, layOutAnswers]) part(widget);
  widget.message = element(root, "p", { class: "message", role: "alert" });
  widget.numbers = element(root, "p", { class: "numbers" });
  widget.spoken = element(root, "p", { class: "spoken", "aria-live": "polite" });
}

// Which buttons are pressed, and which have nothing to do
function showState({ thumbnails, image, views, view, modes, mode, own, steps, past, future }) {
  press(thumbnails, image);
  press(Object.values(views), Object.keys(views).indexOf(view));
  press(Object.values(modes), Object.keys(modes).indexOf(mode));
  modes.draw.hidden = image !== own;
  steps.back.ariaDisabled = String(!past.length);
  steps.again.ariaDisabled = String(!future.length);
}

export { drawThumbnail, layOut, showState };
