// The figure of chapter 6 that answers: drag the expected statistics of a normal leaf, see its density, and let EM move them.
// A classic script without dependencies, so that it also runs from file://. It fills every element of class "leaves-figure".
(() => {
  "use strict";
  const X = [-2, -1, 1, 2], P = [0.1, 0.3, 0.9, 0.7]; // what was seen, and the leaf's share of it
  const START = [-1, 1.5], LEAST = 0.05; // E[x] and E[x^2]; the smallest variance
  const TOTAL = P.reduce((a, b) => a + b, 0);
  const mean = (f) => X.reduce((sum, x, i) => sum + P[i] * f(x), 0) / TOTAL;
  const TARGET = [mean((x) => x), mean((x) => x * x)];

  const number = (value) => (Math.round(value * 100) / 100).toFixed(2).replace("-", "−");
  const path = (kind, points) => `<path class="${kind}" d="M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}"/>`;
  const plane = (a, b) => [155 + a * 56, 206 - b * 38]; // E[x] from -2.5 to 2.5, E[x^2] from 0 to 5
  const line = (x, p) => [155 + x * 40, 206 - p * 250]; // x from -3.5 to 3.5
  const normal = (x, [a, b]) => Math.exp((-0.5 * (x - a) ** 2) / (b - a * a)) / Math.sqrt(2 * Math.PI * (b - a * a));
  const inside = ([a, b]) => {
    const first = Math.max(-2.15, Math.min(2.15, a));
    return [first, Math.max(first * first + LEAST, Math.min(5, b))];
  };

  function drawPlane(phi) {
    const curve = Array.from({ length: 90 }, (_, i) => -2.225 + i * 0.05).map((a) => plane(a, a * a));
    const dots = X.map((x, i) => { const [u, v] = plane(x, x * x); return `<circle class="seen" cx="${u}" cy="${v}" r="${(10 * Math.sqrt(P[i])).toFixed(1)}"/>`; });
    const at = plane(...phi), foot = plane(phi[0], phi[0] ** 2), to = plane(...TARGET);
    const ticks = [-2, -1, 0, 1, 2].map((a) => `<text x="${plane(a, 0)[0]}" y="222" text-anchor="middle">${String(a).replace("-", "−")}</text>`)
      .concat([1, 2, 3, 4, 5].map((b) => `<text x="10" y="${plane(0, b)[1] + 4}">${b}</text>`));
    return path("axis", [[22, 16], [22, 206], [300, 206]]) + ticks.join("") + `<text x="26" y="12">E[x²]</text><text x="306" y="199" text-anchor="end">E[x]</text>` +
      path("edge", curve) + path("way", [at, to]) + path("spread", [foot, at]) + dots.join("") +
      `<circle class="target" cx="${to[0]}" cy="${to[1]}" r="8"/><circle class="phi" cx="${at[0]}" cy="${at[1]}" r="7"/>`;
  }

  function drawDensity(phi) {
    const xs = Array.from({ length: 281 }, (_, i) => -3.5 + i / 40);
    const bars = X.map((x, i) => `<rect class="seen" x="${line(x, 0)[0] - 4}" y="${206 - 60 * P[i]}" width="8" height="${60 * P[i]}"/>`);
    const ticks = [-3, -2, -1, 0, 1, 2, 3].map((x) => `<text x="${line(x, 0)[0]}" y="222" text-anchor="middle">${String(x).replace("-", "−")}</text>`);
    return bars.join("") + path("density", xs.map((x) => line(x, Math.min(normal(x, phi), 0.78)))) + path("axis", [[10, 206], [300, 206]]) + ticks.join("") +
      `<text x="10" y="12">density of x</text>`;
  }

  function build(root) {
    root.innerHTML = `<div class="panels">
        <svg class="plane" viewBox="0 0 310 228" role="img" aria-label="The plane of expected statistics, with a parabola of single values below the leaf"></svg>
        <svg viewBox="0 0 310 228" role="img" aria-label="The density of the leaf; bars are the shares of what was seen"></svg></div>
      <div class="controls"><label><span></span><input type="range" min="-2.15" max="2.15" step="0.05" aria-label="E[x]"></label>
      <label><span></span><input type="range" min="0.05" max="5" step="0.05" aria-label="E[x squared]"></label>
      <label><span></span><input type="range" min="0.1" max="1" step="0.1" value="0.5" aria-label="lambda"></label>
      <button type="button">EM step</button><button type="button">start again</button></div><output aria-live="polite"></output>`;
    const [left, right] = root.querySelectorAll("svg"), [first, second, rate] = root.querySelectorAll("input"), names = root.querySelectorAll("label span");
    const [step, again] = root.querySelectorAll("button"), output = root.querySelector("output");
    let phi = START;

    function draw(next) {
      phi = inside(next);
      left.innerHTML = drawPlane(phi);
      right.innerHTML = drawDensity(phi);
      [first.value, second.value] = phi;
      ["E[x]", "E[x²]", "λ"].forEach((name, i) => { names[i].textContent = `${name} = ${i < 2 ? number(phi[i]) : rate.value}`; });
      const nats = (at) => mean((x) => Math.log(normal(x, at)));
      output.textContent = `Mean ${number(phi[0])}, variance ${number(phi[1])} − (${number(phi[0])})² = ${number(phi[1] - phi[0] ** 2)}. Log-density of what was seen, ` +
        `averaged by shares: ${number(nats(phi))} nats. At the target ring: ${number(nats(TARGET))}.`;
    }
    const drag = (event) => {
      const box = left.getBoundingClientRect(), scale = 310 / box.width;
      draw([((event.clientX - box.left) * scale - 155) / 56, (206 - (event.clientY - box.top) * scale) / 38]);
    };
    left.addEventListener("pointerdown", (event) => { left.setPointerCapture(event.pointerId); drag(event); });
    left.addEventListener("pointermove", (event) => { if (left.hasPointerCapture(event.pointerId)) drag(event); });
    for (const slider of [first, second]) slider.addEventListener("input", () => draw([Number(first.value), Number(second.value)]));
    rate.addEventListener("input", () => draw(phi));
    step.addEventListener("click", () => draw(phi.map((old, i) => old + rate.value * (TARGET[i] - old))));
    again.addEventListener("click", () => draw(START));
    draw(START);
  }

  einetFigure("leaves", build);
})();
