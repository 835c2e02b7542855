// Inpainting in the browser. The first half is the engine: it reads the file that `einet.inpaint.export` wrote and
// answers as einet does. The second half is the widget, for a kernel (anywidget calls `render`) and for pages without
// one (`start`, which einet.inpaint.pages calls in the classic script that it makes of this module). No dependencies.
//
//     const given = readModel(buffer).given(x, observed);    // x (D * C) numbers, observed (D) booleans
//     given.logDensity, given.sample(random(7)), given.moments(), given.explanation()
//
// Letters as in einet: D variables, C channels, K entries of a region's vector, T statistics of a leaf.

// The file: safetensors in half precision, its metadata as einet/files.py has it

const HALF = Float32Array.from({ length: 65536 }, (_, bits) => {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * (1 + fraction / 1024) * 2 ** (exponent - 15) : sign * fraction * 2 ** -24;
});

function readFile(buffer) {
  const length = buffer.byteLength < 8 ? Infinity : Number(new DataView(buffer).getBigUint64(0, true));
  if (length > buffer.byteLength - 8) throw new Error("it is cut short, or no safetensors file");
  const { __metadata__: about, ...entries } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  if (about?.format !== "einet" || about.version !== "1") throw new Error("it is no model of einet, version 1");
  const tensor = (name) => {
    const { dtype, shape, data_offsets: [start, end] } = entries[name] ?? missing(`the tensor ${name}`);
    const size = shape.reduce((product, extent) => product * extent, 1);
    if (dtype !== "F16" || end - start !== 2 * size) throw new Error(`${name} is not in half precision`);
    if (end > buffer.byteLength - 8 - length) throw new Error(`it is cut short: ${name} is missing`);
    const values = Float64Array.from(new Uint16Array(buffer.slice(8 + length + start, 8 + length + end)), (h) => HALF[h]);
    if (!values.every(Number.isFinite)) throw new Error(`${name} has entries that are no numbers`);
    return { values, shape };
  };
  return { content: JSON.parse(about.content.replaceAll(": Infinity", ": 1e999")), tensor }; // Python's spelling
}

function missing(what) {
  throw new Error(`it lacks ${what}: was it written by einet.inpaint.export?`);
}

// Weights that sum to 1 along the middle of (outer, count, inner) again, as `einet.load` has them
function normalized({ values, shape }, axis, floor) {
  const product = (extents) => extents.reduce((p, extent) => p * extent, 1);
  const count = shape[axis], inner = product(shape.slice(axis + 1)), outer = product(shape.slice(0, axis));
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < inner; i++) {
      const first = o * count * inner + i, end = first + count * inner;
      let sum = 0;
      for (let at = first; at < end; at += inner) sum += values[at] = Math.max(values[at], floor);
      for (let at = first; at < end; at += inner) values[at] /= sum;
    }
  }
  return values;
}

// Families: phi is an array of T numbers, for one variable, channel and entry

const LOG_FACTORIAL = [0];
function logFactorial(n) {
  while (LOG_FACTORIAL.length <= n) LOG_FACTORIAL.push(LOG_FACTORIAL.at(-1) + Math.log(LOG_FACTORIAL.length));
  return LOG_FACTORIAL[n];
}
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

