// Families, each with its `fields`: log p(x) = sum of factor * theta[t] over `terms(x)`, less a, plus the base measure.
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

const FAMILIES = { Bernoulli: BINOMIAL, Binomial: BINOMIAL, Normal: NORMAL, Categorical: CATEGORICAL };

export { FAMILIES };
