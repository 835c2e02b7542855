// What all interactive figures share: a page has an element with the class "NAME-figure", which its script fills.
// Loaded on every page before any of these scripts; classic, since a page from the disk may load no modules.
"use strict";

function einetFigure(name, style, build) {
  function start() {
    const roots = document.querySelectorAll(`.${name}-figure:not([data-ready])`);
    if (roots.length && !document.getElementById(`${name}-style`)) {
      const element = document.head.appendChild(document.createElement("style"));
      element.id = `${name}-style`;
      element.textContent = style;
    }
    roots.forEach((root, number) => { root.dataset.ready = ""; build(root, number); });
  }
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", start) : start();
}