const BINOMIAL = {
  project: ([mean], { total = 1, floor }) => [clamp(mean, total * floor, total * (1 - floor))],
  natural: ([mean], { total = 1 }) => ({ theta: [Math.log(mean / (total - mean))], a: -total * Math.log(1 - mean / total) }),
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

const FAMILIES = {
  Bernoulli: BINOMIAL,
  Binomial: BINOMIAL,
  Normal: {
    project: ([mean, variance], f) => [mean, clamp(variance, f.min_variance, f.max_variance)],
    natural: ([mean, variance]) => ({
      theta: [mean / variance, -0.5 / variance],
      a: (0.5 * mean * mean) / variance + 0.5 * Math.log(2 * Math.PI * variance),
    }),
    terms: (x) => [[0, x], [1, x * x]],
    base: () => 0,
    mean: ([mean]) => mean,
    variance: (phi) => phi[1],
    mode: ([mean]) => mean,
    sample: ([mean, variance], _, random) =>
      mean + Math.sqrt(-2 * variance * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()),
  },
  Categorical: {
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
  },
};

// Small tools

const total = (numbers) => numbers.reduce((sum, number) => sum + number, 0);
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

// One family's share of the leaves: for each pair of a leaf region and a variable, C channels of K entries
class Leaves {
  constructor({ family, fields, variables }, pairs, { values, shape: [T, P, C, K] }) {
    if (!FAMILIES[family] || P !== pairs.regions.length || P !== pairs.variables.length) missing(`leaves of ${family}`);
    Object.assign(this, { family: FAMILIES[family], fields, own: variables, pairs, T, P, C, K });
    this.phi = new Float64Array(T * P * C * K); // (P, C, K, T)
    this.theta = new Float64Array(T * P * C * K); // (P, C, T, K)
    this.a = new Float64Array(P * C * K);
    for (let n = 0; n < P * C * K; n++) {
      const raw = Array.from({ length: T }, (_, t) => values[t * P * C * K + n]);
      const phi = this.family.project(raw, fields), { theta, a } = this.family.natural(phi, fields);
      const k = n % K;
      this.phi.set(phi, n * T);
      for (let t = 0; t < T; t++) this.theta[((n - k) / K * T + t) * K + k] = theta[t];
      this.a[n] = a;
    }
  }

  at(n) {
    return this.phi.subarray(n * this.T, (n + 1) * this.T);
  }

  // log p of what is observed, less the base measure, onto logs (L * K)
  add(logs, x, observed) {
    const { T, P, C, K } = this;
    for (let pair = 0; pair < P; pair++) {
      const variable = this.pairs.variables[pair], row = this.pairs.regions[pair] * K;
      if (!observed[variable]) continue;
      for (let c = 0; c < C; c++) {
        const n = pair * C + c;
        for (let k = 0; k < K; k++) logs[row + k] -= this.a[n * K + k];
        for (const [t, factor] of this.family.terms(x[variable * C + c])) {
          const first = (n * T + t) * K;
          for (let k = 0; k < K; k++) logs[row + k] += factor * this.theta[first + k];
        }
      }
    }
  }

  // The density of each entry's mode, base measure included, where nothing is observed
  addModes(logs, observed) {
    const { T, P, C, K, family, fields } = this;
    for (let n = 0; n < P * C * K; n++) {
      const pair = Math.floor(n / (C * K)), k = n % K;
      if (observed[this.pairs.variables[pair]]) continue;
      const mode = family.mode(this.at(n), fields), first = ((n - k) / K) * T * K + k;
      const terms = family.terms(mode).map(([t, factor]) => factor * this.theta[first + t * K]);
      logs[this.pairs.regions[pair] * K + k] += total(terms) - this.a[n] + family.base(mode, fields);
    }
  }

  logBase(x, observed) {
    let sum = 0;
    for (const variable of this.own) {
      if (!observed[variable]) continue;
      for (let c = 0; c < this.C; c++) sum += this.family.base(x[variable * this.C + c], this.fields);
    }
    return sum;
  }

  // A value for every hidden variable of the leaf regions that are used in one entry each
  fill(x, observed, entries, value) {
    const { P, C, K } = this;
    for (let pair = 0; pair < P; pair++) {
      const variable = this.pairs.variables[pair], k = entries[this.pairs.regions[pair]];
      if (observed[variable] || k < 0) continue;
      for (let c = 0; c < C; c++) x[variable * C + c] = value(this.family, this.at((pair * C + c) * K + k), this.fields);
    }
  }

  // Onto sums (3, D * C): how much each entry is used, times 1, its mean and its mean square
  addMoments(sums, uses, observed) {
    const { P, C, K } = this;
    this.means ??= Float64Array.from(this.a, (_, n) => this.family.mean(this.at(n), this.fields));
    this.squares ??= Float64Array.from(this.a, (_, n) => this.family.variance(this.at(n), this.fields) + this.means[n] ** 2);
    for (let pair = 0; pair < P; pair++) {
      const variable = this.pairs.variables[pair], row = this.pairs.regions[pair] * K;
      if (observed[variable]) continue;
      for (let c = 0; c < C; c++) {
        const n = (pair * C + c) * K, to = variable * C + c;
        for (let k = 0; k < K; k++) {
          sums[0][to] += uses[row + k];
          sums[1][to] += uses[row + k] * this.means[n + k];
          sums[2][to] += uses[row + k] * this.squares[n + k];
        }
      }
    }
  }
}

// One network: its regions in one list, children before parents. Vectors travel as value * exp(scale), the largest
// value being 1, in one array; region r's are value[start .. start + entries].
class Circuit {
  constructor(description, layout, tensor, floor) {
    this.leaves = layout.leaves.map((pairs, p) => new Leaves(description.leaf[p], pairs, tensor(`leaves.parts.${p}.phi`)));
    const K = description.num_leaves, count = 1 + Math.max(...layout.leaves.flatMap((pairs) => pairs.regions));
    this.regions = Array.from({ length: count }, (_, row) => ({ entries: K, start: row * K, partitions: [] }));
    this.numLeaves = count;
    this.size = count * K;
    this.sums = 0; // partitions' entries, and partitions
    this.partitions = 0;
    layout.levels.forEach((regions, depth) => this.#addLevel(regions, `levels.${depth}`, tensor, floor));
    this.constant = { entries: 1, start: this.size, index: this.regions.length }; // the region about no variables
    this.regions.forEach((region, index) => (region.index = index));
    this.regions.forEach((region) => region.partitions.forEach((partition) => this.#connect(partition)));
  }

  #addLevel(regions, name, tensor, floor) {
    const read = {};
    const weights = (kind, [n, row]) => {
      const key = `${name}.${kind}.${n}.weights`;
      if (!read[key]) {
        const found = tensor(key);
        read[key] = { values: normalized(found, kind === "einsums" ? 2 : 1, floor), shape: found.shape };
      }
      const { values, shape } = read[key], size = shape[1] * shape[2];
      return { values: values.subarray(row * size, (row + 1) * size), entries: shape[kind === "einsums" ? 1 : 2] };
    };
    for (const { mixing, partitions } of regions) {
      const own = partitions.map(([n, row, left, right]) => ({ left, right, ...weights("einsums", [n, row]) }));
      const entries = own[0].entries;
      own.forEach((partition) => Object.assign(partition, { start: this.sums, index: this.partitions++ }) && (this.sums += entries));
      this.regions.push({ entries, start: this.size, partitions: own, mixing: mixing && weights("mixings", mixing).values });
      this.size += entries;
    }
  }

  #connect(partition) {
    const child = (number) => (number < 0 ? this.constant : this.regions[number]);
    partition.right = child(partition.right);
    partition.left = child(partition.left);
    const { left, right, entries, values } = partition;
    if (values.length !== entries * left.entries * right.entries) missing("weights of the right shape");
  }

  leafLogs(x, observed) {
    const logs = new Float64Array(this.numLeaves * this.regions[0].entries);
    this.leaves.forEach((part) => part.add(logs, x, observed));
    return logs;
  }

  withModes(logs, observed) {
    const modes = logs.slice();
    this.leaves.forEach((part) => part.addModes(modes, observed));
    return modes;
  }

  // From log-densities of the leaves to the vectors of all regions and the sums of all partitions.
  // With `maximum`, maxima stand where the sums were.
  upward(leafLogs, maximum = false) {
    const pass = {
      value: new Float64Array(this.size + 1).fill(1, this.size),
      scale: new Float64Array(this.regions.length + 1),
      sums: new Float64Array(this.sums),
      sumScale: new Float64Array(this.partitions),
    };
    for (const region of this.regions) {
      pass.scale[region.index] = region.partitions.length
        ? combined(region, pass, maximum)
        : scaledLeaf(region, leafLogs, pass.value);
    }
    const root = this.regions.at(-1);
    pass.logRoot = Math.log(pass.value[root.start]) + pass.scale[root.index];
    return pass;
  }

  // Down one tree: at every sum, `pick` chooses one of the odds. The entry of each leaf region that is met, or -1.
  descend(pass, pick) {
    const entries = new Int32Array(this.numLeaves).fill(-1);
    const visit = (region, k) => {
      if (region === this.constant) return;
      if (!region.partitions.length) {
        entries[region.start / region.entries] = k;
        return;
      }
      const partition = region.partitions[pick(oddsOfPartitions(region, pass, k))];
      const pair = pick(oddsOfPairs(partition, pass.value, k)), width = partition.right.entries;
      visit(partition.left, Math.floor(pair / width));
      visit(partition.right, pair % width);
    };
    visit(this.regions.at(-1), 0);
    return entries;
  }

  // The probability, given what is observed, that the tree uses an entry: of all regions (size); the leaves come first
  uses(pass) {
    const uses = new Float64Array(this.size + 1);
    uses[this.regions.at(-1).start] = 1;
    for (let r = this.regions.length - 1; r >= this.numLeaves; r--) {
      const { entries, start, mixing, partitions } = this.regions[r];
      partitions.forEach((partition, p) => {
        const relative = Math.exp(pass.sumScale[partition.index] - pass.scale[r]);
        const share = new Float64Array(entries);
        for (let k = 0; k < entries; k++) {
          if (uses[start + k] > 0) share[k] = (uses[start + k] * relative * (mixing ? mixing[p * entries + k] : 1)) / pass.value[start + k];
        }
        addPairs(partition, pass.value, share, uses);
      });
    }
    return uses;
  }
}

function scaledLeaf({ start, entries }, logs, value) {
  let top = -Infinity;
  for (let at = start; at < start + entries; at++) top = Math.max(top, logs[at]);
  for (let at = start; at < start + entries; at++) value[at] = Math.exp(logs[at] - top);
  return top;
}

// The sums of a region's partitions, then its vector, their mixture; returns the scale
function combined({ entries, start, mixing, partitions }, pass, maximum) {
  const multiply = maximum ? maxProduct : sumProduct;
  let peak = -Infinity;
  for (const partition of partitions) {
    multiply(partition, pass.value, pass.sums);
    const scale = pass.scale[partition.left.index] + pass.scale[partition.right.index];
    peak = Math.max(peak, pass.sumScale[partition.index] = scale);
  }
  partitions.forEach((partition, p) => {
    const relative = Math.exp(pass.sumScale[partition.index] - peak);
    for (let k = 0; k < entries; k++) {
      const term = pass.sums[partition.start + k] * (mixing ? mixing[p * entries + k] * relative : 1);
      pass.value[start + k] = maximum ? Math.max(pass.value[start + k], term) : pass.value[start + k] + term;
    }
  });
  let top = Number.MIN_VALUE;
  for (let k = 0; k < entries; k++) top = Math.max(top, pass.value[start + k]);
  for (let k = 0; k < entries; k++) pass.value[start + k] /= top;
  return peak + Math.log(top);
}

// sums_k = sum_ij W_kij left_i right_j
function sumProduct({ left, right, values, entries, start }, value, sums) {
  let at = 0;
  for (let k = 0; k < entries; k++) {
    let sum = 0;
    for (let i = 0; i < left.entries; i++) {
      let inner = 0;
      for (let j = 0; j < right.entries; j++) inner += values[at++] * value[right.start + j];
      sum += value[left.start + i] * inner;
    }
    sums[start + k] = sum;
  }
}

// sums_k = max_ij W_kij left_i right_j
function maxProduct({ left, right, values, entries, start }, value, sums) {
  let at = 0;
  for (let k = 0; k < entries; k++) {
    let best = 0;
    for (let i = 0; i < left.entries; i++) {
      for (let j = 0; j < right.entries; j++) best = Math.max(best, values[at++] * value[left.start + i] * value[right.start + j]);
    }
    sums[start + k] = best;
  }
}

// The uses of pairs (i, j), sum_k share_k W_kij left_i right_j, onto those of the children's entries
function addPairs({ left, right, values, entries }, value, share, uses) {
  const width = left.entries * right.entries, pairs = new Float64Array(width);
  for (let k = 0; k < entries; k++) {
    if (share[k] > 0) for (let n = 0; n < width; n++) pairs[n] += share[k] * values[k * width + n];
  }
  for (let i = 0, n = 0; i < left.entries; i++) {
    for (let j = 0; j < right.entries; j++, n++) {
      const use = pairs[n] * value[left.start + i] * value[right.start + j];
      uses[left.start + i] += use;
      uses[right.start + j] += use;
    }
  }
}

function oddsOfPartitions({ mixing, partitions, entries }, pass, k) {
  if (!mixing) return [1];
  const peak = Math.max(...partitions.map((partition) => pass.sumScale[partition.index]));
  return partitions.map((partition, p) =>
    mixing[p * entries + k] * Math.exp(pass.sumScale[partition.index] - peak) * pass.sums[partition.start + k]);
}

function oddsOfPairs({ left, right, values }, value, k) {
  const width = left.entries * right.entries, odds = values.slice(k * width, (k + 1) * width);
  for (let n = 0; n < width; n++) {
    odds[n] *= value[left.start + Math.floor(n / right.entries)] * value[right.start + (n % right.entries)];
  }
  return odds;
}

// A network or a mixture of them, over images
class Model {
  constructor(buffer) {
    const { content, tensor } = readFile(buffer), { model, circuits, floor, image } = content;
    if (!circuits || !image) missing("the circuit");
    const places = model.components ?? [0], [first] = model.networks;
    this.components = places.map((place, c) => {
      const own = (name) => tensor(model.components ? `components.${c}.${name}` : name);
      return new Circuit(model.networks[place], circuits[place], own, floor);
    });
    const weights = model.components ? normalized(tensor("weights"), 0, floor) : [1];
    this.logWeights = Array.from(weights, Math.log);
    [this.height, this.width] = first.graph.shape;
    this.channels = first.leaf[0].fields.channels;
    Object.assign(this, image);
  }

  // What follows from the observed part of an image
  given(x, observed) {
    if (x.length !== observed.length * this.channels || observed.length !== this.height * this.width) {
      throw new Error(`the image must have ${this.height} x ${this.width} pixels of ${this.channels} channels`);
    }
    return new Given(this, x, observed);
  }
}

class Given {
  constructor(model, x, observed) {
    Object.assign(this, { model, x, observed });
    this.logs = model.components.map((circuit) => circuit.leafLogs(x, observed));
    this.passes = model.components.map((circuit, c) => circuit.upward(this.logs[c]));
    this.bases = model.components.map((circuit, c) =>
      model.logWeights[c] + total(circuit.leaves.map((part) => part.logBase(x, observed))));
    const joint = this.passes.map((pass, c) => pass.logRoot + this.bases[c]);
    this.logDensity = logSumExp(joint); // log p(observed), in nats
    this.posterior = joint.map((log) => Math.exp(log - this.logDensity)); // of the components
  }

  #filled(c, entries, value) {
    const x = Float64Array.from(this.x);
    this.model.components[c].leaves.forEach((part) => part.fill(x, this.observed, entries, value));
    return x;
  }

  // The hidden part, drawn from its exact conditional distribution
  sample(random) {
    const pick = (odds) => drawn(odds, random), c = pick(this.posterior);
    const entries = this.model.components[c].descend(this.passes[c], pick);
    return this.#filled(c, entries, (family, phi, fields) => family.sample(phi, fields, random));
  }

  // The exact conditional mean and standard deviation of each value. Components of probability 1e-12 are left out.
  moments() {
    const sums = [0, 1, 2].map(() => new Float64Array(this.x.length));
    this.model.components.forEach((circuit, c) => {
      if (this.posterior[c] < 1e-12) return;
      const uses = circuit.uses(this.passes[c]).map((use) => use * this.posterior[c]);
      circuit.leaves.forEach((part) => part.addMoments(sums, uses, this.observed));
    });
    const mean = Float64Array.from(this.x), deviation = new Float64Array(this.x.length);
    sums[0].forEach((use, i) => {
      if (!use) return; // observed
      mean[i] = sums[1][i] / use;
      deviation[i] = Math.sqrt(Math.max(sums[2][i] / use - mean[i] ** 2, 0));
    });
    return { mean, deviation };
  }

  // A probable completion, as `einet.mpe`: approximate. Two trees are decoded, the best one of a pass of maxima and
  // the one that follows the largest odds of the sum pass, and the better completion is kept, with a bound on any.
  explanation() {
    const bounds = [], best = [null, null];
    this.model.components.forEach((circuit, c) => {
      const modes = circuit.withModes(this.logs[c], this.observed);
      bounds.push(circuit.upward(modes).logRoot + this.bases[c]);
      [circuit.upward(modes, true), this.passes[c]].forEach((pass, way) => {
        const score = pass.logRoot + this.bases[c];
        if (best[way] && best[way].score >= score) return;
        const x = this.#filled(c, circuit.descend(pass, largest), (family, phi, fields) => family.mode(phi, fields));
        best[way] = { score, x };
      });
    });
    const all = this.observed.map(() => true);
    const rescored = best.map(({ x }) => ({ x, logDensity: this.model.given(x, all).logDensity }));
    const found = rescored[1].logDensity > rescored[0].logDensity ? rescored[1] : rescored[0];
    return { ...found, upperBound: Math.max(logSumExp(bounds), found.logDensity) };
  }
}

function readModel(buffer) {
  return new Model(buffer);
}

// The widget. `page` is what InpaintWidget knows: {height, width, channels, low, high, steps, images, labels, file}.
// `answer(question)` promises {values, logDensity, ...} for a question {image, x, observed, view}.

const VIEWS = {
  sample: "sample",
  mean: "mean",
  deviation: "standard deviation",
  explanation: "most probable",
};
const ABOUT = {
  sample: "drawn from the exact conditional distribution",
  mean: "the exact conditional mean",
  deviation: "the exact conditional standard deviation",
  explanation: "the most probable completion that was found, an approximation",
};
const PRESETS = {
  "left half": (row, column, height, width) => column < width / 2,
  "right half": (row, column, height, width) => column >= width / 2,
  "upper half": (row, column, height) => row < height / 2,
  "lower half": (row, column, height) => row >= height / 2,
  "every other pixel": (row, column) => (row + column) % 2 === 0,
  clear: () => false,
};
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const HEAT = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];
const PATIENCE = 10000; // milliseconds until a silent kernel is given up

