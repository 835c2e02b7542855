// The engine: a circuit in JavaScript that answers as einet does, from a file that `einet.inpaint.export` wrote.
//
//     const given = readModel(buffer).given(x, observed); // x (D * C) numbers, observed (D) booleans
//     given.logDensity, given.sample(random(7)), given.moments(), given.explanation()
//
// Letters as in einet: D variables, C channels, K entries of a region's vector, T statistics of a leaf, P pairs of a
// leaf region and a variable in it. tests/inpaint/test_inpaint.py holds the engine beside einet.

// The file: safetensors in half precision, its metadata as einet/storage/archive.py and einet/inpaint/circuit.py have it

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
    const values = Float64Array.from(new Uint16Array(buffer.slice(first + start, first + end)), (bits) => HALF[bits]);
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

// Small tools

const product = (numbers) => numbers.reduce((all, number) => all * number, 1);
const total = (numbers) => numbers.reduce((sum, number) => sum + number, 0);
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

const largest = (odds) => odds.reduce((best, odd, i) => (odd > odds[best] ? i : best), 0);

function drawn(odds, random) {
  let left = random() * total(odds), last = 0;
  for (let i = 0; i < odds.length; i++) {
    if (odds[i] > 0) {
      last = i;
      if ((left -= odds[i]) < 0) return i;
    }
  }
  return last;
}

function logSumExp(logs) {
  const peak = Math.max(...logs);
  return peak === -Infinity ? peak : peak + Math.log(total(logs.map((log) => Math.exp(log - peak))));
}

// mulberry32: the same numbers in every browser
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// Families, each with its `fields`: log p(x) = sum of factor * theta[t] over `terms(x)`, less a, plus the base measure.
// phi are the T expectation parameters of one variable, channel and entry.

const LOG_FACTORIAL = [0];
function logFactorial(n) {
  while (LOG_FACTORIAL.length <= n) LOG_FACTORIAL.push(LOG_FACTORIAL.at(-1) + Math.log(LOG_FACTORIAL.length));
  return LOG_FACTORIAL[n];
}

const BINOMIAL = {
  project: ([mean], { total = 1, floor }) => [clamp(mean, total * floor, total * (1 - floor))],
  natural: ([mean], { total = 1 }) => ({
    theta: [Math.log(mean / (total - mean))],
    a: -total * Math.log(1 - mean / total),
  }),
  terms: (x) => [[0, x]],
  base: (x, { total = 1 }) => logFactorial(total) - logFactorial(x) - logFactorial(total - x),
  mean: ([mean]) => mean,
  variance: ([mean], { total = 1 }) => mean * (1 - mean / total),
  mode: ([mean], { total = 1 }) => Math.min(Math.floor(((total + 1) * mean) / total), total),
  sample([mean], { total = 1 }, random) {
    let successes = 0;
    for (let trial = 0; trial < total; trial++) successes += random() * total < mean;
    return successes;
  },
};

const NORMAL = {
  project: ([mean, variance], fields) => [mean, clamp(variance, fields.min_variance, fields.max_variance)],
  natural: ([mean, variance]) => ({
    theta: [mean / variance, -0.5 / variance],
    a: (0.5 * mean * mean) / variance + 0.5 * Math.log(2 * Math.PI * variance),
  }),
  terms: (x) => [[0, x], [1, x * x]],
  base: () => 0,
  mean: ([mean]) => mean,
  variance: (phi) => phi[1],
  mode: ([mean]) => mean,
  sample: ([mean, variance], _, random) => // after Box and Muller
    mean + Math.sqrt(-2 * variance * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()),
};

const CATEGORICAL = {
  project(phi, { categories, floor }) {
    const sum = total(phi), above = phi.map((p) => Math.max(p / sum - floor, 0));
    const scale = (1 - categories * floor) / total(above);
    return above.map((p) => floor + p * scale);
  },
  natural: (phi) => ({ theta: phi.map(Math.log), a: 0 }),
  terms: (x) => [[x, 1]],
  base: () => 0,
  mean: (phi) => phi.reduce((sum, p, value) => sum + p * value, 0),
  variance(phi) {
    const mean = this.mean(phi);
    return phi.reduce((sum, p, value) => sum + p * (value - mean) ** 2, 0);
  },
  mode: (phi) => largest(phi),
  sample: (phi, _, random) => drawn(phi, random),
};

const FAMILIES = { Bernoulli: BINOMIAL, Binomial: BINOMIAL, Normal: NORMAL, Categorical: CATEGORICAL };

