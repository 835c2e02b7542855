// The leaves of one family: K entries for each of P pairs of a leaf region and a variable in it, and each of C channels.
// Entry k of channel c of a pair is number n = (pair * C + c) * K + k.

import { FAMILIES } from "./families.js";
import { missing } from "./file.js";

class Leaves {
  constructor({ family, fields }, pairs, { values, shape: [T, P, C, K] }) {
    if (!FAMILIES[family] || P !== pairs.regions.length || P !== pairs.variables.length) missing(`leaves of ${family}`);
    const count = P * C * K;
    Object.assign(this, { family: FAMILIES[family], fields, T, C, K, tables: {} });
    this.regions = Int32Array.from(pairs.regions);
    this.variables = Int32Array.from(pairs.variables);
    this.distinct = [...new Set(pairs.variables)]; // a variable may be in many leaf regions
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

  // Of every entry: the log-density of an image's value, less the base measure, which all entries share
  logs(x) {
    const logs = new Float64Array(this.a.length);
    this.#each(null, true, (n, _, place) => {
      const terms = this.family.terms(x[place], this.fields);
      for (let k = 0; k < this.K; k++) logs[n + k] = this.#log(n + k, terms);
    });
    return logs;
  }

  // Of every entry: the density of its mode, base measure included
  logsOfModes() {
    return this.#table("modes", (phi, n) => {
      const mode = this.family.mode(phi, this.fields);
      return this.#log(n, this.family.terms(mode, this.fields)) + this.family.base(mode, this.fields);
    });
  }

  // Onto sums (L * K): numbers of the entries (P * C * K) of all that is observed, or of all that is hidden
  addTo(sums, entries, observed, wanted) {
    this.#each(observed, wanted, (n, row) => {
      for (let k = 0; k < this.K; k++) sums[row + k] += entries[n + k];
    });
  }

  // The base measure of what is observed, where each variable counts once
  logBase(x, observed) {
    let log = 0;
    for (const d of this.distinct) {
      if (!observed[d]) continue;
      for (let c = 0; c < this.C; c++) log += this.family.base(x[d * this.C + c], this.fields);
    }
    return log;
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
    const means = this.#table("means", (phi) => this.family.mean(phi, this.fields));
    const squares = this.#table("squares", (phi, n) => this.family.variance(phi, this.fields) + means[n] ** 2);
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
    const { C, K, regions, variables } = this;
    for (let pair = 0; pair < regions.length; pair++) {
      const variable = variables[pair];
      if (observed && Boolean(observed[variable]) !== wanted) continue;
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
    return (this.tables[name] ??= Float64Array.from(this.a, (_, n) => entry(this.#phi(n), n)));
  }
}

export { Leaves };
