// What all interactive figures share: a page has an element with the class "NAME-figure", which its script fills, and
// figures.css says what they look like. Loaded on every page before any of these scripts; classic, since a page from the
// disk may load no modules.
"use strict";

function einetFigure(name, build) {
  function start() {
    document.querySelectorAll(`.${name}-figure:not(.einet-figure)`).forEach((root, number) => {
      root.classList.add("einet-figure");
      build(root, number);
    });
  }
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", start) : start();
}