function decoded(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function element(parent, tag, attributes = {}, text = "") {
  const made = parent.appendChild(document.createElement(tag));
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

class Widget {
  constructor(root, page, answer) {
    Object.assign(this, { root, page, answer });
    this.images = page.images.map((image) => Float64Array.from(decoded(image), (byte) => {
      const value = page.low + ((page.high - page.low) * byte) / page.steps;
      return page.discrete ? Math.round(value) : value;
    }));
    this.observed = new Uint8Array(page.height * page.width);
    Object.assign(this, { image: 0, view: "sample", hiding: true, cursor: null, stroke: null, answers: 0 });
    this.brush = Math.max(1, Math.round(page.height / 7));
    this.#layOut();
    this.preset("lower half");
  }

  // The elements

  #layOut() {
    this.root.textContent = "";
    this.root.classList.add("einet-inpaint-ready");
    this.#layOutImages();
    this.#layOutPanels();
    this.#layOutControls();
    this.numbers = element(this.root, "p", { class: "numbers" });
    this.message = element(this.root, "p", { class: "message", role: "alert" });
    this.spoken = element(this.root, "p", { class: "spoken", "aria-live": "polite" });
  }

  #group(label) {
    const group = element(this.root, "div", { class: "group", role: "group", "aria-label": label });
    element(group, "span", { class: "name", "aria-hidden": "true" }, label);
    return element(group, "div", { class: "items" });
  }

  #button(group, text, act, attributes = {}) {
    const button = element(group, "button", { type: "button", ...attributes }, text);
    button.addEventListener("click", act);
    return button;
  }

  #layOutImages() {
    const group = this.#group("Image");
    this.thumbnails = this.images.map((x, i) => {
      const button = this.#button(group, "", () => this.choose(i), { class: "thumbnail", "aria-label": this.nameOf(i) });
      this.#paintImage(element(button, "canvas", { "aria-hidden": "true" }), this.#colours(x), 1);
      return button;
    });
  }

  #layOutPanels() {
    const { height, width } = this.page, panels = element(this.root, "div", { class: "panels" });
    const panel = (caption, attributes) => {
      const figure = element(panels, "figure");
      this.caption = element(figure, "figcaption", {}, caption);
      return element(figure, "canvas", attributes);
    };
    this.editor = panel("paint here", {
      class: "editor", tabindex: "0", role: "application", "aria-roledescription": "mask editor",
      "aria-label": `Mask of ${height} by ${width} pixels. Arrow keys move the cursor, space paints, shift with an arrow paints along.`,
    });
    this.picture = panel("", { class: "answer", role: "img" });
    this.scale = element(this.picture.parentNode, "div", { class: "scale", hidden: "" });
    this.#listen();
  }

  #layOutControls() {
    const brush = this.#group("Brush");
    this.modes = ["hide", "show"].map((name) =>
      this.#button(brush, name, () => this.setMode(name === "hide"), { "aria-label": name === "hide" ? "hide pixels" : "show pixels again" }));
    const label = element(brush, "label", {}, "size ");
    this.size = element(label, "input", { type: "range", min: 1, max: Math.ceil(this.page.height / 2), step: 1, value: this.brush });
    this.size.addEventListener("input", () => (this.brush = Number(this.size.value)));
    this.setMode(true);

    const presets = this.#group("Mask");
    for (const name of Object.keys(PRESETS)) this.#button(presets, name, () => this.preset(name));

    const views = this.#group("Answer");
    this.views = Object.entries(VIEWS).map(([view, name]) => this.#button(views, name, () => this.show(view), { "data-view": view }));
    this.#button(views, "↻ draw again", () => this.show("sample"), { class: "again" });
  }

  // What the user does

  nameOf(i) {
    return this.page.labels[i] ?? `image ${i + 1}`;
  }

  choose(i) {
    this.image = i;
    this.ask();
  }

  setMode(hiding) {
    this.hiding = hiding;
    this.modes.forEach((button, i) => button.setAttribute("aria-pressed", String(hiding === !i)));
  }

  preset(name) {
    const { height, width } = this.page;
    this.observed = this.observed.map((_, i) => !PRESETS[name](Math.floor(i / width), i % width, height, width));
    this.ask();
  }

  show(view) {
    this.view = view;
    this.ask();
  }

  // All pixels whose centres are within half a brush of the line between two points (x, y) in pixels
  paint([x0, y0], [x1, y1]) {
    const { height, width } = this.page, reach = this.brush / 2, dx = x1 - x0, dy = y1 - y0, length = dx * dx + dy * dy;
    const set = (row, column) => (this.observed[row * width + column] = this.hiding ? 0 : 1);
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const x = column + 0.5 - x0, y = row + 0.5 - y0;
        const t = length ? clamp((x * dx + y * dy) / length, 0, 1) : 0;
        if (Math.hypot(x - t * dx, y - t * dy) <= reach) set(row, column);
      }
    }
    const row = Math.floor(y1), column = Math.floor(x1); // the pixel below the pointer, however small the brush
    if (row >= 0 && row < height && column >= 0 && column < width) set(row, column);
    this.ask();
  }

  #listen() {
    const { editor } = this;
    const place = (event) => {
      const box = editor.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * this.page.width, ((event.clientY - box.top) / box.height) * this.page.height];
    };
    editor.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      editor.setPointerCapture(event.pointerId);
      this.cursor = null;
      this.stroke = { pointer: event.pointerId, at: place(event) };
      this.paint(this.stroke.at, this.stroke.at);
    });
    editor.addEventListener("pointermove", (event) => {
      if (this.stroke?.pointer !== event.pointerId) return;
      const moves = event.getCoalescedEvents?.() ?? [];
      for (const move of moves.length ? moves : [event]) {
        const to = place(move);
        this.paint(this.stroke.at, to);
        this.stroke.at = to;
      }
    });
    for (const end of ["pointerup", "pointercancel"]) {
      editor.addEventListener(end, (event) => {
        if (this.stroke?.pointer !== event.pointerId) return;
        this.stroke = null;
        this.#speak();
      });
    }
    editor.addEventListener("keydown", (event) => this.#key(event));
    editor.addEventListener("blur", () => { this.cursor = null; this.#drawEditor(); });
  }

  #key(event) {
    const arrow = ARROWS[event.key], { height, width } = this.page;
    if ((!arrow && event.key !== " ") || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const at = this.cursor ?? [Math.floor(height / 2), Math.floor(width / 2)];
    this.cursor = arrow && this.cursor ? [clamp(at[0] + arrow[0], 0, height - 1), clamp(at[1] + arrow[1], 0, width - 1)] : at;
    const centre = ([row, column]) => [column + 0.5, row + 0.5];
    if (!arrow || event.shiftKey) this.paint(centre(arrow ? at : this.cursor), centre(this.cursor));
    else this.#drawEditor();
    this.spoken.textContent = `Row ${this.cursor[0] + 1}, column ${this.cursor[1] + 1}`;
  }

  // Questions and answers: one in flight, and of those that come meanwhile only the last

  ask() {
    this.#drawEditor();
    this.waiting = { image: this.image, x: this.images[this.image], observed: Uint8Array.from(this.observed), view: this.view };
    if (!this.running) this.#run();
  }

  async #run() {
    this.running = true;
    while (this.waiting) {
      const question = this.waiting;
      this.waiting = null;
      try {
        this.answered = { ...question, ...(await this.answer(question)) };
        this.message.textContent = "";
        this.#drawAnswer();
      } catch (error) {
        this.message.textContent = error.message;
      }
      this.root.dataset.answers = ++this.answers;
    }
    this.running = false;
    if (!this.stroke && this.cursor === null) this.#speak();
  }

  // Drawing

  #colours(x) {
    const { low, high, channels } = this.page;
    const byte = (value) => Math.round((255 * (value - low)) / (high - low)); // a clamped array clamps
    return (pixel) => [0, 1, 2].map((colour) => byte(x[pixel * channels + Math.min(colour, channels - 1)]));
  }

  #heat(deviation) {
    const { channels } = this.page, pixels = this.observed.length;
    const each = Array.from({ length: pixels }, (_, pixel) =>
      Math.sqrt(total(Array.from({ length: channels }, (_, c) => deviation[pixel * channels + c] ** 2)) / channels));
    const top = Math.max(...each);
    this.scale.textContent = `black: 0, lightest: ${top.toPrecision(2)}`;
    return (pixel) => heatColour(top ? each[pixel] / top : 0);
  }

  #paintImage(canvas, colour, size) {
    const { height, width } = this.page, small = document.createElement("canvas");
    [small.width, small.height] = [width, height];
    const pixels = new ImageData(width, height);
    for (let pixel = 0; pixel < height * width; pixel++) pixels.data.set([...clamped(colour(pixel)), 255], 4 * pixel);
    small.getContext("2d").putImageData(pixels, 0, 0);
    if (canvas.width !== width * size) [canvas.width, canvas.height] = [width * size, height * size];
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    return context;
  }

  #cell() {
    return Math.max(4, Math.floor(448 / this.page.width));
  }

  #drawEditor() {
    const { width } = this.page, size = this.#cell(), dot = Math.ceil(size / 5), style = getComputedStyle(this.root);
    const context = this.#paintImage(this.editor, this.#colours(this.images[this.image]), size);
    const [cover, mark] = ["--cover", "--mark"].map((name) => style.getPropertyValue(name).trim() || "#888");
    this.observed.forEach((seen, i) => {
      if (seen) return;
      const x = (i % width) * size, y = Math.floor(i / width) * size;
      context.fillStyle = cover;
      context.fillRect(x, y, size, size);
      context.fillStyle = mark;
      context.fillRect(x + size / 2 - dot / 2, y + size / 2 - dot / 2, dot, dot);
    });
    if (this.cursor) {
      const [row, column] = this.cursor;
      for (const [colour, line] of [["#fff", 5], ["#000", 2]]) {
        Object.assign(context, { strokeStyle: colour, lineWidth: line });
        context.strokeRect(column * size, row * size, size, size);
      }
    }
    this.thumbnails.forEach((button, i) => button.setAttribute("aria-pressed", String(i === this.image)));
    this.views.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.view === this.view)));
  }

  #drawAnswer() {
    const { values, view, image } = this.answered;
    this.scale.hidden = view !== "deviation";
    this.#paintImage(this.picture, view === "deviation" ? this.#heat(values) : this.#colours(values), this.#cell());
    this.caption.textContent = VIEWS[view];
    this.picture.setAttribute("aria-label", `The answer for ${this.nameOf(image)}: ${ABOUT[view]}`);
    this.numbers.textContent = this.#summary();
  }

  #summary() {
    const { observed, logDensity, view, logCompleted, upperBound } = this.answered, nats = (x) => x.toFixed(1).replace("-", "−");
    const seen = `${total([...observed])} of ${observed.length} pixels visible, log-density ${nats(logDensity)} nats.`;
    if (view !== "explanation") return `${seen} Shown: ${ABOUT[view]}.`;
    return `${seen} Shown: ${ABOUT[view]}. As a whole it has ${nats(logCompleted)} nats, and no completion more than ${nats(upperBound)}.`;
  }

  #speak() {
    if (this.answered) this.spoken.textContent = this.#summary();
  }
}

