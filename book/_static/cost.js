// The part of chapter 11 that answers: what a network costs, from K, depth and R, by the formula fitted on the page.
// A classic script without dependencies, so that it also runs from file://. It fills every element of class "cost-figure".
(() => {
  "use strict";
  const D = 512, B = 100;
  const KNOBS = { "vector length K": [1, 40, 10], "depth": [1, 9, 4], "replicas R": [1, 40, 10] };

  function counts(K, depth, R) { // as counts() in race.py
    const inner = R * (2 ** depth - 2);
    return { einsums: (inner * K ** 3 + R * K ** 2) * B, leaves: 2 * D * R * K * B,
      vectors: R * (2 ** (depth + 1) - 1) * K * B, layers: depth + 1 };
  }
  const short = (x) => (x >= 100 ? Math.round(x).toLocaleString("en") : x.toPrecision(2));

  function build(root) {
    const cost = JSON.parse(root.dataset.cost);
    root.innerHTML = Object.entries(KNOBS).map(([name, [low, high, value]]) =>
      `<label><span>${name}</span><input type="range" min="${low}" max="${high}" step="1" value="${value}"><b></b></label>`).join("") +
      `<output aria-live="polite"></output>`;
    const inputs = [...root.querySelectorAll("input")], output = root.querySelector("output");
    function draw() {
      const c = counts(...inputs.map((input) => Number(input.value)));
      const of = (measure) => Object.entries(cost[measure]).reduce((sum, [name, x]) => sum + x * c[name], 0);
      inputs.forEach((input) => { input.nextElementSibling.textContent = input.value; });
      output.textContent = `An epoch of 2,000 rows: ${short(of("epoch_seconds"))} s. Memory above the model: ` +
        `${short(of("peak_bytes") / 1e6)} MB. Inference on 100 rows: ${short(of("inference_seconds") * 1e5)} ms.`;
    }
    inputs.forEach((input) => input.addEventListener("input", draw));
    draw();
  }

  einetFigure("cost", build);
})();
