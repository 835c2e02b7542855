// A solution is one thing to open: the code that stands below its text in the notebook is moved into the text's fold.
// Without this script both are there, each in a fold of its own.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const isCode = (element) => element.classList.contains("tag_solution");
  for (const fold of document.querySelectorAll(".bd-article details.sd-dropdown")) {
    const own = []; // what follows, up to the last cell of code before something else begins
    for (let next = fold.nextElementSibling; next; next = next.nextElementSibling) {
      if (next.matches("details.sd-dropdown, .admonition, section")) break;
      own.push(next);
    }
    while (own.length && !isCode(own.at(-1))) own.pop();
    if (!own.length) continue;
    const body = document.createElement("div");
    body.className = "solution-code";
    fold.append(body);
    body.append(...own);
    body.querySelectorAll("details.hide").forEach((inner) => { inner.open = true; }); // book.css hides their summaries
  }
});