function clamped(colour) {
  return colour.map((byte) => clamp(byte, 0, 255));
}

function heatColour(share) {
  const place = clamp(share, 0, 1) * (HEAT.length - 1), i = Math.min(Math.floor(place), HEAT.length - 2);
  return HEAT[i].map((low, c) => low + (place - i) * (HEAT[i + 1][c] - low));
}

// Who answers: the engine, or a kernel

function engineAnswers(model) {
  const next = random(Date.now());
  let key = "", given = null;
  return async ({ image, x, observed, view }) => {
    await new Promise(requestAnimationFrame); // the stroke is drawn before the engine works
    const asked = `${image} ${observed}`;
    if (asked !== key) [key, given] = [asked, model.given(x, observed)];
    const { logDensity } = given;
    if (view === "sample") return { logDensity, values: given.sample(next) };
    if (view !== "explanation") return { logDensity, values: given.moments()[view] };
    const best = given.explanation();
    return { logDensity, values: best.x, logCompleted: best.logDensity, upperBound: best.upperBound };
  };
}

function kernelAnswers(model) {
  let count = 0;
  return ({ image, observed, view }) => new Promise((resolve, reject) => {
    const id = ++count;
    const finish = (settle, result) => {
      clearTimeout(timer);
      model.off("msg:custom", listen);
      settle(result);
    };
    const listen = (content, buffers) => {
      if (content.id !== id) return;
      if (content.error) return finish(reject, new Error(content.error));
      const { buffer, byteOffset, byteLength } = buffers[0];
      finish(resolve, { ...content, values: new Float32Array(buffer.slice(byteOffset, byteOffset + byteLength)) });
    };
    const timer = setTimeout(() => finish(reject, new Error("The kernel does not answer. Is it busy, or gone?")), PATIENCE);
    model.on("msg:custom", listen);
    model.send({ id, image, view }, undefined, [observed.buffer]);
  });
}

