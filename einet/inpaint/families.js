// Families, each with its `fields`: log p(x) = sum of factor * theta[t] over `terms(x, fields)`, less a, plus the base measure.
// phi are the T expectation parameters of one variable, channel and entry.

import { clamp, drawn, largest, total } from "./tools.js";

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

const SMALLEST_POSITIVE = 2 ** -126; // of float32, without denormal numbers
const placeOf = (x, { atoms }) => atoms.findIndex((atom) => x === atom || x === Math.fround(atom));
const innerOf = ({ family: { family, fields } }) => [FAMILIES[family], fields];
const halvesOf = (phi, { atoms }) => [phi.slice(0, atoms.length + 1), phi.slice(atoms.length + 1)];

// The next float32, for a mode that is an atom: there the density is not asked
function above(x) {
  const next = new Float32Array([x]), bits = new Int32Array(next.buffer);
  bits[0] += x < 0 ? -1 : 1;
  return Math.max(next[0], x + SMALLEST_POSITIVE);
}

// Atoms, values that have a probability of their own, beside a density of another family. phi are the atoms' probabilities,
// that of the rest, and what the other family has.
const WITH_ATOMS = {
  project(phi, fields) {
    const [which, own] = halvesOf(phi, fields), [inner, innerFields] = innerOf(fields);
    const categories = { categories: which.length, floor: fields.floor };
    return [...CATEGORICAL.project(which, categories), ...inner.project(own, innerFields)];
  },
  natural(phi, fields) {
    const [which, own] = halvesOf(phi, fields), [inner, innerFields] = innerOf(fields);
    const { theta, a } = inner.natural(own, innerFields), logs = Array.from(which, Math.log);
    return { theta: [...logs.slice(0, -1), logs.at(-1) - a, ...theta], a: 0 };
  },
  terms(x, fields) {
    const place = placeOf(x, fields), [inner, innerFields] = innerOf(fields), rest = fields.atoms.length;
    if (place >= 0) return [[place, 1]];
    return [[rest, 1], ...inner.terms(x, innerFields).map(([t, factor]) => [rest + 1 + t, factor])];
  },
  base(x, fields) {
    const [inner, innerFields] = innerOf(fields);
    return placeOf(x, fields) < 0 ? inner.base(x, innerFields) : 0;
  },
  mean(phi, fields) {
    const [which, own] = halvesOf(phi, fields), [inner, innerFields] = innerOf(fields);
    const values = [...fields.atoms, inner.mean(own, innerFields)];
    return values.reduce((sum, value, i) => sum + which[i] * value, 0);
  },
  variance(phi, fields) {
    const [which, own] = halvesOf(phi, fields), [inner, innerFields] = innerOf(fields), mean = this.mean(phi, fields);
    const values = [...fields.atoms, inner.mean(own, innerFields)];
    const between = values.reduce((sum, value, i) => sum + which[i] * (value - mean) ** 2, 0);
    return between + which.at(-1) * inner.variance(own, innerFields);
  },
  mode(phi, fields) { // a probability and a density are compared as numbers
    const [which, own] = halvesOf(phi, fields), [inner, innerFields] = innerOf(fields);
    const peak = inner.mode(own, innerFields), value = placeOf(peak, fields) < 0 ? peak : above(peak);
    const { theta, a } = inner.natural(own, innerFields), terms = inner.terms(value, innerFields);
    const log = terms.reduce((sum, [t, factor]) => sum + factor * theta[t], inner.base(value, innerFields) - a);
    const probabilities = which.slice(0, -1), most = largest(probabilities);
    return Math.log(probabilities[most]) >= log + Math.log(which.at(-1)) ? fields.atoms[most] : value;
  },
  sample(phi, fields, random) {
    const [which, own] = halvesOf(phi, fields), [inner, innerFields] = innerOf(fields), place = drawn(which, random);
    return place < fields.atoms.length ? fields.atoms[place] : inner.sample(own, innerFields, random);
  },
};

const FAMILIES = { Bernoulli: BINOMIAL, Binomial: BINOMIAL, Normal: NORMAL, Categorical: CATEGORICAL, WithAtoms: WITH_ATOMS };

export { FAMILIES };
