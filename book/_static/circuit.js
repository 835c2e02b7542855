// The figure of chapter 1 that answers: click leaves to say what was seen, and watch one or two passes up the circuit.
// A classic script without dependencies, so that it also runs from file://. It fills every element of class "circuit-figure".
(() => {
  "use strict";
  const NAMES = ["coat", "ice", "boots", "hat"];
  const [YES, NO, UNSEEN] = [1, 0, null];
  const leaf = (x, variable, p) => ({ kind: "leaf", x, y: 292, scope: [variable], p });
  const product = (x, y, ...children) => ({ kind: "product", x, y, children, scope: children.flatMap((c) => c.scope) });
  const sum = (x, y, weights, ...children) => ({ kind: "sum", x, y, weights, children, scope: children[0].scope });

  const LEAVES = [[0, 0.9], [1, 0.1], [0, 0.2], [1, 0.7], [2, 0.8], [3, 0.1], [2, 0.1], [3, 0.5]].map(([d, p], i) => leaf(22.5 + 45 * i, d, p));
  const GIVEN = ["in winter", "in winter", "in summer", "in summer", "in rain", "in rain", "when dry", "when dry"];
  const PRODUCTS = [0, 1, 2, 3].map((k) => product(45 + 90 * k, 226, LEAVES[2 * k], LEAVES[2 * k + 1]));
  const SUMS = [[0.8, 0.2], [0.3, 0.7], [0.7, 0.3], [0.1, 0.9]].map((weights, k) => {
    const first = k < 2 ? 0 : 2;
    return sum(45 + 90 * k, 154, weights, PRODUCTS[first], PRODUCTS[first + 1]);
  });
  const TOWNS = [product(90, 88, SUMS[0], SUMS[2]), product(270, 88, SUMS[1], SUMS[3])];
  const ROOT = sum(180, 24, [0.5, 0.5], ...TOWNS);
  const NODES = [ROOT, ...TOWNS, ...SUMS, ...PRODUCTS, ...LEAVES];


  const show = (x) => (Math.round(x * 1e3) / 1e3).toString().replace(/^0\./, ".");
  const word = (d, value) => (value === NO ? `no ${NAMES[d]}` : NAMES[d]);

  function up(node, seen, values) { // one pass: the value of every node, children first
    if (values.has(node)) return values.get(node);
    let value;
    if (node.kind === "leaf") {
      const what = seen[node.scope[0]];
      value = what === UNSEEN ? 1 : what === YES ? node.p : 1 - node.p;
    } else {
      const below = node.children.map((child) => up(child, seen, values));
      value = node.kind === "product" ? below[0] * below[1] : node.weights[0] * below[0] + node.weights[1] * below[1];
    }
    values.set(node, value);
    return value;
  }

  function edges() {
    return NODES.flatMap((node) => (node.children || []).map((child, j) => {
      const line = `<path d="M${node.x} ${node.y}L${child.x} ${child.y}"/>`;
      if (node.kind !== "sum") return line;
      const steep = node.x === child.x, right = steep ? child === node.children[1] : child.x > node.x;
      const t = steep || node === ROOT ? 0.45 : 0.28, x = node.x + (child.x - node.x) * t + (right ? 9 : -9);
      return `${line}<text class="outside" x="${x}" y="${node.y + (child.y - node.y) * t + (steep ? 4 : -1)}">${show(node.weights[j])}</text>`;
    })).join("");
  }

  function drawn(node, value, state) {
    const cells = NAMES.map((_, d) =>
      `<rect class="cell${node.scope.includes(d) ? " in" : ""}" x="${node.x - 14 + 7.3 * d}" y="${node.y + 8}" width="6" height="5" rx="1"/>`).join("");
    const title = node.kind === "leaf" ? NAMES[node.scope[0]] : node.kind === "sum" ? "+" : "×";
    return `<g class="${node.kind} ${state.classes}" ${state.attributes}>` +
      `<rect class="box ${node.kind}" x="${node.x - 20.5}" y="${node.y - 18}" width="41" height="35" rx="${node.kind === "sum" ? 14 : 4}"/>` +
      `<text x="${node.x}" y="${node.y - 7}">${title}</text><text x="${node.x}" y="${node.y + 4.5}">${show(value)}</text>${cells}</g>`;
  }

  function build(root) {
    const seen = [UNSEEN, YES, YES, UNSEEN];
    let asked = 1, pass = 1;
    const options = NAMES.map((name, d) => `<option value="${d}"${d === asked ? " selected" : ""}>${name}</option>`).join("");
    root.innerHTML = `<div class="controls"><label>ask about <select>${options}</select></label>
      <span role="group" aria-label="Which pass is drawn"><button type="button">pass 1: all that was seen</button>
      <button type="button">pass 2: the evidence alone</button></span></div>
      <svg viewBox="0 0 360 332" role="group" aria-label="The circuit. Its leaves are buttons."></svg><output aria-live="polite"></output>`;
    const [select, svg, output] = ["select", "svg", "output"].map((s) => root.querySelector(s));
    const buttons = [...root.querySelectorAll("button")];

    function draw() {
      const evidence = seen.map((value, d) => (d === asked ? UNSEEN : value));
      const both = up(ROOT, seen, new Map()), alone = up(ROOT, evidence, new Map());
      const shown = pass === 1 ? seen : evidence, values = new Map();
      up(ROOT, shown, values);
      svg.innerHTML = edges() + NODES.map((node) => {
        const d = node.scope[0];
        if (node.kind !== "leaf") return drawn(node, values.get(node), { classes: "", attributes: "" });
        const says = seen[d] === UNSEEN ? "not seen" : seen[d] === YES ? "yes" : "no", i = LEAVES.indexOf(node);
        const label = `${NAMES[d]} ${GIVEN[i]}: ${says}, value ${show(values.get(node))}. Press to change.`;
        return drawn(node, values.get(node), {
          classes: `${shown[d] === UNSEEN ? "unseen" : ""} ${d === asked ? "asked" : ""}`,
          attributes: `role="button" tabindex="0" data-leaf="${i}" aria-label="${label}"`,
        }) + `<text class="outside" x="${node.x}" y="${node.y + 33}">${seen[d] === UNSEEN ? "–" : says}</text>`;
      }).join("");
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(pass === i + 1)));

      const list = (values) => values.map((value, d) => (value === UNSEEN ? "" : word(d, value))).filter(Boolean).join(", ");
      const given = list(evidence), query = word(asked, seen[asked]), P = (what) => (what ? `P(${what})` : "the whole mass");
      output.innerHTML = seen[asked] === UNSEEN
        ? `One pass: ${P(given)} = ${show(both)}.<br>To ask about ${NAMES[asked]}, click its leaves until they say yes or no.`
        : `Pass 1: ${P(list(seen))} = ${show(both)}.<br>Pass 2, with the leaves of ${NAMES[asked]} at 1: ${P(given)} = ${show(alone)}.<br>` +
          `The conditional: P(${query}${given ? ` | ${given}` : ""}) = ${show(both)} / ${show(alone)} = ${show(both / alone)}.`;
    }
    const turn = (target) => {
      const button = target.closest("[data-leaf]");
      if (!button) return;
      const { leaf: i } = button.dataset, d = LEAVES[i].scope[0];
      seen[d] = seen[d] === YES ? NO : seen[d] === NO ? UNSEEN : YES;
      draw();
      svg.querySelector(`[data-leaf="${i}"]`).focus();
    };
    svg.addEventListener("click", (event) => turn(event.target));
    svg.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      turn(event.target);
    });
    select.addEventListener("change", () => { asked = Number(select.value); draw(); });
    buttons.forEach((button, i) => button.addEventListener("click", () => { pass = i + 1; draw(); }));
    draw();
  }

  einetFigure("circuit", build);
})();
