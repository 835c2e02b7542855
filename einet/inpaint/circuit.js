// One network. A node is a region or a partition: a vector of entries. In a pass all vectors lie in one array, a node's
// from `start` on, and are to be multiplied by exp(scale[index]), so that nothing underflows. A partition's products lie in
// another array, from `first` on.

import { missing } from "./file.js";
import { Leaves } from "./leaves.js";

class Circuit {
  constructor(description, layout, prefix, file) {
    this.size = this.count = this.numTerms = 0; // numbers, nodes, and products
    const phi = (p) => file.tensor(`${prefix}leaves.parts.${p}.phi`);
    this.parts = layout.leaves.map((pairs, p) => new Leaves(description.leaf[p], pairs, phi(p)));
    const numLeaves = 1 + layout.leaves.flatMap((pairs) => pairs.regions).reduce((most, region) => Math.max(most, region));
    this.regions = Array.from({ length: numLeaves }, () => this.#node(description.num_leaves)); // children come first
    this.constant = this.#node(1); // the region about no variables, -1 in the file
    const thin = description.sum_product === "cp";
    layout.levels.forEach((regions, depth) => {
      for (const region of regions) this.regions.push(this.#region(region, `${prefix}levels.${depth}`, file, thin));
    });
    this.leaves = this.regions.slice(0, numLeaves);
    this.inner = this.regions.slice(numLeaves);
    this.root = this.inner.at(-1);
    this.known = new WeakMap(); // from images to what their values say to the leaves
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
      const first = this.numTerms;
      this.numTerms += choices;
      return this.#node(height, { weights, children, choices, first, thin });
    });
    const { entries } = own[0]; // of the weights, too, which are (partitions, entries)
    const { weights } = mixing ? row("mixings", mixing, 1) : { weights: new Float64Array(entries).fill(1) };
    return this.#node(entries, { weights, partitions: own });
  }

  // Log-densities of what is observed, and, where asked for, of the modes of what is hidden. An image is one array, never
  // written to: what its values say is kept, so that another mask over the same image costs little.
  leafLogs(x, observed, withModes = false) {
    if (!this.known.has(x)) this.known.set(x, this.parts.map((part) => part.logs(x)));
    const logs = new Float64Array(this.leaves.length * this.leaves[0].entries);
    this.parts.forEach((part, p) => {
      part.addTo(logs, this.known.get(x)[p], observed, true);
      if (withModes) part.addTo(logs, part.logsOfModes(), observed, false);
    });
    return logs;
  }

  // From log-densities of the leaves to the vectors of all nodes. With `maximum`, maxima stand where the sums were.
  upward(leafLogs, maximum = false) {
    const pass = { value: new Float64Array(this.size), scale: new Float64Array(this.count) };
    pass.log = new Float64Array(this.size); // of the values of regions, also where these are too small for a number
    pass.terms = new Float64Array(this.numTerms); // the products that a partition's sums weigh, one a choice
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
    const entryOf = new Int32Array(this.leaves.length).fill(-1), visits = [[this.root, 0]];
    while (visits.length) { // a tree may be deep
      const [region, k] = visits.pop();
      if (region === this.constant) continue;
      if (!region.partitions) {
        entryOf[region.index] = k;
        continue;
      }
      const partition = region.partitions[pick(oddsOfPartitions(region, pass, k))];
      const choice = pick(oddsOfTerms(partition, pass, k));
      partition.children.forEach((child, c) => visits.push([child, entryTaken(partition, c, choice)]));
    }
    return entryOf;
  }

  // The probability, given what is observed, that the tree uses an entry: of all nodes, the leaves' first
  uses(pass) {
    const uses = new Float64Array(this.size);
    uses[this.root.start] = 1;
    for (let r = this.inner.length - 1; r >= 0; r--) {
      const region = this.inner[r];
      share(region, pass, uses);
      for (const partition of region.partitions) passOn(partition, pass, uses);
    }
    return uses;
  }
}

// The largest of numbers from a place on
function peakOf(numbers, start, count) {
  let peak = -Infinity;
  for (let at = start; at < start + count; at++) peak = Math.max(peak, numbers[at]);
  return peak;
}

