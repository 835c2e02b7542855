// The widget: images, a mask that is painted over one of them, and what the model says about what it covers. `page` is what
// InpaintWidget knows, as in einet/inpaint/widget.py. `answer(question, widget)` promises {values, logDensity, ...} for a
// question {image, x, observed, view, noise}, or null where it gave way to a newer one: kernel.js and page.js have one each.

import { clamp } from "./tools.js";
import { decoded, numbers } from "./elements.js";
import { followGround } from "./ground.js";
import { coloursOf, drawPictures, drawPixels, heatOf } from "./colours.js";
import { centred, isOn, listenToStrokes } from "./painting.js";
import { blank, customOf, inked, shrunk, takeAway } from "./pictures.js";
import { isDraw, PRESETS, summary, viewOf } from "./views.js";
import { drawThumbnail, layOut, showState } from "./layout.js";

const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const MOST_STEPS = 200; // that can be undone
const NO_KERNEL = "No kernel answers. If yours is busy, the answer comes when it can; else run the cell again.";

class Widget {
  constructor(root, page, answer) {
    this.images = page.images.map((image) => numbers(decoded(image), page));
    Object.assign(this, { root, page, answer, own: this.images.length, custom: customOf(this.images, page) });
    Object.assign(this, { image: 0, view: "sample", mode: "hide", painting: false, cursor: null, answers: 0, silent: false });
    Object.assign(this, { past: [], future: [] }); // states of the mask and the user's image
    this.strokes = null; // of which the user's image consists, where it is a drawing
    this.observed = new Uint8Array(page.height * page.width);
    this.cell = Math.max(4, Math.floor(448 / page.width)); // of the canvas, which the style sheet fits to the page
    layOut(this);
    this.#listen();
    this.forget = followGround(root);
    this.#setMask((...pixel) => !PRESETS["lower half"](...pixel));
  }

  // What the user does

  choose(image) {
    if (image !== this.own) this.setMode(this.mode === "draw" ? "hide" : this.mode);
    this.image = image;
    this.ask();
  }

  setMode(mode) {
    const ends = this.mode === "draw" && mode !== "draw", drawing = ends && this.#centredDrawing();
    this.mode = mode;
    if (drawing) {
      this.#record();
      this.#showDrawing(drawing);
      this.ask();
    } else showState(this);
  }

  preset(name) {
    const drawing = this.mode === "draw" && this.#centredDrawing();
    this.#record();
    if (this.mode === "draw") this.mode = "hide";
    if (drawing) this.#showDrawing(drawing);
    this.#setMask((row, column, height, width, seen) => !PRESETS[name](row, column, height, width, seen));
  }

  show(view) {
    this.view = view;
    this.ask();
  }

  drawAgain() {
    this.show(isDraw(this.view) ? this.view : "sample");
  }

  paint(places) {
    const reach = Number(this.brush.value) / 2;
    const isPainted = (...pixel) => places.some((to, i) => isOn(places[Math.max(i - 1, 0)], to, reach, ...pixel));
    if (this.mode === "draw") this.#ink({ places, reach });
    else this.#setMask((row, column, _, __, seen) => (isPainted(row, column) ? this.mode === "show" : seen));
  }

  undo() {
    this.#step(this.past, this.future);
  }

  redo() {
    this.#step(this.future, this.past);
  }

  async open(file) {
    try {
      const picture = await createImageBitmap(file);
      this.#takeIn(shrunk(picture, this.custom, this.page), null);
    } catch {
      this.#say(`“${file.name}” is no picture that this browser can read.`);
    }
  }

  startDrawing() {
    this.mode = "draw";
    this.#takeIn(blank(this.custom, this.page), [], new Uint8Array(this.observed.length).fill(1));
  }

  async copy() {
    this.done.textContent = await takeAway([this.editor, this.picture]);
    setTimeout(() => (this.done.textContent = ""), 3000);
  }

