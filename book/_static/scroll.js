// Boxes that scroll sideways fade out on the side where there is more, so that nobody takes a cut for an end. The fade
// is book.css's; here is only which sides have more.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const slack = 2; // px, by which a box may be too wide without anything being hidden
  const mark = (box) => {
    const hidden = box.scrollWidth - box.clientWidth;
    const left = box.scrollLeft > slack, right = box.scrollLeft < hidden - slack;
    box.dataset.more = hidden <= slack ? "" : left && right ? "both" : left ? "left" : "right";
  };
  const resized = new ResizeObserver((entries) => entries.forEach((entry) => mark(entry.target)));
  const watch = () => {
    for (const box of document.querySelectorAll(".bd-article :is(table, pre, div.math, .scroll):not([data-more])")) {
      box.addEventListener("scroll", () => mark(box), { passive: true });
      resized.observe(box);
      for (const child of box.children) resized.observe(child);
      mark(box);
    }
  };
  watch();
  window.addEventListener("load", watch); // figures have filled themselves by then
  // A formula has its width only when MathJax has set it.
  window.MathJax?.startup?.promise?.then(() => document.querySelectorAll("div.math").forEach(mark));
});
