// The figure of chapter 4 that answers: Algorithm 1 step by step, with and without the rule that a region waits.
// A classic script without dependencies, so that it also runs from file://. It fills every element of class "layers-figure".
(() => {
  "use strict";
  const GRAPHS = [
    ["the graph above", "A|BCD AB|CD ABC|D A|BC AB|C AC|B B|CD BC|D A|B B|C C|D A|C"],
    ["two trees", "AB|CD AC|BD A|B C|D A|C B|D"],
    ["a chain", "A|BCD B|CD C|D"],
  ];
  const SPACE = 64; // between rows

  const list = (names) => (names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names[names.length - 1]}`);

  function graph(splits) {
    const partitions = splits.split(" ").map((split) => {
      const [left, right] = split.split("|");
      return { whole: [...(left + right)].sort().join(""), parts: [left, right] };
    });
    const regions = [...new Set(partitions.flatMap((p) => [p.whole, ...p.parts]))].sort((a, b) => a.length - b.length || (a < b ? -1 : 1));
    const parents = Object.fromEntries(regions.map((r) => [r, [...new Set(partitions.filter((p) => p.parts.includes(r)).map((p) => p.whole))]]));
    const leaves = regions.filter((r) => !partitions.some((p) => p.whole === r));
    return { partitions, regions, parents, leaves };
  }

  // Steps from the root down. With the rule a region waits for all of its parents, without it for one.
  function run({ regions, parents }, rule) {
    const steps = [], visited = new Set();
    while (visited.size < regions.length) {
      const step = regions.filter((r) => !visited.has(r) &&
        (rule || !parents[r].length ? parents[r].every((p) => visited.has(p)) : parents[r].some((p) => visited.has(p))));
      step.forEach((r) => visited.add(r));
      steps.push(step);
    }
    return steps;
  }

  function picture(g, visited, fresh, wrong) {
    const sizes = [...new Set(g.regions.map((r) => r.length))].sort((a, b) => b - a), at = {};
    sizes.forEach((size, row) => {
      const own = g.regions.filter((r) => r.length === size);
      own.forEach((r, i) => { at[r] = [(360 * (i + 0.5)) / own.length, 24 + row * SPACE]; });
    });
    const edges = [], dots = [];
    for (const r of g.regions) {
      const own = g.partitions.filter((p) => p.whole === r);
      own.forEach((p, i) => {
        const x = at[r][0] + 20 * (i - (own.length - 1) / 2), y = at[r][1] + 25, on = visited.has(r) ? " visited" : "";
        edges.push(`<path class="${on}" d="M${at[r][0]} ${at[r][1]}L${x} ${y}"/>`);
        for (const part of p.parts) edges.push(`<path class="${on}" d="M${x} ${y}L${at[part][0]} ${at[part][1] - 13}"/>`);
        dots.push(`<circle class="${on}" cx="${x}" cy="${y}" r="6"/>`);
      });
    }
    const boxes = g.regions.map((r) => {
      const width = 16 + 11 * r.length, on = visited.has(r) ? " visited" : "";
      const kind = (g.leaves.includes(r) ? "leaf" : "") + on + (wrong.has(r) ? " wrong" : fresh.includes(r) ? " new" : "");
      return `<rect class="${kind}" x="${at[r][0] - width / 2}" y="${at[r][1] - 13}" width="${width}" height="26" rx="5"/>` +
        `<text class="${on}" x="${at[r][0]}" y="${at[r][1] + 5}">${r}</text>`;
    });
    return `<svg viewBox="0 0 360 ${48 + (sizes.length - 1) * SPACE}" role="img" aria-label="The region graph; filled regions have been visited">` +
      edges.join("") + dots.join("") + boxes.join("") + "</svg>";
  }

  function build(root) {
    const options = GRAPHS.map(([name], i) => `<option value="${i}">${name}</option>`).join("");
    root.innerHTML = `<div class="controls"><select aria-label="graph">${options}</select>
      <label><input type="checkbox" checked> wait for all parents</label>
      <button type="button">step</button><button type="button">back</button><button type="button">start again</button></div>
      <div class="panels"><div style="display: contents"></div><ol aria-label="layers"></ol></div><output aria-live="polite"></output>`;
    const [select, rule, drawing, rows, output] = ["select", "input", ".panels > div", "ol", "output"].map((s) => root.querySelector(s));
    const [forth, back, again] = root.querySelectorAll("button");
    let at = 0;

    function tell(g, steps, wrong) {
      if (!at) return `Nothing has been visited. The root ${g.regions[g.regions.length - 1]} has no parents, so it need not wait.`;
      const last = at > steps.length, now = new Set(steps.slice(0, at).flat());
      if (wrong.size) return [...wrong].map(([child, parent]) => `${child} stands beside or above ${parent}, which needs it.`).join(" ") +
        " Evaluated layer by layer from below, this order fails.";
      if (last) return `All leaf regions move to layer 0, whatever their step was. From there up, every layer finds its children ready. ${steps.length} steps` +
        `${rule.checked ? ", as many as the longest way down has regions." : "; this graph does not need the rule."}`;
      const waiting = !rule.checked ? [] : g.regions.filter((r) => !now.has(r) && g.parents[r].some((p) => now.has(p)) && g.parents[r].some((p) => !now.has(p)));
      const why = at === 1 ? `${list(steps[0])} joins.` : `${list(steps[at - 1])} ${steps[at - 1].length > 1 ? "join" : "joins"}: ${rule.checked ? "all" : "one"} of ` +
        `${steps[at - 1].length > 1 ? "their" : "its"} parents ${rule.checked ? "have" : "has"} been visited.`;
      return `Step ${at}. ${why} ` + waiting.map((r) => `${r} waits for ${list(g.parents[r].filter((p) => !now.has(p)))}.`).join(" ");
    }

    function draw() {
      const g = graph(GRAPHS[select.value][1]), steps = run(g, rule.checked), last = at > steps.length;
      const visited = new Set(steps.slice(0, at).flat()), place = {};
      steps.slice(0, at).forEach((step, i) => step.forEach((r) => { place[r] = i; }));
      const wrong = new Map(); // inner regions that stand no lower than a parent
      for (const r of visited) for (const p of g.parents[r])
        if (!g.leaves.includes(r) && place[p] >= place[r]) wrong.set(r, p);
      drawing.innerHTML = picture(g, visited, last ? [] : steps[at - 1] || [], wrong);
      const chips = (names) => names.map((r) => `<span class="${g.leaves.includes(r) ? "leaf" : ""}">${r}</span>`).join("");
      const inner = steps.map((step) => step.filter((r) => !g.leaves.includes(r))).filter((step) => step.length);
      rows.innerHTML = last
        ? [...inner, g.leaves].map((names, i) => `<li><b>layer ${inner.length - i}</b>${chips(names)}</li>`).join("")
        : steps.map((step, i) => `<li><b>step ${i + 1}</b>${i < at ? chips(step) : ""}</li>`).join("");
      forth.disabled = last;
      back.disabled = again.disabled = !at;
      output.textContent = tell(g, steps, wrong);
    }
    forth.addEventListener("click", () => { at += 1; draw(); if (forth.disabled) back.focus(); });
    back.addEventListener("click", () => { at -= 1; draw(); });
    again.addEventListener("click", () => { at = 0; draw(); });
    select.addEventListener("change", () => { at = 0; draw(); });
    rule.addEventListener("change", () => { at = 0; draw(); });
    draw();
  }

  einetFigure("layers", build);
})();