function scaleLeaf({ start, entries, index }, logs, { value, log, scale }) {
  const peak = (scale[index] = peakOf(logs, start, entries));
  for (let at = start; at < start + entries; at++) {
    log[at] = peak === -Infinity ? -Infinity : logs[at] - peak;
    value[at] = Math.exp(log[at]);
  }
}

// The entry of child c that a choice takes: in a thin layer that of its number, else choices are pairs, left by left
function entryTaken({ children, thin }, c, choice) {
  if (thin) return choice;
  const width = children[1].entries;
  return c === 0 ? Math.floor(choice / width) : choice % width;
}

// The outer product, left_i right_j for all pairs, into the terms
function pairUp({ children: [left, right], first }, { value, terms }) {
  for (let i = 0, n = first; i < left.entries; i++) {
    for (let j = 0; j < right.entries; j++) terms[n++] = value[left.start + i] * value[right.start + j];
  }
  return 0;
}

// The product entry by entry, of any number of children, into the terms, which are to be multiplied by exp of what is
// returned: by logarithms, in which nothing underflows
function lineUp({ children, choices, first }, { log, terms }) {
  for (const { start } of children) for (let n = 0; n < choices; n++) terms[first + n] += log[start + n];
  const shift = Math.max(-Number.MAX_VALUE, peakOf(terms, first, choices)); // where all are impossible, none becomes possible
  for (let n = first; n < first + choices; n++) terms[n] = Math.exp(terms[n] - shift);
  return shift;
}

function sumOfTerms(weights, at, terms, first, choices) {
  let sum = 0;
  for (let n = 0; n < choices; n++) sum += weights[at + n] * terms[first + n];
  return sum;
}

function largestTerm(weights, at, terms, first, choices) {
  let most = 0;
  for (let n = 0; n < choices; n++) most = Math.max(most, weights[at + n] * terms[first + n]);
  return most;
}

// A partition's vector: S_k = sum_n W_kn term_n, or the largest of them
function multiply(partition, pass, maximum) {
  const { children, weights, entries, choices, start, first, index, thin } = partition, { value, terms, scale } = pass;
  scale[index] = thin ? lineUp(partition, pass) : pairUp(partition, pass);
  for (const child of children) scale[index] += scale[child.index];
  const combine = maximum ? largestTerm : sumOfTerms;
  for (let k = 0; k < entries; k++) value[start + k] = combine(weights, k * choices, terms, first, choices);
}

// A region's vector is the mixture of its partitions', sum_p w_pk S_pk, or the largest term; its largest entry is 1
function mix({ weights, partitions, entries, start, index }, { value, log, scale }, maximum) {
  let peak = -Infinity;
  for (const partition of partitions) peak = Math.max(peak, scale[partition.index]);
  partitions.forEach((partition, p) => {
    const relative = Math.exp(scale[partition.index] - peak);
    for (let k = 0; k < entries; k++) {
      const term = weights[p * entries + k] * relative * value[partition.start + k];
      value[start + k] = maximum ? Math.max(value[start + k], term) : value[start + k] + term;
    }
  });
  const top = Math.max(Number.MIN_VALUE, peakOf(value, start, entries));
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
function oddsOfTerms({ weights, choices, first }, { terms }, k) {
  return terms.slice(first, first + choices).map((term, n) => weights[k * choices + n] * term);
}

// From the uses of a region's entries to those of its partitions', by their odds
function share({ weights, partitions, entries, start, index }, { value, scale }, uses) {
  partitions.forEach((partition, p) => {
    const relative = Math.exp(scale[partition.index] - scale[index]);
    for (let k = 0; k < entries; k++) {
      const use = uses[start + k] && uses[start + k] / value[start + k];
      uses[partition.start + k] = use && use * weights[p * entries + k] * relative * value[partition.start + k];
    }
  });
}

// From the uses of a partition's entries on to those of its children's: sum_k use_k W_kn term_n / S_k
function passOn(partition, { value, terms }, uses) {
  const { children, weights, entries, choices, start, first } = partition, factors = new Float64Array(choices);
  for (let k = 0; k < entries; k++) {
    const share = uses[start + k] && uses[start + k] / value[start + k];
    if (share) for (let n = 0; n < choices; n++) factors[n] += share * weights[k * choices + n];
  }
  children.forEach((child, c) => {
    for (let n = 0; n < choices; n++) uses[child.start + entryTaken(partition, c, n)] += factors[n] * terms[first + n];
  });
}

export { Circuit };
