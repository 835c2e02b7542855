// The table of chapter 10 that answers: it sorts, it filters, and it says where each number came from.
// A classic script without dependencies, so that it also runs from file://. A cell of the page left a plain table in every
// element of class "debd-figure", and beside it as JSON what there is to tell of each number; without this script the
// plain table stays.
(() => {
  "use strict";
  const NAME = 0, REACHED = 1, FIRST = 2; // columns: the set, as what ours is good, and the first number
  const at = (columns, key) => FIRST + columns.indexOf(key);
  const FILTERS = {
    "all sets": () => true,
    "(e) as good as the best of any kind": (values) => values[REACHED] === "any kind",
    "(e) as good as the best single circuit, no more": (values) => values[REACHED] === "single",
    "(e) behind the best single circuit": (values) => ["paper", "none"].includes(values[REACHED]),
    "learned trees (d) behind random ones (c)": (values, columns) => values[at(columns, "d")] < values[at(columns, "c")],
    "not run yet": (values, columns) => ["a", "b", "c", "d", "e"].some((key) => typeof values[at(columns, key)] !== "number"),
  };
  const LETTERS = { "rat-spn": "(a)", einet: "(b)", best: "(c)", learned: "(d)", ensemble: "ensemble" };

  const signed = (number, digits) => number.toFixed(digits).replace("-", "−");
  const count = (number) => Math.round(number).toLocaleString("en");
  const words = (text) => { // what a cell holds: a number where it is one
    const number = parseFloat(text.replace("−", "-"));
    return Number.isNaN(number) ? text.trim() : number;
  };

  function told(name, key, title, text, story) {
    const measured = "error" in story;
    const error = measured ? ` ± ${story.error.toFixed(3)}` : "";
    const whose = key === "e" ? ` This is ${LETTERS[story.learner]}, as validation rows chose.` : "";
    const lines = [`<b>${name}, ${title}: ${text.replace("-", "−")}${error} nats.</b>${whose}` +
      (measured ? ` ${count(story.parameters)} parameters; ${count(story.seconds)} s for all trainings.` : ` ${story.what}`)];
    if (story.test) {
      const { verdict, against, mean_difference: mean, t, p_better: better, p_worse: worse } = story.test;
      const less = Math.min(better, worse), p = less < 1e-4 ? "p < 0.0001" : `p = ${less.toPrecision(2)}`;
      lines.push(`Minus ${LETTERS[against]}, row by row: ${signed(mean, 4)} nats, t = ${signed(t, 2)}, ${p}, one-sided: ${verdict}.`);
    }
    if (measured) lines.push(`<details><summary>how, and from where</summary>${story.what}<br>From: ${story.origin}</details>`);
    return lines.join("<br>");
  }

  function build(root) {
    const { datasets, columns, told: stories } = JSON.parse(root.querySelector("script").textContent);
    const table = root.querySelector("table"), body = table.tBodies[0];
    const rows = [...body.rows].map((row, place) => ({ row, place, values: [...row.cells].map((cell) => words(cell.textContent)) }));
    const controls = document.createElement("div"), scroll = document.createElement("div"), output = document.createElement("output");
    controls.className = "controls";
    controls.innerHTML = `<label>find <input type="search" aria-label="part of a name"></label>
      <label>show <select>${Object.keys(FILTERS).map((name) => `<option>${name}</option>`).join("")}</select></label><span role="status"></span>`;
    scroll.className = "scroll";
    output.setAttribute("aria-live", "polite");
    output.textContent = "Press a number: it says what it is and where it came from. Press a title to sort.";
    table.before(controls, scroll);
    scroll.append(table);
    root.append(output);
    const [find, show, status] = ["input", "select", "span"].map((s) => controls.querySelector(s));

    function filter() {
      const keep = FILTERS[show.value], part = find.value.trim().toLowerCase();
      for (const { row, values, place } of rows) {
        row.hidden = !keep(values, columns) || !`${values[NAME]} ${datasets[place]}`.toLowerCase().includes(part);
      }
      status.textContent = `${rows.filter(({ row }) => !row.hidden).length} of ${rows.length} sets`;
    }
    find.addEventListener("input", filter);
    show.addEventListener("change", filter);
    filter();

    const heads = [...table.tHead.rows[1].cells], titles = heads.map((head) => head.textContent);
    function sort(column) { // up, down, and back to the paper's order
      const next = { none: "ascending", ascending: "descending", descending: "none" }[heads[column].getAttribute("aria-sort")];
      heads.forEach((head, i) => head.setAttribute("aria-sort", i === column ? next : "none"));
      const compare = (a, b) => {
        const [x, y] = [a.values[column], b.values[column]];
        if (next === "none" || x === y) return a.place - b.place;
        const gap = (value) => value === "–"; // what is missing comes last
        if (gap(x) || gap(y)) return gap(x) - gap(y);
        return (x < y ? -1 : 1) * (next === "ascending" ? 1 : -1);
      };
      body.append(...[...rows].sort(compare).map(({ row }) => row));
    }
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("scope", "col");
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(column));
    });

    let kept = null;
    for (const { row, values, place } of rows) {
      [...row.cells].forEach((cell, column) => {
        const key = columns[column - FIRST], story = stories[datasets[place]][key];
        if (!story || values[column] === "–") return;
        const button = document.createElement("button"), text = cell.textContent;
        button.type = "button";
        button.textContent = text;
        button.setAttribute("aria-pressed", "false");
        cell.replaceChildren(button);
        button.addEventListener("click", () => {
          if (kept) kept.setAttribute("aria-pressed", "false");
          kept = button;
          button.setAttribute("aria-pressed", "true");
          output.innerHTML = told(values[NAME], key, titles[column], text, story);
        });
      });
    }
  }

  einetFigure("debd", build);
})();
