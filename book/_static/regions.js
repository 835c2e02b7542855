// The figure of chapter 12 that answers: an image that a model drew, and the regions of its circuit. Press a region, and
// its pixels are drawn anew given all others, by the engine of the inpainter (einet/inpaint), and shown by its means. A classic
// script, so that it also runs from file://. It fills every element of class "regions-figure", and leaves the last region's rows
// and the log-density of what was kept in data attributes, which tests/book/test_browser.py looks at.
(() => {
  "use strict";
  const MODEL = "house-numbers", BANDS = 4;
  // All runs of neighbouring bands, from first to last, and the column in which a run is drawn: runs in a column do not overlap.
  const RUNS = [
    [0, 0, 1], [1, 1, 1], [2, 2, 1], [3, 3, 1], [0, 1, 2], [2, 3, 2], [1, 2, 3], [0, 2, 4], [1, 3, 5], [0, 3, 6],
  ];

  function live(root, model) {
    const { random, drawPixels, coloursOf } = globalThis.einetInpaint;
    const rows = model.height / BANDS, length = model.height * model.width;
    root.innerHTML = `<div class="stage"><div class="picture"><canvas width="${model.width}" height="${model.height}" role="img"
      aria-label="A house number that the model drew"></canvas><div class="frame" hidden></div></div>
      <div class="regions" role="group" aria-label="Regions: press one to draw it anew">` + RUNS.map(([first, last, column]) =>
      `<button type="button" class="${first === last ? "leaf" : "sum"}" style="grid-area: ${first + 1} / ${column} / ${last + 2} / ${column + 1}"
        data-first="${first}" data-last="${last}" title="rows ${first * rows + 1} to ${(last + 1) * rows}"
        aria-label="draw rows ${first * rows + 1} to ${(last + 1) * rows} anew"></button>`).join("") +
      `</div></div><label><input type="checkbox" checked> without the noise of the leaves</label><output aria-live="polite"></output>`;
    const [canvas, frame, quiet, output] = ["canvas", ".frame", "input", "output"].map((s) => root.querySelector(s));
    let seed = 4, drawn = new Float64Array(length * model.channels), modes = drawn;

    function show() {
      drawPixels(canvas, model, coloursOf(quiet.checked ? modes : drawn, model), 1);
    }

    // What is kept is evidence as it was drawn, with its noise, whatever is shown.
    function redraw(first, last) {
      const from = first * rows, to = (last + 1) * rows;
      const observed = Array.from({ length }, (_, pixel) => pixel < from * model.width || pixel >= to * model.width);
      const given = model.given(drawn, observed), kept = modes;
      seed += 1;
      modes = given.sample(random(seed), false).map((value, i) => (observed[Math.floor(i / model.channels)] ? kept[i] : value));
      drawn = given.sample(random(seed));
      frame.hidden = false;
      frame.style.top = `${(100 * first) / BANDS}%`;
      frame.style.height = `${(100 * (last + 1 - first)) / BANDS}%`;
      Object.assign(root.dataset, { rows: `${from}-${to}`, logDensity: given.logDensity });
      show();
      output.textContent = from === 0 && to === model.height ? "All of it is new: a sample of the model."
        : `Rows ${from + 1} to ${to} are new. The rest, which was kept, has a log-density of ${given.logDensity.toFixed(0)} nats.`;
    }

    root.addEventListener("click", ({ target }) => {
      if (target.dataset.first) redraw(Number(target.dataset.first), Number(target.dataset.last));
    });
    quiet.addEventListener("change", show);
    redraw(0, BANDS - 1);
  }

  async function build(root) {
    root.textContent = "The model is being loaded.";
    try {
      live(root, await globalThis.einetInpaint.loadModel(globalThis.einetFiles[MODEL]));
    } catch (error) {
      root.textContent = `The model “${MODEL}” could not be read: ${error.message}. Build the book anew.`;
    }
  }

  einetFigure("regions", build);
})();
