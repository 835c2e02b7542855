// Colours: functions from the number of a pixel to its [red, green, blue], 0 to 255

function coloursOf(x, { low, high, channels }) {
  const byte = (value) => (255 * (value - low)) / (high - low);
  return (pixel) => [0, 1, 2].map((colour) => byte(x[pixel * channels + Math.min(colour, channels - 1)]));
}

// As the gradient in inpaint.css
const HEAT = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39],
  [252, 255, 164]];

// The lightest colour stands for the largest deviation that values from low to high can have, whatever is shown: half of
// them at either end
const scaleTop = ({ low, high }) => (high - low) / 2;

// By the root mean square over a pixel's channels
function heatOf(deviation, page) {
  const { channels } = page, top = scaleTop(page), steps = HEAT.length - 1;
  const each = Array.from({ length: deviation.length / channels }, (_, pixel) =>
    Math.hypot(...deviation.subarray(pixel * channels, (pixel + 1) * channels)) / Math.sqrt(channels));
  const colour = (pixel) => {
    const place = Math.min(each[pixel] / top, 1) * steps, i = Math.min(Math.floor(place), steps - 1);
    return HEAT[i].map((low, c) => low + (place - i) * (HEAT[i + 1][c] - low));
  };
  return { colour, largest: each.reduce((most, one) => Math.max(most, one), 0) };
}

// Pictures onto a canvas, each pixel `size` squares wide, so that it stays sharp; several in rows of `columns`
function drawPictures(canvas, { height, width }, colours, size, columns = 1) {
  const small = document.createElement("canvas"), pixels = new ImageData(width, height), gap = colours.length > 1 ? 1 : 0;
  const rows = Math.ceil(colours.length / columns), context = canvas.getContext("2d");
  [small.width, small.height] = [width, height];
  const wide = (columns * (width + gap) - gap) * size, high = (rows * (height + gap) - gap) * size;
  if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
  context.imageSmoothingEnabled = false;
  colours.forEach((colour, n) => {
    for (let pixel = 0; pixel < height * width; pixel++) pixels.data.set([...colour(pixel), 255], 4 * pixel); // it clamps
    small.getContext("2d").putImageData(pixels, 0, 0);
    const x = (n % columns) * (width + gap) * size, y = Math.floor(n / columns) * (height + gap) * size;
    context.drawImage(small, x, y, width * size, height * size);
  });
  return context;
}

const drawPixels = (canvas, page, colour, size) => drawPictures(canvas, page, [colour], size);

export { coloursOf, drawPictures, drawPixels, heatOf, scaleTop };
