// Pictures of the user: a file shrunk and centred as the widget's images are, a blank to draw on; and pictures to take away

import { inkOf } from "./painting.js";

const MOST = 512; // pixels a side that are looked at
const median = (values) => Float64Array.from(values).sort()[values.length >> 1];

// What lies at the edge of a grey picture, from 0 to 1, and whether most of it is nearly the same
function edgeOf(grey, height, width) {
  const isEdge = (_, i) => i < width || i >= (height - 1) * width || i % width === 0 || i % width === width - 1;
  const edge = grey.filter(isEdge), ground = median(edge);
  return { ground, plain: edge.filter((value) => Math.abs(value - ground) < 0.12).length > 0.6 * edge.length };
}

// The smallest box around all that differs from the ground: [left, top, width, height]
function boxOf(grey, height, width, ground) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  grey.forEach((value, i) => {
    if (Math.abs(value - ground) < 0.12) return;
    const row = Math.floor(i / width), column = i % width;
    [left, right] = [Math.min(left, column), Math.max(right, column)];
    [top, bottom] = [Math.min(top, row), Math.max(bottom, row)];
  });
  return right < 0 ? [0, 0, width, height] : [left, top, right + 1 - left, bottom + 1 - top];
}

// The custom of the widget's images: their smallest and largest value, and the ground at their edge, if they have one.
// What a file or a brush brings lies between the same two values: black is what black is in them, bit for bit.
function customOf(images, { low, high, height, width, channels }) {
  const over = (choose) => images.reduce((found, x) => x.reduce((a, b) => choose(a, b), found), images[0][0]);
  const least = over(Math.min), most = over(Math.max);
  const greys = images.map((x) => Float64Array.from({ length: height * width }, (_, pixel) => {
    const own = x.subarray(pixel * channels, (pixel + 1) * channels);
    return (own.reduce((sum, value) => sum + value, 0) / channels - low) / (high - low);
  }));
  const edges = greys.map((grey) => edgeOf(grey, height, width));
  const plain = edges.filter((edge) => edge.plain).length > edges.length / 2;
  return { least, most, ground: median(edges.map((edge) => edge.ground)), plain };
}

const groundOf = (custom) => (custom.ground > 0.5 ? custom.most : custom.least);

const blank = (custom, { height, width, channels }) => new Float64Array(height * width * channels).fill(groundOf(custom));

// An image with strokes of ink on it, light on a dark ground and dark on a light one
function inked(x, strokes, custom, { width, channels, whole }) {
  const ground = groundOf(custom), span = custom.least + custom.most - 2 * ground, further = span > 0 ? Math.max : Math.min;
  return x.map((value, i) => {
    const pixel = Math.floor(i / channels), ink = inkOf(strokes, Math.floor(pixel / width), pixel % width);
    const drawn = ground + span * ink;
    return further(value, whole ? Math.round(drawn) : drawn);
  });
}

function canvasOf(width, height, fill) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  Object.assign(context, { fillStyle: fill, imageSmoothingQuality: "high" });
  context.fillRect(0, 0, width, height);
  return context;
}

const greyOf = ({ data }) =>
  Float64Array.from({ length: data.length / 4 }, (_, i) => (data[4 * i] + data[4 * i + 1] + data[4 * i + 2]) / 765);

// The values of a picture. Around an object on a plain ground, margins go and come as the widget's images have them, and
// dark on light becomes light on dark where they are so. All else is cut to the shape of the images.
function shrunk(picture, custom, page) {
  const { height, width, channels, whole } = page, by = Math.min(1, MOST / Math.max(picture.width, picture.height));
  const [wide, high] = [picture.width, picture.height].map((side) => Math.max(1, Math.round(side * by)));
  const source = canvasOf(wide, high, "#fff"); // below what is transparent
  source.drawImage(picture, 0, 0, wide, high);
  const grey = greyOf(source.getImageData(0, 0, wide, high)), { ground, plain } = edgeOf(grey, high, wide);
  const isObject = plain && custom.plain, negative = isObject && Math.abs(ground - custom.ground) > 0.5;
  const box = isObject ? boxOf(grey, high, wide, ground) : [0, 0, wide, high];
  const scales = [width / box[2], height / box[3]], scale = isObject ? Math.min(...scales) : Math.max(...scales);
  const shade = Math.round(255 * ground), target = canvasOf(width, height, `rgb(${shade},${shade},${shade})`);
  const size = [box[2] * scale, box[3] * scale], corner = [(width - size[0]) / 2, (height - size[1]) / 2];
  target.drawImage(source.canvas, ...box, ...corner, ...size);
  const pixels = target.getImageData(0, 0, width, height), light = greyOf(pixels);
  return Float64Array.from({ length: height * width * channels }, (_, i) => {
    const pixel = Math.floor(i / channels), own = channels === 1 ? light[pixel] : pixels.data[4 * pixel + (i % channels)] / 255;
    const value = custom.least + (custom.most - custom.least) * (negative ? 1 - own : own);
    return whole ? Math.round(value) : value;
  });
}

// Canvases side by side as one PNG: into the clipboard, or where that is refused into a file. Says which.
async function takeAway(canvases) {
  const gap = 16, width = canvases.reduce((sum, canvas) => sum + canvas.width + gap, -gap);
  const context = canvasOf(width, Math.max(...canvases.map((canvas) => canvas.height)), "#fff");
  let x = 0;
  for (const canvas of canvases) {
    context.drawImage(canvas, x, 0);
    x += canvas.width + gap;
  }
  const blob = await new Promise((resolve) => context.canvas.toBlob(resolve, "image/png"));
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
    return "copied";
  } catch {
    const link = document.createElement("a");
    Object.assign(link, { href: URL.createObjectURL(blob), download: "inpainting.png" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    return "saved as inpainting.png";
  }
}

export { blank, customOf, inked, shrunk, takeAway };