function render({ model, el }) {
  new Widget(element(el, "div", { class: "einet-inpaint" }), model.get("page"), kernelAnswers(model));
}

// A page without a kernel: models come as classic scripts that hold base64, since a page from the disk may not fetch

const loading = {};

function loadModel(file, base) {
  loading[file] ??= new Promise((resolve, reject) => {
    const script = element(document.head, "script", { src: new URL(`${encodeURIComponent(file)}.js`, base) });
    script.onload = () => resolve(globalThis.einetModels?.[file]);
    script.onerror = () => reject(new Error("there is no such file"));
  }).then((text) => readModel(decoded(text ?? "").buffer));
  return loading[file];
}

function start(base) {
  document.querySelectorAll(".einet-inpaint[data-page]").forEach(async (root) => {
    const page = JSON.parse(root.dataset.page);
    root.removeAttribute("data-page");
    root.textContent = "The model is being loaded.";
    try {
      const model = await loadModel(page.file, base);
      const sizes = ["height", "width", "channels"], differ = sizes.some((size) => model[size] !== page[size]);
      if (differ) throw new Error(`it is a model of ${model.height} x ${model.width} pixels, the images are ${page.height} x ${page.width}`);
      new Widget(root, page, engineAnswers(model));
    } catch (error) {
      root.textContent = "";
      element(root, "p", { class: "message", role: "alert" }, `The model “${page.file}” could not be read: ${error.message}. Build the book anew, or run this page in JupyterLab.`);
    }
  });
}

export { random, readModel, start };
export default { render };
