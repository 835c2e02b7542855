// The figure of chapter 5 that answers: a grid and a distance of cuts give the regions, partitions and parameters of a
// Poon-Domingos structure. A classic script without dependencies, so that it also runs from file://. It fills every element
// of class "structures-figure", and leaves its numbers in data attributes, which tests/book/test_browser.py compares with
// einet.
(() => {
  "use strict";

  const CONTROLS = [["height", "height", 1, 64, 28], ["width", "width", 1, 64, 28], ["delta", "Δ", 1, 32, 7], ["K", "K", 1, 40, 10]];

  // Cells along each side, and from them everything: a rectangle of a x b cells stands at (n - a + 1)(m - b + 1) places and
  // has a + b - 2 partitions, each with K * K weights for every entry of the rectangle, and one more where there are several.
  function sizes({ height, width, delta, K, both }) {
    const n = Math.ceil(height / delta), m = both ? Math.ceil(width / delta) : 1;
    let regions = 0, partitions = 0, weights = 0;
    for (let a = 1; a <= n; a++) {
      for (let b = 1; b <= m; b++) {
        const places = (n - a + 1) * (m - b + 1), cuts = a + b - 2, length = a === n && b === m ? 1 : K;
        regions += places;
        partitions += places * cuts;
        weights += places * cuts * length * (K * K + (cuts > 1 ? 1 : 0));
      }
    }
    return { n, m, regions, leaves: n * m, partitions, parameters: weights + height * width * K };
  }

  function picture({ height, width, delta, both }) {
    const size = Math.max(height, width), thin = size / 400, lines = [], cuts = [];
    for (let i = 1; i < height; i++) (i % delta ? lines : cuts).push(`M0 ${i}H${width}`);
    for (let j = 1; j < width; j++) (j % delta || !both ? lines : cuts).push(`M${j} 0V${height}`);
    return `<svg viewBox="${(width - size) / 2 - 2 * thin} ${(height - size) / 2 - 2 * thin} ${size + 4 * thin} ${size + 4 * thin}" role="img" ` +
      `aria-label="The pixels; orange lines are the possible cuts, the green rectangle is a leaf">` +
      `<rect class="page" width="${width}" height="${height}"/>` +
      `<rect class="cell" width="${both ? Math.min(delta, width) : width}" height="${Math.min(delta, height)}"/>` +
      `<path class="pixels" stroke-width="${thin}" d="${lines.join("")}"/><path class="cuts" stroke-width="${5 * thin}" d="${cuts.join("")}"/></svg>`;
  }

  function build(root, id) {
    root.innerHTML = `<div class="columns"><div class="controls">` + CONTROLS.map(([key, name, low, high, value]) =>
      `<label><span>${name}</span><input type="range" name="${key}" min="${low}" max="${high}" value="${value}"><b></b></label>`).join("") +
      `<fieldset><label><input type="radio" name="axes-${id}" value="both" checked> cut rows and columns</label>
      <label><input type="radio" name="axes-${id}" value="rows"> rows only</label></fieldset>
      <table><tbody></tbody></table></div><div class="drawing"></div></div><output aria-live="polite"></output>`;
    const [table, drawing, output] = ["tbody", ".drawing", "output"].map((s) => root.querySelector(s));
    const sliders = CONTROLS.map(([key]) => root.querySelector(`input[name="${key}"]`));

    function draw() {
      const chosen = { both: root.querySelector('[value="both"]').checked };
      sliders.forEach((slider) => {
        chosen[slider.name] = Number(slider.value);
        slider.nextElementSibling.textContent = slider.value;
      });
      const { n, m, ...counts } = sizes(chosen), nothing = counts.partitions === 0;
      const names = { regions: "regions", leaves: "of them leaves", partitions: "partitions", parameters: "parameters" };
      table.innerHTML = Object.entries(names).map(([key, name]) => `<tr><td>${name}</td><td>${counts[key].toLocaleString("en")}</td></tr>`).join("");
      for (const key in names) root.dataset[key] = counts[key];
      drawing.innerHTML = picture(chosen);
      const megabytes = (counts.parameters * 4) / 1e6;
      output.textContent = nothing ? "No cut lies inside: einet.poon_domingos refuses this Δ."
        : `${n} × ${m} ${n * m === 1 ? "cell" : "cells"}. Parameters with Bernoulli leaves: ` +
          `${megabytes < 0.1 ? `${(megabytes * 1000).toPrecision(2)} kB` : `${megabytes.toLocaleString("en", { maximumSignificantDigits: 3 })} MB`} in float32.`;
    }
    root.addEventListener("input", draw);
    draw();
  }

  einetFigure("structures", build);
})();
