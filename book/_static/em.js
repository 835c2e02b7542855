// The figure of chapter 7 that answers: stochastic EM of a mixture of two bumps, in the page, for the chosen step size.
// A classic script, so that it also runs from file://. It fills every element of class "em-figure", with the inpainter's
// random numbers (einet/inpaint).
(() => {
  "use strict";
  const STEPS = 80, BATCH = 20;
  const LAMBDAS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1];
  const START = { w: [0.5, 0.5], first: [-1, 1], second: [2, 2] }; // weights, E[x], E[x^2] of each bump

  function data() {
    const next = globalThis.einetInpaint.random(7);
    const normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
    return Array.from({ length: 300 }, () => (next() < 0.3 ? -2 + 0.6 * normal() : 1.5 + normal()));
  }

  const parts = (model, x) => model.w.map((w, k) => {
    const variance = model.second[k] - model.first[k] ** 2;
    return (w * Math.exp(-((x - model.first[k]) ** 2) / (2 * variance))) / Math.sqrt(2 * Math.PI * variance);
  });
  const logLikelihood = (model, rows) => rows.reduce((sum, x) => sum + Math.log(parts(model, x)[0] + parts(model, x)[1]), 0) / rows.length;

  function step(model, rows, lambda) {
    const visits = [0, 0], first = [0, 0], second = [0, 0];
    for (const x of rows) {
      const p = parts(model, x), total = p[0] + p[1];
      p.forEach((part, k) => { const r = part / total; visits[k] += r; first[k] += r * x; second[k] += r * x * x; });
    }
    const move = (old, target) => old + lambda * (target - old);
    const result = { w: [], first: [], second: [] };
    for (const k of [0, 1]) {
      const used = visits[k] > 1e-9; // nobody came: stay
      result.w[k] = move(model.w[k], visits[k] / rows.length);
      result.first[k] = used ? move(model.first[k], first[k] / visits[k]) : model.first[k];
      const mean = result.first[k];
      result.second[k] = Math.max(used ? move(model.second[k], second[k] / visits[k]) : model.second[k], mean * mean + 0.01);
    }
    return result;
  }

  function train(rows, lambda, seed) { // lambda 0: full-batch EM
    const next = globalThis.einetInpaint.random(seed), models = [START];
    for (let t = 0; t < STEPS; t++) {
      const batch = lambda ? Array.from({ length: BATCH }, () => rows[Math.floor(next() * rows.length)]) : rows;
      models.push(step(models[t], batch, lambda || 1));
    }
    return { last: models[STEPS], values: models.map((model) => logLikelihood(model, rows)) };
  }

  const path = (kind, points) => `<path class="${kind}" d="M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}"/>`;

  function curves(full, own) {
    const low = -2.3, high = -1.8; // nats a point
    const place = (v, t) => [38 + (t * 262) / STEPS, 14 + (Math.min(1, (high - Math.max(v, low)) / (high - low))) * 176];
    const ticks = [-1.8, -1.9, -2.0, -2.1, -2.2, -2.3].map((v) => `<text x="34" y="${place(v, 0)[1] + 4}" text-anchor="end">${v.toFixed(1).replace("-", "−")}</text>`);
    const axis = `<path class="axis" d="M38 14V190H300"/>` + ticks.join("");
    return `<svg viewBox="0 0 310 228" role="img" aria-label="Log-likelihood of all points after each step">${axis}` +
      path("full", full.values.map(place)) + path("stochastic", own.values.map(place)) +
      `<text x="38" y="206" text-anchor="middle">0</text><text x="300" y="206" text-anchor="middle">${STEPS}</text>` +
      `<text x="169" y="222" text-anchor="middle">step (nats a point, all points)</text></svg>`;
  }

  function density(rows, own) {
    const place = (x, p) => [10 + ((x + 5) / 10) * 290, 190 - p * 500];
    const bars = [];
    for (let left = -5; left < 5; left += 0.5) {
      const share = rows.filter((x) => x >= left && x < left + 0.5).length / rows.length / 0.5;
      const [x, y] = place(left, share);
      bars.push(`<rect x="${x}" y="${y}" width="14" height="${190 - y}"/>`);
    }
    const xs = Array.from({ length: 201 }, (_, i) => -5 + i / 20);
    const clipped = (x, p) => place(x, Math.min(p, 0.36));
    const ticks = [-4, -2, 0, 2, 4].map((x) => `<text x="${place(x, 0)[0]}" y="206" text-anchor="middle">${String(x).replace("-", "−")}</text>`).join("");
    return `<svg viewBox="0 0 310 228" role="img" aria-label="Histogram of the points and the density after the last step">${bars.join("")}` +
      [0, 1].map((k) => path("bump", xs.map((x) => clipped(x, parts(own.last, x)[k])))).join("") +
      path("stochastic", xs.map((x) => { const p = parts(own.last, x); return clipped(x, p[0] + p[1]); })) +
      `<path class="axis" d="M10 190H300"/>${ticks}<text x="155" y="222" text-anchor="middle">after the last step</text></svg>`;
  }

  function build(root) {
    const rows = data(), full = train(rows, 0, 0);
    let seed = 2;
    root.innerHTML = `<label>step size λ <input type="range" min="0" max="${LAMBDAS.length - 1}" step="1" value="4"> <b></b></label>
      <div class="panels"></div><output aria-live="polite"></output><button type="button">other batches</button>`;
    const [slider, number, panels, output, button] = ["input", "b", ".panels", "output", "button"].map((s) => root.querySelector(s));
    function draw() {
      const lambda = LAMBDAS[slider.value], own = train(rows, lambda, seed);
      slider.setAttribute("aria-valuetext", `lambda ${lambda}`);
      number.textContent = `λ = ${lambda}`;
      panels.innerHTML = curves(full, own) + density(rows, own);
      const tail = own.values.slice(-20), mean = tail.reduce((a, b) => a + b, 0) / tail.length;
      output.textContent = `Batches of ${BATCH} out of ${rows.length} points. Blue: λ = ${lambda}; over its last 20 steps ${mean.toFixed(2).replace("-", "−")} nats a point ` +
        `on average. Dashed grey: full-batch EM, which ends at ${full.values[STEPS].toFixed(2).replace("-", "−")}.`;
    }
    slider.addEventListener("input", draw);
    button.addEventListener("click", () => { seed += 1; draw(); });
    draw();
  }

  einetFigure("em", build);
})();
