// Elements of a page, and numbers that come as text or bytes

function element(parent, tag, attributes = {}, text = "") {
  const made = parent.appendChild(document.createElement(tag));
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

function press(buttons, pressed) {
  buttons.forEach((button, i) => (button.ariaPressed = String(i === pressed)));
}

function decoded(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

const NUMBERS = { float32: Float32Array, float64: Float64Array };

// Numbers of images and answers as widget.py writes them: the bytes, low ones first, of one dtype
function numbers(bytes, { dtype, height, width, channels }, images = 1) {
  const Numbers = NUMBERS[dtype], count = images * height * width * channels;
  if (!Numbers || bytes.length !== count * Numbers.BYTES_PER_ELEMENT) {
    throw new Error("the images were written by another version of einet, or are damaged: run the cell again");
  }
  return Float64Array.from(new Numbers(bytes.slice().buffer)); // slice: an answer's bytes may begin anywhere
}

export { decoded, element, NUMBERS, numbers, press };
