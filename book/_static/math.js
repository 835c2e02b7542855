// Browsers may break a line between an inline formula and the full stop after it. Keep the two together.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  for (const formula of document.querySelectorAll("span.math")) {
    const next = formula.nextSibling;
    const marks = next && next.nodeType === Node.TEXT_NODE && next.data.match(/^[.,;:?!)]+/);
    if (!marks) continue;
    const whole = document.createElement("span");
    whole.style.whiteSpace = "nowrap";
    formula.replaceWith(whole);
    whole.append(formula, marks[0]);
    next.data = next.data.slice(marks[0].length);
  }
});
