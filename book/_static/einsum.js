// The figure of chapter 2 that answers: choose what was seen, then a sum, and read which products and weights made it.
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

  einetFigure("einsum", build);
})();
