// The engine: a circuit in JavaScript that answers as einet does, from a file that `einet.inpaint.export` wrote.
//
//     const given = readModel(buffer).given(x, observed); // x (D * C) numbers, observed (D) booleans
//     given.logDensity, given.sample(random(7)), given.moments(), given.explanation()
//
// Letters as in einet: D variables, C channels, K entries of a region's vector, T statistics of a leaf, P pairs of a
// leaf region and a variable in it. tests/inpaint/test_inpaint.py holds the engine beside einet.

import { Circuit } from "./circuit.js";
import { missing, readFile } from "./file.js";
import { drawn, largest, logSumExp, total } from "./tools.js";

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
  moments(posterior = this.posterior) {
    const sums = [0, 1, 2].map(() => new Float64Array(this.x.length));
    this.model.components.forEach((circuit, c) => {
      if (posterior[c] < 1e-12) return;
      const uses = circuit.uses(this.passes[c]).map((use) => use * posterior[c]);
      circuit.parts.forEach((part) => part.addMoments(sums, uses, this.observed));
    });
    const hidden = (place) => sums[0][place] > 0;
    const mean = this.x.map((x, place) => (hidden(place) ? sums[1][place] / sums[0][place] : x));
    const deviation = this.x.map((_, place) =>
      hidden(place) ? Math.sqrt(Math.max(sums[2][place] / sums[0][place] - mean[place] ** 2, 0)) : 0);
    return { mean, deviation };
  }

  // The component that is most probable, and the exact conditional mean within it
  kind() {
    const kind = largest(this.posterior);
    return { kind, x: this.moments(this.posterior.map((_, c) => Number(c === kind))).mean };
  }

  // The log-density of the whole image, the hidden part as it is
  logDensityOfAll() {
    return this.#of(this.x);
  }

  // A probable completion, as `einet.mpe`: approximate. Two trees are decoded, the best one of a pass of maxima and
  // the one that follows the largest odds of the sum pass, and the better completion is kept, with a bound on any.
  explanation() {
    const { components } = this.model;
    const modes = components.map((circuit) => circuit.leafLogs(this.x, this.observed, true));
    const bounds = components.map((circuit, c) => circuit.upward(modes[c]).logRoot + this.bases[c]);
    const maxima = components.map((circuit, c) => circuit.upward(modes[c], true));
    const [best, usual] = [maxima, this.passes].map((passes) => {
      const c = largest(passes.map((pass, c) => pass.logRoot + this.bases[c]));
      const x = this.#filled(c, passes[c], largest, (family, phi, fields) => family.mode(phi, fields));
      return { x, logDensity: this.#of(x) };
    });
    const found = usual.logDensity > best.logDensity ? usual : best;
    return { ...found, upperBound: Math.max(logSumExp(bounds), found.logDensity) };
  }

  #of(x) {
    return this.model.given(x, this.observed.map(() => 1)).logDensity;
  }

  #filled(c, pass, pick, value) {
    const circuit = this.model.components[c], x = this.x.slice(), entryOf = circuit.descend(pass, pick);
    circuit.parts.forEach((part) => part.fill(x, this.observed, entryOf, value));
    return x;
  }
}

const readModel = (buffer) => new Model(buffer);

export { readModel };
