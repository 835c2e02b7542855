// The figure of chapter 3 that answers: make densities small, and see three ways to compute log S in float32 survive or not.
// A classic script without dependencies, so that it also runs from file://. It fills every element of class "magnitude-figure".
(() => {
  "use strict";
  const NATS = [0, 1, 10, 20, 30, 40, 42, 44, 46, 48, 49, 50, 51, 52, 60, 80, 87, 100, 103, 104, 200, 500, 1000, 1e4, 1e5, 1e6];
  const N = [0.9, 0.2], M = [0.1, 0.7], W = 0.25; // coat, ice cream, and a sum with four equal weights
  const f = Math.fround; // every number below that passes through f is a float32

  const table = (n, m) => n.map((a) => m.map((b) => f(a * b)));
  const weigh = (cells) => cells.flat().reduce((total, cell) => f(total + f(W * cell)), 0);
  const WAYS = [
    { name: "plain", hint: "exp, einsum, log", run(logN, logM) {
      const [n, m] = [logN, logM].map((v) => v.map((x) => f(Math.exp(f(x)))));
      const S = weigh(table(n, m));
      return { n, m, S, scale: "", log: f(Math.log(S)) };
    } },
    { name: "log-einsum-exp", hint: "a and a′ taken out, logarithms in float32", run(logN, logM) {
      const logs = [logN, logM].map((v) => v.map(f)), [a, b] = logs.map((v) => Math.max(...v));
      const [n, m] = logs.map((v, side) => v.map((x) => f(Math.exp(f(x - [a, b][side])))));
      const S = weigh(table(n, m));
      return { n, m, S, scale: `a + a′ = ${show(Number(f(a + b).toFixed(4)))}`, log: f(f(a + b) + f(Math.log(S))) };
    } },
    { name: "einet", hint: "the same, scales in float64", run(logN, logM) {
      const [a, b] = [logN, logM].map((v) => Math.max(...v));
      const [n, m] = [logN, logM].map((v, side) => v.map((x) => f(Math.exp(f(x - [a, b][side])))));
      const S = weigh(table(n, m));
      return { n, m, S, scale: `a + a′ = ${show(Number((a + b).toFixed(4)))}`, log: a + b + Math.log(S) };
    } },
  ];

  const minus = (text) => text.replace(/-/g, "−");
  const show = (x) => {
    if (x === 0) return "0";
    if (!Number.isFinite(x)) return minus(x > 0 ? "∞" : "-∞");
    const size = Math.abs(x);
    return minus(size >= 0.001 && size < 1e8 ? String(Number(x.toPrecision(size < 1 ? 2 : 10))) : x.toExponential(0));
  };
  const cell = (kind, x) => `<div class="${x === 0 ? "lost" : kind}">${show(x)}</div>`;

  function card(way, logN, logM, exact) {
    const { n, m, S, scale, log } = way.run(logN, logM), cells = table(n, m), lost = !Number.isFinite(log);
    return `<div class="way"><strong>${way.name}</strong><small>${way.hint}</small><div class="cells"><div></div>${m.map((x) => cell("leaf", x)).join("")}` +
      n.map((x, i) => cell("leaf", x) + cells[i].map((y) => cell("product", y)).join("")).join("") +
      `</div><small>S = ${show(S)}<br>${scale || "&nbsp;"}</small><div class="result${lost ? " lost" : ""}">log S = ${show(Number(log.toFixed(4)))}</div>` +
      `<small>error ${lost ? "∞" : Math.abs(log - exact) < 1e-12 ? "0" : minus(Math.abs(log - exact).toExponential(0))} nats</small></div>`;
  }

  function build(root) {
    root.innerHTML = `<label><span>densities of e<sup>−m</sup></span> <input type="range" min="0" max="${NATS.length - 1}" step="1" value="13"> <b></b></label>
      <div class="ways"></div><output aria-live="polite"></output>`;
    const [slider, number, ways, output] = ["input", "b", ".ways", "output"].map((s) => root.querySelector(s));
    function draw() {
      const nats = NATS[slider.value], logN = N.map((x) => Math.log(x) - nats), logM = M.map((x) => Math.log(x) - nats);
      const exact = Math.log(0.22) - 2 * nats;
      slider.setAttribute("aria-valuetext", `${nats} nats`);
      number.textContent = `m = ${nats.toLocaleString("en")} nats`;
      ways.innerHTML = WAYS.map((way) => card(way, logN, logM, exact)).join("");
      const plain = WAYS[0].run(logN, logM), zero = [...plain.n, ...plain.m].every((x) => x === 0);
      const fate = zero ? "all four densities are 0 in float32" : plain.S === 0 ? "the densities still exist, their products do not"
        : Math.min(...table(plain.n, plain.m).flat()) < 1.1754943508222875e-38 ? "some products are so small that they lose digits" : "nothing is lost";
      output.textContent = `The right answer is log 0.22 − ${(2 * nats).toLocaleString("en")} = ${show(Number(exact.toFixed(4)))}. In the plain way, ${fate}.`;
    }
    slider.addEventListener("input", draw);
    draw();
  }

  einetFigure("magnitude", build);
})();
