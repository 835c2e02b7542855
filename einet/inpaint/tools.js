// Small tools of the engine and of the view

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

export { clamp, drawn, largest, logSumExp, product, random, total };