  // An image of the user's own; images are never written to, so that what was said of one stays true of it
  #takeIn(x, strokes, observed = this.observed) {
    this.#record();
    [this.images[this.own], this.strokes, this.observed, this.image] = [x, strokes, observed, this.own];
    this.#showOwn();
    this.ask();
  }

  #ink(stroke) {
    this.strokes &&= [...this.strokes, stroke];
    this.images[this.own] = inked(this.images[this.own], [stroke], this.custom, this.page);
    this.#showOwn();
    this.ask();
  }

  // Once it is finished, a drawing lies as the widget's images do, where these are objects on a plain ground; null where
  // it already does
  #centredDrawing() {
    if (!this.strokes?.length || !this.custom.plain) return null;
    const moved = centred(this.strokes, this.page);
    const far = this.strokes.some(({ places: [[x, y]] }, i) =>
      Math.hypot(moved[i].places[0][0] - x, moved[i].places[0][1] - y) > 0.01);
    return far ? moved : null;
  }

  #showDrawing(strokes) {
    this.strokes = strokes;
    this.images[this.own] = inked(blank(this.custom, this.page), strokes, this.custom, this.page);
    this.#showOwn();
  }

  #showOwn() {
    const button = this.thumbnails[this.own];
    button.hidden = !this.images[this.own];
    if (!button.hidden) drawThumbnail(this, button, this.own);
  }

  #setMask(visible) {
    const { height, width } = this.page;
    this.observed = this.observed.map((seen, i) => visible(Math.floor(i / width), i % width, height, width, seen));
    this.ask();
  }

  // Steps back and forth

  #state() {
    return { observed: this.observed, own: this.images[this.own], strokes: this.strokes, image: this.image };
  }

  #record() {
    this.past = [...this.past, this.#state()].slice(-MOST_STEPS);
    this.future = [];
  }

  #step(from, to) {
    if (!from.length) return;
    to.push(this.#state());
    const { observed, own, strokes, image } = from.pop();
    Object.assign(this, { observed, strokes, image: own || image !== this.own ? image : 0 });
    this.images[this.own] = own;
    if (this.image !== this.own && this.mode === "draw") this.mode = "hide";
    this.#showOwn();
    this.ask();
  }

  // Mouse, pen, finger and keys

  #listen() {
    const along = (places) => {
      if (!this.painting) this.#record();
      this.painting = true;
      this.cursor = null;
      this.showBrush(places.at(-1));
      this.paint(places);
    };
    const end = () => {
      this.painting = false;
      this.#speak();
    };
    const over = (place) => this.showBrush(place);
    listenToStrokes(this.editor, this.page, along, end, over);
    this.editor.addEventListener("keydown", (event) => this.#key(event));
    this.editor.addEventListener("blur", () => {
      this.cursor = null;
      this.showBrush(null);
      this.#drawEditor();
    });
    this.root.addEventListener("keydown", (event) => this.#shortcut(event));
    this.root.addEventListener("dragover", (event) => event.preventDefault());
    this.root.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files.length) this.open(event.dataTransfer.files[0]);
    });
  }

  #shortcut(event) {
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase(), back = key === "z" && !event.shiftKey;
    if (!back && key !== "y" && key !== "z") return;
    event.preventDefault();
    event.stopPropagation();
    if (back) this.undo();
    else this.redo();
  }

  #key(event) {
    const arrow = ARROWS[event.key], { height, width } = this.page;
    if ((!arrow && event.key !== " ") || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const from = this.cursor ?? [Math.floor(height / 2), Math.floor(width / 2)];
    const [down, right] = (this.cursor && arrow) ?? [0, 0]; // the first key only shows the cursor
    const to = [clamp(from[0] + down, 0, height - 1), clamp(from[1] + right, 0, width - 1)];
    this.cursor = to;
    this.showBrush([to[1] + 0.5, to[0] + 0.5]);
    if (!arrow || event.shiftKey) {
      this.#record();
      this.paint([from, to].map(([row, column]) => [column + 0.5, row + 0.5]));
    } else this.#drawEditor();
    this.spoken.textContent = `Row ${to[0] + 1}, column ${to[1] + 1}`;
  }

  // A ring of the brush's size around a place, or in the middle for a while; null takes it away
  showBrush(place) {
    const { height, width } = this.page, [x, y] = place ?? [width / 2, height / 2];
    clearTimeout(this.hiding);
    this.ring.hidden = place === null;
    this.ring.style.cssText =
      `left: ${(100 * x) / width}%; top: ${(100 * y) / height}%; width: ${(100 * this.brush.value) / width}%`;
    if (place === undefined) this.hiding = setTimeout(() => (this.ring.hidden = true), 1500);
  }

  // Questions and answers: one in flight, and of those that come meanwhile only the last

  ask() {
    this.#drawEditor();
    if (this.silent) this.#drawImage();
    const { image, images, observed, view, noise } = this;
    this.waiting = { image, x: images[image], observed, view, noise: noise.checked };
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
        this.#say("");
        this.#drawAnswer();
      } catch (error) {
        this.silent = false;
        this.#say(error.message);
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
    this.#say(NO_KERNEL, "waiting");
    this.#drawImage();
  }

  #say(text, kind = "error") {
    this.message.textContent = text;
    this.message.dataset.kind = kind;
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
    showState(this);
  }

  #drawCursor(context) {
    const { cell, cursor: [row, column] } = this;
    for (const [strokeStyle, lineWidth] of [["#fff", 5], ["#000", 2]]) { // seen on any ground
      Object.assign(context, { strokeStyle, lineWidth });
      context.strokeRect(column * cell, row * cell, cell, cell);
    }
  }

  #nameOf(image) {
    return this.page.labels[image] ?? "your image";
  }

  #drawImage() {
    const { page, image } = this;
    drawPixels(this.picture, page, coloursOf(this.images[image], page), this.cell);
    this.scale.hidden = true;
    this.caption.textContent = "the image";
    this.picture.ariaLabel = `The image itself, ${this.#nameOf(image)}`;
    this.numbers.textContent = "";
  }

  #drawAnswer() {
    const { page, cell, answered } = this, { values, view, image, observed } = answered;
    const nothing = observed.every(Boolean), heat = view === "deviation" ? heatOf(values, page) : null;
    answered.largest = heat?.largest;
    const each = page.height * page.width * page.channels, count = values.length / each;
    const colours = heat ? [heat.colour] : Array.from({ length: count }, (_, n) =>
      coloursOf(values.subarray(n * each, (n + 1) * each), page));
    if (count === 1) drawPixels(this.picture, page, colours[0], cell);
    else drawPictures(this.picture, page, colours, Math.ceil(cell / 2), 3);
    this.scale.hidden = !heat;
    const kind = view === "kind" ? `: ${page.kinds[answered.kind]}` : "";
    this.caption.textContent = nothing && !heat ? "the image: nothing is hidden" : viewOf(view, page).name + kind;
    const about = nothing ? "the image itself, nothing is hidden" : viewOf(view, page).about;
    this.picture.ariaLabel = `The answer for ${this.#nameOf(image)}: ${about}`;
    this.numbers.textContent = summary(answered, page);
  }

  #speak() {
    if (this.answered) this.spoken.textContent = summary(this.answered, this.page);
  }
}

export { Widget };
