// The figure of chapter 3 that answers: choose what was seen, then a sum, and read which products and weights made it.
// A classic script without dependencies, so that it also runs from file://. It fills every element of class "einsum-figure".
(() => {
  "use strict";
  const SEEN = ["yes", "no", "not seen"];
  const CHILDREN = [
    { name: "N", about: "coat", yes: [0.9, 0.2] },
    { name: "N′", about: "ice cream", yes: [0.1, 0.7] },
  ];
  const SUMS = [
    { name: "S₁", about: "one season for both", weights: [[0.5, 0], [0, 0.5]] },
    { name: "S₂", about: "each its own season", weights: [[0.25, 0.25], [0.25, 0.25]] },
    { name: "S₃", about: "mostly the same season", weights: [[0.4, 0.1], [0.1, 0.4]] },
  ];
  const SEASONS = ["winter", "summer"];
  const STYLE = `
    .einsum-figure { --ink: var(--pst-color-text-base, #333); border: 1px solid var(--pst-color-border, #ccc);
      border-radius: .4rem; padding: 1rem; margin: 1rem 0; }
    .einsum-figure fieldset { border: 0; padding: 0; margin: 0 0 .4rem; }
    .einsum-figure legend { float: left; width: 7em; padding: 0; font-size: 1em; margin: 0; }
    .einsum-figure label { margin-right: .9em; white-space: nowrap; }
    .einsum-figure .cells { display: grid; grid-template-columns: minmax(5.5em, 7em) 1fr 1fr; gap: 4px; margin: .8rem 0; }
    .einsum-figure .cells > div { border-radius: 4px; padding: .35em .2em; text-align: center; line-height: 1.3;
      font-variant-numeric: tabular-nums; }
    .einsum-figure .child { background: #1f7a6f; color: #fff; }
    .einsum-figure .product { background: #e9a03b; color: #1d1a12; }
    .einsum-figure .product.idle { background: color-mix(in srgb, #e9a03b 25%, transparent); color: var(--ink); }
    .einsum-figure small { display: block; font-size: .8em; }
    .einsum-figure .sums { display: flex; flex-wrap: wrap; gap: 6px; }
    .einsum-figure button { flex: 1 1 0; min-width: 5.5em; border: 2px solid var(--einet-sum, #4053c4); border-radius: 4px; padding: .35em; cursor: pointer;
      background: transparent; color: var(--ink); font: inherit; font-variant-numeric: tabular-nums; }
    .einsum-figure button[aria-pressed="true"] { background: #4053c4; color: #fff; }
    .einsum-figure output { display: block; margin-top: .8rem; min-height: 1.6em; font-variant-numeric: tabular-nums; }
    @media (max-width: 600px) { .einsum-figure output { min-height: 3.2em; } }`;

  const density = (child, seen) => child.yes.map((p) => [p, 1 - p, 1][seen]); // not seen: integrated out, which is 1
  const show = (x) => (Math.round(x * 1e4) / 1e4).toString();
  const make = (parent, tag, className = "", html = "") => {
    const element = parent.appendChild(document.createElement(tag));
    element.className = className;
    element.innerHTML = html;
    return element;
  };

  function build(root, id) {
    root.textContent = "";
    const seen = [0, 0];
    let chosen = 0;

    CHILDREN.forEach((child, side) => {
      const group = make(root, "fieldset");
      make(group, "legend", "", child.about);
      SEEN.forEach((word, value) => {
        const label = make(group, "label", "", `<input type="radio" name="einsum-${id}-${side}"> ${word}`);
        label.firstChild.checked = value === 0;
        label.firstChild.addEventListener("change", () => { seen[side] = value; draw(chosen); });
      });
    });
    const cells = make(root, "div", "cells");
    const sums = make(root, "div", "sums");
    sums.setAttribute("role", "group");
    sums.setAttribute("aria-label", "Choose a sum");
    const buttons = SUMS.map((_, k) => {
      const button = make(sums, "button");
      button.type = "button";
      button.addEventListener("click", () => draw((chosen = k)));
      for (const event of ["mouseenter", "focus"]) button.addEventListener(event, () => draw(k));
      for (const event of ["mouseleave", "blur"]) button.addEventListener(event, () => draw(chosen));
      return button;
    });
    const text = make(root, "output");

    function draw(k) {
      const [left, right] = CHILDREN.map((child, side) => density(child, seen[side]));
      const { weights, name } = SUMS[k];
      const head = (side, i, value) => `<div class="child"><small>${CHILDREN[side].about}, ${SEASONS[i]}</small>${show(value)}</div>`;
      cells.innerHTML = "<div></div>" + right.map((value, j) => head(1, j, value)).join("") +
        left.map((value, i) => head(0, i, value) + right.map((other, j) =>
          `<div class="product${weights[i][j] ? "" : " idle"}"><small>weight ${show(weights[i][j])} ×</small>${show(value * other)}</div>`
        ).join("")).join("");
      SUMS.forEach((sum, n) => {
        const total = left.reduce((s, a, i) => s + right.reduce((t, b, j) => t + sum.weights[i][j] * a * b, 0), 0);
        buttons[n].innerHTML = `${sum.name} = ${show(total)}<small>${sum.about}</small>`;
        buttons[n].setAttribute("aria-pressed", String(n === k));
        if (n === k) sum.total = total;
      });
      const terms = left.flatMap((a, i) => right.map((b, j) => [weights[i][j], a * b])).filter(([w]) => w);
      const line = `${name} = ${terms.map(([w, p]) => `${show(w)} · ${show(p)}`).join(" + ")} = ${show(SUMS[k].total)}`;
      if (text.textContent !== line) text.textContent = line;
    }
    draw(chosen);
  }

  einetFigure("einsum", STYLE, build);
})();
