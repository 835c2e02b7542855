// Painting: places are (x, y), measured in pixels

import { clamp } from "./tools.js";

// A mouse, a pen or a finger: along(places) for each piece of a stroke, then end(); over(place) without a stroke, and
// over(null) when it leaves
function listenToStrokes(canvas, { height, width }, along, end, over) {
  let stroke = null;
  const place = ({ clientX, clientY }) => {
    const box = canvas.getBoundingClientRect();
    return [((clientX - box.left) / box.width) * width, ((clientY - box.top) / box.height) * height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    stroke = { pointer: event.pointerId, at: place(event) };
    along([stroke.at]);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!stroke) over(place(event));
    if (stroke?.pointer !== event.pointerId) return;
    const moves = event.getCoalescedEvents?.() ?? []; // some browsers have none
    const places = [stroke.at, ...(moves.length ? moves : [event]).map(place)];
    stroke.at = places.at(-1);
    along(places);
  });
  canvas.addEventListener("pointerleave", () => over(null));
  for (const kind of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(kind, (event) => {
      if (stroke?.pointer !== event.pointerId) return;
      stroke = null;
      end();
    });
  }
}

// Whether a pixel's centre is within reach of a line, or the line ends in the pixel, however thin the brush
function isOn([x0, y0], [x1, y1], reach, row, column) {
  if (row === Math.floor(y1) && column === Math.floor(x1)) return true;
  const dx = x1 - x0, dy = y1 - y0, x = column + 0.5 - x0, y = row + 0.5 - y0;
  const along = clamp((x * dx + y * dy) / (dx * dx + dy * dy || 1), 0, 1);
  return Math.hypot(x - along * dx, y - along * dy) <= reach;
}

export { isOn, listenToStrokes };