// The leaves of one family: K entries for each pair and channel. Entry k of channel c of a pair is number
// n = (pair * C + c) * K + k.
class Leaves {
  constructor({ family, fields, variables }, pairs, { values, shape: [T, P, C, K] }) {
    if (!FAMILIES[family] || P !== pairs.regions.length || P !== pairs.variables.length) missing(`leaves of ${family}`);
    const count = P * C * K;
    Object.assign(this, { family: FAMILIES[family], fields, variables, pairs, T, C, K, tables: {} });
    this.phi = new Float64Array(count * T); // (P, C, K, T), and so is theta
    this.theta = new Float64Array(count * T);
    this.a = new Float64Array(count);
    for (let n = 0; n < count; n++) {
      const phi = this.family.project(Array.from({ length: T }, (_, t) => values[t * count + n]), fields);
      const { theta, a } = this.family.natural(phi, fields);
      this.phi.set(phi, n * T);
      this.theta.set(theta, n * T);
      this.a[n] = a;
    }
  }

  // Onto logs (L * K): the log-densities of what is observed, less the base measure
  addObserved(logs, x, observed) {
    this.#each(observed, true, (n, row, place) => {
      const terms = this.family.terms(x[place]);
      for (let k = 0; k < this.K; k++) logs[row + k] += this.#log(n + k, terms);
    });
  }

  // Onto logs (L * K): for what is hidden the density of each entry's mode, base measure included
  addModes(logs, observed) {
    const atMode = this.#table("atMode", (phi, fields, n) => {
      const mode = this.family.mode(phi, fields);
      return this.#log(n, this.family.terms(mode)) + this.family.base(mode, fields);
    });
    this.#each(observed, false, (n, row) => {
      for (let k = 0; k < this.K; k++) logs[row + k] += atMode[n + k];
    });
  }

  logBase(x, observed) {
    const places = (d) => Array.from({ length: this.C }, (_, c) => d * this.C + c);
    const seen = this.variables.filter((d) => observed[d]).flatMap(places);
    return total(seen.map((place) => this.family.base(x[place], this.fields)));
  }

  // Into x: `value(family, phi, fields)` for what is hidden in those leaf regions that are used, in one entry each
  fill(x, observed, entryOf, value) {
    this.#each(observed, false, (n, row, place) => {
      const k = entryOf[row / this.K];
      if (k >= 0) x[place] = value(this.family, this.#phi(n + k), this.fields);
    });
  }

  // Onto sums (3, D * C), for what is hidden: how much each entry is used, times 1, its mean and its mean square
  addMoments(sums, uses, observed) {
    const means = this.#table("means", (phi, fields) => this.family.mean(phi, fields));
    const squares = this.#table("squares", (phi, fields, n) => this.family.variance(phi, fields) + means[n] ** 2);
    this.#each(observed, false, (n, row, place) => {
      for (let k = 0; k < this.K; k++) {
        const use = uses[row + k];
        sums[0][place] += use;
        sums[1][place] += use * means[n + k];
        sums[2][place] += use * squares[n + k];
      }
    });
  }

  // visit(number of the first entry, place of the region's first entry, place in x): all that is observed, or hidden
  #each(observed, wanted, visit) {
    const { C, K, pairs: { regions, variables } } = this;
    for (let pair = 0; pair < regions.length; pair++) {
      const variable = variables[pair];
      if (Boolean(observed[variable]) !== wanted) continue;
      for (let c = 0; c < C; c++) visit((pair * C + c) * K, regions[pair] * K, variable * C + c);
    }
  }

  #log(n, terms) {
    let log = -this.a[n];
    for (const [t, factor] of terms) log += factor * this.theta[n * this.T + t];
    return log;
  }

  #phi(n) {
    return this.phi.subarray(n * this.T, (n + 1) * this.T);
  }

  // A number for each entry, the same for all questions
  #table(name, entry) {
    return (this.tables[name] ??= Float64Array.from(this.a, (_, n) => entry(this.#phi(n), this.fields, n)));
  }
}

// One network. A node is a region or a partition: a vector of entries. In a pass all vectors lie in one array, a node's
// from `start` on, and are to be multiplied by exp(scale[index]), so that nothing underflows.
class Circuit {
  constructor(description, layout, prefix, file) {
    this.size = this.count = 0; // numbers, and nodes
    const phi = (p) => file.tensor(`${prefix}leaves.parts.${p}.phi`);
    this.parts = layout.leaves.map((pairs, p) => new Leaves(description.leaf[p], pairs, phi(p)));
    const numLeaves = 1 + Math.max(...layout.leaves.flatMap((pairs) => pairs.regions));
    this.regions = Array.from({ length: numLeaves }, () => this.#node(description.num_leaves)); // children come first
    this.constant = this.#node(1); // the region about no variables, -1 in the file
    const thin = description.sum_product === "cp";
    layout.levels.forEach((regions, depth) => {
      for (const region of regions) this.regions.push(this.#region(region, `${prefix}levels.${depth}`, file, thin));
    });
    this.leaves = this.regions.slice(0, numLeaves);
    this.inner = this.regions.slice(numLeaves);
    this.root = this.inner.at(-1);
  }

  #node(entries, more) {
    const node = { entries, start: this.size, index: this.count, ...more };
    this.size += entries;
    this.count += 1;
    return node;
  }

  #region({ mixing, partitions }, level, file, thin) {
    const row = (kind, [number, row], axis) => {
      const { values, shape: [, height, width] } = file.weights(`${level}.${kind}.${number}.weights`, axis);
      return { weights: values.subarray(row * height * width, (row + 1) * height * width), height, width };
    };
    const own = partitions.map(([number, place, ...numbers]) => {
      const { weights, height, width } = row("einsums", [number, place], 2); // (entries, choices)
      const children = numbers.map((child) => this.regions[child] ?? this.constant);
      const choices = thin ? children[0].entries : children.reduce((count, { entries }) => count * entries, 1);
      if (width !== choices || (thin && children.some(({ entries }) => entries !== choices))) {
        missing("weights of the right shape");
      }
      return this.#node(height, { weights, children, choices, thin });
    });
    const { entries } = own[0]; // of the weights, too, which are (partitions, entries)
    const { weights } = mixing ? row("mixings", mixing, 1) : { weights: new Float64Array(entries).fill(1) };
    return this.#node(entries, { weights, partitions: own });
  }

  // Log-densities of what is observed, and, where asked for, of the modes of what is hidden
  leafLogs(x, observed, withModes = false) {
    const logs = new Float64Array(this.leaves.length * this.leaves[0].entries);
    for (const part of this.parts) {
      part.addObserved(logs, x, observed);
      if (withModes) part.addModes(logs, observed);
    }
    return logs;
  }

  // From log-densities of the leaves to the vectors of all nodes. With `maximum`, maxima stand where the sums were.
  upward(leafLogs, maximum = false) {
    const pass = { value: new Float64Array(this.size), scale: new Float64Array(this.count) };
    pass.log = new Float64Array(this.size); // of the values of regions, also where these are too small for a number
    pass.value[this.constant.start] = 1;
    for (const leaf of this.leaves) scaleLeaf(leaf, leafLogs, pass);
    for (const region of this.inner) {
      for (const partition of region.partitions) multiply(partition, pass, maximum);
      mix(region, pass, maximum);
    }
    pass.logRoot = Math.log(pass.value[this.root.start]) + pass.scale[this.root.index];
    return pass;
  }

  // Down one tree: at every sum, `pick` chooses one of the odds. The entry of each leaf region that is met, or -1.
  descend(pass, pick) {
    const entryOf = new Int32Array(this.leaves.length).fill(-1);
    const visit = (region, k) => {
      if (region === this.constant) return;
      if (!region.partitions) {
        entryOf[region.index] = k;
        return;
      }
      const partition = region.partitions[pick(oddsOfPartitions(region, pass, k))];
      const choice = pick(oddsOfTerms(partition, pass, k));
      partition.children.forEach((child, c) => visit(child, entryTaken(partition, c, choice)));
    };
    visit(this.root, 0);
    return entryOf;
  }

  // The probability, given what is observed, that the tree uses an entry: of all nodes, the leaves' first
  uses(pass) {
    const uses = new Float64Array(this.size);
    uses[this.root.start] = 1;
    for (const region of this.inner.slice().reverse()) {
      for (let k = 0; k < region.entries; k++) {
        const use = uses[region.start + k];
        if (use === 0) continue;
        const odds = oddsOfPartitions(region, pass, k);
        region.partitions.forEach((partition, p) => (uses[partition.start + k] = use * odds[p]));
      }
      for (const partition of region.partitions) passOn(partition, pass, uses);
    }
    return uses;
  }
}

function scaleLeaf({ start, entries, index }, logs, { value, log, scale }) {
  scale[index] = Math.max(...logs.subarray(start, start + entries));
  for (let at = start; at < start + entries; at++) {
    log[at] = scale[index] === -Infinity ? -Infinity : logs[at] - scale[index];
    value[at] = Math.exp(log[at]);
  }
}

// The entry of child c that a choice takes: in a thin layer that of its number, else choices are pairs, left by left
function entryTaken({ children, thin }, c, choice) {
  if (thin) return choice;
  const width = children[1].entries;
  return c === 0 ? Math.floor(choice / width) : choice % width;
}

// The products that a partition's sums weigh, one a choice, to be multiplied by exp(shift)
function termsOf(partition, pass) {
  return partition.thin ? productsOf(partition, pass) : { terms: pairsOf(partition, pass), shift: 0 };
}

// The outer product, left_i right_j for all pairs
function pairsOf({ children: [left, right] }, { value }) {
  const pairs = new Float64Array(left.entries * right.entries);
  for (let i = 0, n = 0; i < left.entries; i++) {
    for (let j = 0; j < right.entries; j++) pairs[n++] = value[left.start + i] * value[right.start + j];
  }
  return pairs;
}

// The product entry by entry, of any number of children: by logarithms, in which nothing underflows
function productsOf({ children, choices }, { log }) {
  const logs = new Float64Array(choices);
  for (const { start } of children) for (let n = 0; n < choices; n++) logs[n] += log[start + n];
  const shift = Math.max(-Number.MAX_VALUE, ...logs); // where all are impossible, none becomes possible
  return { terms: logs.map((each) => Math.exp(each - shift)), shift };
}

function sumOfTerms(weights, first, terms) {
  let sum = 0;
  for (let n = 0; n < terms.length; n++) sum += weights[first + n] * terms[n];
  return sum;
}

function largestTerm(weights, first, terms) {
  let most = 0;
  for (let n = 0; n < terms.length; n++) most = Math.max(most, weights[first + n] * terms[n]);
  return most;
}

// A partition's vector: S_k = sum_n W_kn term_n, or the largest of them
function multiply(partition, pass, maximum) {
  const { children, weights, entries, start, index } = partition, { terms, shift } = termsOf(partition, pass);
  const combine = maximum ? largestTerm : sumOfTerms;
  for (let k = 0; k < entries; k++) pass.value[start + k] = combine(weights, k * terms.length, terms);
  pass.scale[index] = children.reduce((sum, child) => sum + pass.scale[child.index], shift);
}

// A region's vector is the mixture of its partitions', sum_p w_pk S_pk, or the largest term; its largest entry is 1
function mix({ weights, partitions, entries, start, index }, { value, log, scale }, maximum) {
  const peak = Math.max(...partitions.map((partition) => scale[partition.index]));
  partitions.forEach((partition, p) => {
    const relative = Math.exp(scale[partition.index] - peak);
    for (let k = 0; k < entries; k++) {
      const term = weights[p * entries + k] * relative * value[partition.start + k];
      value[start + k] = maximum ? Math.max(value[start + k], term) : value[start + k] + term;
    }
  });
  const top = Math.max(Number.MIN_VALUE, ...value.subarray(start, start + entries));
  for (let k = 0; k < entries; k++) {
    value[start + k] /= top;
    log[start + k] = Math.log(value[start + k]);
  }
  scale[index] = peak + Math.log(top);
}

// What the partitions contribute to entry k of a region, as shares of a sum
function oddsOfPartitions({ weights, partitions, entries, start, index }, { value, scale }, k) {
  return partitions.map((partition, p) => {
    const relative = Math.exp(scale[partition.index] - scale[index]);
    return (weights[p * entries + k] * relative * value[partition.start + k]) / value[start + k];
  });
}

// The terms of entry k of a partition
function oddsOfTerms(partition, pass, k) {
  const { terms } = termsOf(partition, pass);
  return terms.map((term, n) => partition.weights[k * terms.length + n] * term);
}

// From the uses of a partition's entries on to those of its children's: sum_k use_k W_kn term_n / S_k
function passOn(partition, pass, uses) {
  const { children, weights, entries, start } = partition, { terms } = termsOf(partition, pass);
  const factors = new Float64Array(terms.length);
  for (let k = 0; k < entries; k++) {
    const share = uses[start + k] && uses[start + k] / pass.value[start + k];
    if (share) for (let n = 0; n < terms.length; n++) factors[n] += share * weights[k * terms.length + n];
  }
  children.forEach((child, c) => {
    for (let n = 0; n < terms.length; n++) uses[child.start + entryTaken(partition, c, n)] += factors[n] * terms[n];
  });
}

// A network or a mixture of them, over images of height x width pixels with values from low to high
class Model {
  constructor(buffer) {
    const file = readFile(buffer), { model, circuits, image } = file.content;
    if (!circuits || !image) missing("the circuit");
    this.components = (model.components ?? [0]).map((place, c) =>
      new Circuit(model.networks[place], circuits[place], model.components ? `components.${c}.` : "", file));
    const weights = model.components ? file.weights("weights", 0).values : [1];
    this.logWeights = Array.from(weights, Math.log);
    const { graph, leaf } = model.networks[0];
    [this.height, this.width] = graph.shape;
    this.channels = leaf[0].fields.channels;
    Object.assign(this, image);
  }

  given(x, observed) {
    if (x.length !== observed.length * this.channels || observed.length !== this.height * this.width) {
      throw new Error(`the image must have ${this.height} x ${this.width} pixels of ${this.channels} channels`);
    }
    return new Given(this, x, observed);
  }
}

// What follows from the observed part of an image
class Given {
  constructor(model, x, observed) {
    Object.assign(this, { model, x, observed });
    this.bases = model.components.map(({ parts }, c) =>
      model.logWeights[c] + total(parts.map((part) => part.logBase(x, observed))));
    this.passes = model.components.map((circuit) => circuit.upward(circuit.leafLogs(x, observed)));
    const joint = this.passes.map((pass, c) => pass.logRoot + this.bases[c]);
    this.logDensity = logSumExp(joint); // log p(observed), in nats
    this.posterior = joint.map((log) => Math.exp(log - this.logDensity)); // of the components
  }

  // The hidden part, drawn from its exact conditional distribution; without noise, the modes of the leaves that were drawn
  sample(random, noise = true) {
    const pick = (odds) => drawn(odds, random), c = pick(this.posterior);
    const value = (family, phi, fields) => (noise ? family.sample(phi, fields, random) : family.mode(phi, fields));
    return this.#filled(c, this.passes[c], pick, value);
  }

  // The exact conditional mean and standard deviation of each value. Components of probability 1e-12 are left out.
  moments() {
    const sums = [0, 1, 2].map(() => new Float64Array(this.x.length));
    this.model.components.forEach((circuit, c) => {
      if (this.posterior[c] < 1e-12) return;
      const uses = circuit.uses(this.passes[c]).map((use) => use * this.posterior[c]);
      circuit.parts.forEach((part) => part.addMoments(sums, uses, this.observed));
    });
    const hidden = (place) => sums[0][place] > 0;
    const mean = this.x.map((x, place) => (hidden(place) ? sums[1][place] / sums[0][place] : x));
    const deviation = this.x.map((_, place) =>
      hidden(place) ? Math.sqrt(Math.max(sums[2][place] / sums[0][place] - mean[place] ** 2, 0)) : 0);
    return { mean, deviation };
  }

  // A probable completion, as `einet.mpe`: approximate. Two trees are decoded, the best one of a pass of maxima and
  // the one that follows the largest odds of the sum pass, and the better completion is kept, with a bound on any.
  explanation() {
    const { components } = this.model;
    const modes = components.map((circuit) => circuit.leafLogs(this.x, this.observed, true));
    const bounds = components.map((circuit, c) => circuit.upward(modes[c]).logRoot + this.bases[c]);
    const maxima = components.map((circuit, c) => circuit.upward(modes[c], true));
    const all = this.observed.map(() => 1);
    const [best, usual] = [maxima, this.passes].map((passes) => {
      const c = largest(passes.map((pass, c) => pass.logRoot + this.bases[c]));
      const x = this.#filled(c, passes[c], largest, (family, phi, fields) => family.mode(phi, fields));
      return { x, logDensity: this.model.given(x, all).logDensity };
    });
    const found = usual.logDensity > best.logDensity ? usual : best;
    return { ...found, upperBound: Math.max(logSumExp(bounds), found.logDensity) };
  }

  #filled(c, pass, pick, value) {
    const circuit = this.model.components[c], x = this.x.slice(), entryOf = circuit.descend(pass, pick);
    circuit.parts.forEach((part) => part.fill(x, this.observed, entryOf, value));
    return x;
  }
}

const readModel = (buffer) => new Model(buffer);

export { clamp, random, readModel, sha256, total };
