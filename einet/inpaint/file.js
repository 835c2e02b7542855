// The file: safetensors in half precision, its metadata as einet/storage/archive.py and einet/inpaint/circuit.py have it

import { product } from "./tools.js";

const HALF = Float64Array.from({ length: 65536 }, (_, bits) => {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * (1 + fraction / 1024) * 2 ** (exponent - 15) : sign * fraction * 2 ** -24;
});

function readFile(buffer) {
  const length = buffer.byteLength < 8 ? Infinity : Number(new DataView(buffer).getBigUint64(0, true));
  const first = 8 + length; // of the numbers
  if (first > buffer.byteLength) throw new Error("it is cut short, or no safetensors file");
  const { __metadata__: about, ...entries } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  if (about?.format !== "einet" || about.version !== "1") throw new Error("it is no model of einet, version 1");
  const tensor = (name) => {
    const { dtype, shape, data_offsets: [start, end] } = entries[name] ?? missing(`the tensor ${name}`);
    if (dtype !== "F16" || end - start !== 2 * product(shape)) throw new Error(`${name} is not in half precision`);
    if (first + end > buffer.byteLength) throw new Error(`it is cut short: ${name} is missing`);
    const halves = new Uint16Array(buffer.slice(first + start, first + end)), values = new Float64Array(halves.length);
    for (let i = 0; i < halves.length; i++) values[i] = HALF[halves[i]];
    if (!values.every(Number.isFinite)) throw new Error(`${name} has entries that are no numbers`);
    return { values, shape };
  };
  const content = JSON.parse(about.content.replaceAll(": Infinity", ": 1e999")), read = {}; // Python's spelling
  const weights = (name, axis) => (read[name] ??= normalized(tensor(name), axis, content.floor));
  return { content, tensor, weights };
}

// SHA-256 (FIPS 180-4) in hexadecimal. The browser's own is missing in pages that came over plain http.
const PRIMES = Array.from({ length: 310 }, (_, i) => i + 2).filter((n, _, all) => all.every((d) => d >= n || n % d));
const fraction = (x) => Math.floor((x % 1) * 2 ** 32) | 0;
const ROUNDS = Int32Array.from(PRIMES, (prime) => fraction(Math.cbrt(prime)));

function sha256(bytes) {
  const padded = new DataView(new ArrayBuffer(64 * Math.ceil((bytes.length + 9) / 64)));
  new Uint8Array(padded.buffer).set(bytes);
  padded.setUint8(bytes.length, 0x80);
  padded.setBigUint64(padded.byteLength - 8, 8n * BigInt(bytes.length));
  const turn = (x, by) => (x >>> by) | (x << (32 - by)), w = new Int32Array(64);
  const hash = Int32Array.from(PRIMES.slice(0, 8), (prime) => fraction(Math.sqrt(prime)));
  for (let block = 0; block < padded.byteLength; block += 64) {
    for (let i = 0; i < 16; i++) w[i] = padded.getInt32(block + 4 * i);
    for (let i = 16; i < 64; i++) {
      const x = w[i - 15], y = w[i - 2];
      w[i] = w[i - 16] + (turn(x, 7) ^ turn(x, 18) ^ (x >>> 3)) + w[i - 7] + (turn(y, 17) ^ turn(y, 19) ^ (y >>> 10));
    }
    let [a, b, c, d, e, f, g, h] = hash;
    for (let i = 0; i < 64; i++) {
      const up = h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + ROUNDS[i] + w[i];
      const down = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + up) | 0, c, b, a, (up + down) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((x, i) => (hash[i] += x));
  }
  return Array.from(hash, (x) => (x >>> 0).toString(16).padStart(8, "0")).join("");
}

function missing(what) {
  throw new Error(`it lacks ${what}: was it written by einet.inpaint.export?`);
}

// Weights that sum to 1 along an axis, which rounding to half precision has undone, as `einet.load` restores them
function normalized({ values, shape }, axis, floor) {
  const count = shape[axis], inner = product(shape.slice(axis + 1)), outer = values.length / (count * inner);
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < inner; i++) {
      const first = o * count * inner + i, end = first + count * inner;
      let sum = 0;
      for (let at = first; at < end; at += inner) sum += values[at] = Math.max(values[at], floor);
      for (let at = first; at < end; at += inner) values[at] /= sum;
    }
  }
  return { values, shape };
}

export { missing, readFile, sha256 };
