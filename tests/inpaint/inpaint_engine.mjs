// Answers questions to the engine of einet/inpaint: JSON on standard input, JSON on standard output.
// The engine is one file, as pages.joined makes it, that exports random, readModel and sha256.
//   node inpaint_engine.mjs engine.js any-file sha256
//   node inpaint_engine.mjs engine.js model.safetensors < [{"x", "observed", "samples", "pairs", "moments", "explanation"}, ...]
import { readFileSync } from "node:fs";

const [engine, file] = process.argv.slice(2);
// Through a data URL: node takes a .js file without a package.json for a classic script.
const { random, readModel, sha256 } = await import(`data:text/javascript;base64,${readFileSync(engine).toString("base64")}`);
const bytes = readFileSync(file);
if (process.argv[4] === "sha256") {
  console.log(JSON.stringify({ answers: sha256(bytes) }));
  process.exit();
}
const next = random(1);

try {
  const model = readModel(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  const answers = JSON.parse(readFileSync(0, "utf8")).map((question) => {
    const given = model.given(Float64Array.from(question.x), question.observed);
    const { mean, deviation } = question.moments ? given.moments() : { mean: [], deviation: [] };
    const best = question.explanation ? given.explanation() : null, { kind, x } = question.moments ? given.kind() : {};
    return {
      logDensity: given.logDensity,
      samples: Array.from({ length: question.samples ?? 0 }, () => Array.from(given.sample(next))),
      pairs: Array.from({ length: question.pairs ?? 0 }, (_, seed) =>
        [true, false].map((noise) => Array.from(given.sample(random(seed), noise)))),
      mean: Array.from(mean),
      deviation: Array.from(deviation),
      kind: question.moments && { kind, x: Array.from(x), posterior: given.posterior },
      logDensityOfAll: given.logDensityOfAll(),
      best: best && { ...best, x: Array.from(best.x) },
    };
  });
  console.log(JSON.stringify({ answers }));
} catch (error) {
  console.log(JSON.stringify({ error: error.message }));
}
