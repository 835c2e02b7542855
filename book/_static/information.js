// The figure of chapter 5 about learned trees that answers: press two variables, and see how often their values meet, what they
// know of each other, and how the tree joins them. A classic script without dependencies, so that it also runs from file://. It
// fills every element of class "information-figure" with the counts and the edges that a cell of the page left in the element
// "information-data", and leaves its answer in data attributes, which tests/book/test_browser.py compares with einet.
(() => {
  "use strict";

  const add = (numbers) => numbers.reduce((a, b) => a + b, 0);
  const marginals = (table) => [table.map(add), table[0].map((_, b) => add(table.map((row) => row[b])))];

  // Nats, from a table of counts. A pseudocount is added to each pair of values that the two variables have at all.
  function informationOf(table, pseudocount) {
    const [left, right] = marginals(table).map((counts) => counts.map((n) => n > 0));
    const smooth = table.filter((_, a) => left[a]).map((row) => row.filter((_, b) => right[b]).map((n) => n + pseudocount));
    const [p, q] = marginals(smooth), total = add(p);
    return add(smooth.flatMap((row, a) => row.map((n, b) => (n ? (n / total) * Math.log((n * total) / (p[a] * q[b])) : 0))));
  }

  // The variables on the way from one to another in the tree, both ends included.
  function way(near, from, to, before = -1) {
    if (from === to) return [to];
    for (const next of near[from]) {
      const rest = next === before ? null : way(near, next, to, from);
      if (rest) return [from, ...rest];
    }
    return null;
  }

  function prepared(set) {
    const [height, width] = set.shape, count = height * width, levels = set.levels.length;
    const near = Array.from({ length: count }, () => []);
    set.edges.forEach(([u, v]) => { near[u].push(v); near[v].push(u); });
    const table = (u, v) => { // set.counts[u] has the tables of u with u + 1, u + 2 and so on, row by row
      const flat = set.counts[Math.min(u, v)][Math.abs(u - v) - 1];
      return set.levels.map((_, a) => set.levels.map((_, b) => (u < v ? flat[a * levels + b] : flat[b * levels + a])));
    };
    const name = (v) => set.names ? `${set.names[0][Math.floor(v / width)]}, ${set.names[1][v % width]}`
      : `row ${Math.floor(v / width) + 1}, column ${(v % width) + 1}`;
    return { ...set, height, width, count, near, table, name };
  }

  // A line from cell to cell; one that would run over others is bent.
  function line(set, pair, kind, width) {
    const [u, v] = [Math.min(...pair), Math.max(...pair)];
    const [x, y, X, Y] = [u % set.width, Math.floor(u / set.width), v % set.width, Math.floor(v / set.width)].map((c) => c + 0.5);
    const far = Math.abs(X - x) > 1 || Math.abs(Y - y) > 1 ? ((u + v) % 2 ? -0.25 : 0.25) : 0;
    return `<path class="${kind}" stroke-width="${width.toFixed(1)}" d="M${x} ${y}Q${(x + X) / 2 - far * (Y - y)} ${(y + Y) / 2 + far * (X - x)} ${X} ${Y}"/>`;
  }

  function build(root, data, id) {
    const sets = data.sets.map(prepared);
    root.innerHTML = `<div class="controls"><label>of <select>${sets.map((s, i) => `<option value="${i}">${s.title}</option>`).join("")}
      </select></label></div><div class="panels"><div class="map"></div><div class="counts"></div></div><output aria-live="polite"></output>`;
    const [select, map, counts, output] = ["select", ".map", ".counts", "output"].map((s) => root.querySelector(s));
    let set, chosen, strengths; // the last is the information of every edge
    const between = ([u, v]) => informationOf(set.table(u, v), data.pseudocount);

    function choose(number) {
      set = sets[number];
      strengths = set.edges.map(between);
      chosen = [...set.edges[strengths.indexOf(Math.max(...strengths))]];
      const heads = set.names ? set.names[1].map((name) => `<span>${name}</span>`).join("") : "";
      map.className = `map ${set.names ? "named" : "pixels"}`;
      map.innerHTML = `<div class="heads" style="--columns: ${set.width}">${heads}</div>` +
        `<div class="names">${set.names ? set.names[0].map((name) => `<span>${name}</span>`).join("") : ""}</div>` +
        `<div class="cells" role="group" aria-label="Variables: press two; arrow keys move" style="--columns: ${set.width}">` +
        Array.from({ length: set.count }, (_, v) => `<button type="button" data-variable="${v}" title="${set.name(v)}"
          aria-label="${set.name(v)}"></button>`).join("") +
        `<svg viewBox="0 0 ${set.width} ${set.height}" preserveAspectRatio="none" aria-hidden="true"></svg></div>`;
      draw();
    }

    function draw() {
      const [u, v] = chosen, table = set.table(u, v), nats = between(chosen);
      const others = Array.from({ length: set.count }, (_, w) => (w === v ? 0 : between([w, v]))), most = Math.max(...others, 1e-9);
      const path = way(set.near, u, v), steps = path.slice(1).map((next, i) => [path[i], next]);
      map.querySelectorAll("button").forEach((button, w) => {
        button.style.setProperty("--known", `${Math.round(90 * (others[w] / most) ** 0.7)}%`);
        button.setAttribute("aria-pressed", chosen.includes(w));
        button.tabIndex = w === v ? 0 : -1;
      });
      map.querySelector("svg").innerHTML = set.edges.map((edge, i) =>
        line(set, edge, "edge", 4 * Math.sqrt(strengths[i] / Math.max(...strengths)))).join("") +
        steps.map((edge) => line(set, edge, "way", 4)).join("");
      const [left, right] = marginals(table), total = add(left);
      counts.innerHTML = `<table><caption>${set.name(u)} (down)<br>${set.name(v)} (across)</caption><thead><tr><td></td>` +
        set.levels.map((level) => `<th scope="col">${level}</th>`).join("") + `</tr></thead><tbody>` + table.map((row, a) =>
        `<tr><th scope="row">${set.levels[a]}</th>` + row.map((n, b) => {
          const expected = (left[a] * right[b]) / total, share = Math.min(1, Math.abs(Math.log((n + 0.5) / (expected + 0.5))));
          return `<td class="${n < expected ? "fewer" : "more"}" style="--share: ${Math.round(55 * share)}%">${n}<small>${Math.round(expected)}</small></td>`;
        }).join("") + `</tr>`).join("") + `</tbody></table><p>Small numbers: as many rows there would be if the two were independent.
        The greener a ${set.names ? "column" : "pixel"}, the more it knows of “${set.name(v)}”.</p>`;
      const edge = steps.length === 1, weakest = Math.min(...steps.map(between));
      Object.assign(root.dataset, { set: sets.indexOf(set), pair: chosen.join("-"), information: nats, steps: steps.length, weakest });
      output.innerHTML = `<b>${nats.toFixed(3)} nats</b> of mutual information. ` + (edge ? "An edge of the tree joins the two."
        : `The tree joins the two in ${steps.length} steps, each of at least ${weakest.toFixed(3)} nats.`);
    }

    function press(variable) {
      if (variable !== chosen[1]) chosen = [chosen[1], variable];
      draw();
    }

    map.addEventListener("click", ({ target }) => {
      if (target.dataset.variable) press(Number(target.dataset.variable));
    });
    map.addEventListener("keydown", (event) => {
      const at = Number(event.target.dataset.variable), { width, count } = set;
      const to = { ArrowLeft: at % width ? at - 1 : at, ArrowRight: (at + 1) % width ? at + 1 : at, ArrowUp: at - width, ArrowDown: at + width }[event.key];
      if (to === undefined || Number.isNaN(at)) return;
      event.preventDefault();
      if (to >= 0 && to < count) map.querySelector(`[data-variable="${to}"]`).focus();
    });
    select.addEventListener("change", () => choose(Number(select.value)));
    choose(0);
  }

  einetFigure("information", (root, id) => build(root, JSON.parse(document.getElementById("information-data").textContent), id));
})();
