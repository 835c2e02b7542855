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

// From a pixel's centre to a line
function distance([x0, y0], [x1, y1], row, column) {
  const dx = x1 - x0, dy = y1 - y0, x = column + 0.5 - x0, y = row + 0.5 - y0;
  const along = clamp((x * dx + y * dy) / (dx * dx + dy * dy || 1), 0, 1);
  return Math.hypot(x - along * dx, y - along * dy);
}

// Whether a pixel's centre is within reach of a line, or the line ends in the pixel, however thin the brush
function isOn(from, to, reach, row, column) {
  if (row === Math.floor(to[1]) && column === Math.floor(to[0])) return true;
  return distance(from, to, row, column) <= reach;
}

// Strokes are pieces {places, reach}. How much ink of them a pixel has, from 0 to 1: their edges are soft, a pixel wide.
function inkOf(strokes, row, column) {
  let ink = 0;
  for (const { places, reach } of strokes) {
    places.forEach((to, i) => {
      const near = reach + 0.5 - distance(places[Math.max(i - 1, 0)], to, row, column);
      ink = Math.max(ink, Math.min(near, 1));
    });
  }
  return ink;
}

// The strokes of a drawing, as large as they fit and in the middle; larger than twice what they were they are not made
function centred(strokes, { height, width }) {
  const ends = (axis) => {
    const sides = strokes.flatMap(({ places, reach }) => places.flatMap((place) => [place[axis] - reach, place[axis] + reach]));
    return [Math.min(...sides), Math.max(...sides)];
  };
  const [[left, right], [top, bottom]] = [ends(0), ends(1)];
  const scale = Math.min(width / (right - left), height / (bottom - top), 2);
  const moved = ([x, y]) => [width / 2 + scale * (x - (left + right) / 2), height / 2 + scale * (y - (top + bottom) / 2)];
  return strokes.map(({ places, reach }) => ({ places: places.map(moved), reach: scale * reach }));
}

export { centred, inkOf, isOn, listenToStrokes };
