// The table of chapter 10 that answers: it sorts, it filters, and it says where each number came from.
// A classic script without dependencies, so that it also runs from file://. A cell of the page left a plain table in every
// element of class "debd-figure", and beside it the records of book/results/debd.json as JSON; without this script the
// plain table stays.
(() => {
  "use strict";
  const OURS = { 3: "rat-spn", 4: "einet", 5: "best" }; // columns; the first is 0, the name of the set
  const PAPER = { 1: "RAT-SPN", 2: "EiNet" };
  const GAINS = [6, 7], VERDICT = 8;
  const FILTERS = {
    "all sets": () => true,
    "stochastic behind the paper's EiNet": (values) => values[GAINS[0]] < 0,
    "best behind the paper's better column": (values) => values[GAINS[1]] < 0,
    "stochastic better than full batch": (values) => values[VERDICT] === "better",
    "no difference, or worse": (values) => ["worse", "no difference"].includes(values[VERDICT]),
    "not run yet": (values) => Object.keys(OURS).some((column) => typeof values[column] !== "number"),
  };

  const signed = (number, digits) => number.toFixed(digits).replace("-", "−");
  const count = (number) => number.toLocaleString("en");
  const words = (text) => { // what a cell holds: a number where it is one
    const number = parseFloat(text.replace("−", "-"));
    return Number.isNaN(number) ? text.trim() : number;
  };

  function story(name, record) {
    const s = record.settings;
    const em = s.batch_size === null ? "full-batch EM" : `stochastic EM, batches of ${s.batch_size}, λ = ${s.lr}` + (s.decay < 1 ? " at first, falling to a tenth" : "");
    const sums = s.depth > 1 ? `, ${s.num_sums} of a sum` : "";
    return `<b>${name}: ${signed(record.test_log_likelihood, 3)} ± ${record.standard_error.toFixed(3)} nats.</b> Depth ${s.depth}, ${s.num_replicas} replicas, ` +
      `${s.num_leaves} entries of a leaf${sums}; ${em}${s.pseudocount ? `, pseudocount ${s.pseudocount}` : ""}; epoch ${s.best_epoch} of at most ${s.epochs}, ` +
      `${count(s.num_rows)} training rows. Chosen from ${s.candidates} trainings by ${signed(s.validation_log_likelihood, 3)} on the validation rows; ` +
      `${count(record.parameters)} parameters; ${count(Math.round(record.seconds))} s for all trainings.<br>From: ${record.origin}`;
  }

  function told(name, dataset, column, records, values) {
    if (column in PAPER) return `<b>${name}: ${signed(values[column], 3)} nats.</b> Column ${PAPER[column]} of Table 1 in Peharz et al. (2020), copied by hand.`;
    const of = (learner) => records.find((record) => record.dataset === dataset && record.learner === learner);
    if (column in OURS) return story(name, of(OURS[column]));
    if (column === VERDICT) {
      const test = of("einet").t_test;
      return `<b>${name}: ${test.verdict}.</b> Stochastic minus full batch, row by row: ${signed(test.mean_difference, 4)} nats on average, t = ${signed(test.t, 2)}; ` +
        `chance of a difference at least as good for stochastic EM, were there none: p = ${test.p_better.toPrecision(2)}; at least as bad: p = ${test.p_worse.toPrecision(2)}. ` +
        `From the rows' log-likelihoods of both learners.<br>From: ${of("einet").origin}`;
    }
    const [own, theirs] = column === GAINS[0] ? [values[4], values[2]] : [values[5], Math.max(values[1], values[2])];
    return `<b>${name}: ${signed(values[column], 2)} %.</b> 100 · (${signed(own, 3)} − ${signed(theirs, 3)}) / ${Math.abs(theirs).toFixed(3)}, from the numbers in this row.`;
  }

  function build(root) {
    const { datasets, records } = JSON.parse(root.querySelector("script").textContent);
    const table = root.querySelector("table"), body = table.tBodies[0];
    const rows = [...body.rows].map((row, place) => ({ row, place, values: [...row.cells].map((cell) => words(cell.textContent)) }));
    const controls = document.createElement("div"), scroll = document.createElement("div"), output = document.createElement("output");
    controls.className = "controls";
    controls.innerHTML = `<label>find <input type="search" aria-label="part of a name"></label>
      <label>show <select>${Object.keys(FILTERS).map((name) => `<option>${name}</option>`).join("")}</select></label><span role="status"></span>`;
    scroll.className = "scroll";
    output.setAttribute("aria-live", "polite");
    output.textContent = "Point to a number, or press it to keep it: here it says where the number came from. Press a title to sort.";
    table.before(controls, scroll);
    scroll.append(table);
    root.append(output);
    const [find, show, status] = ["input", "select", "span"].map((s) => controls.querySelector(s));

    function filter() {
      const keep = FILTERS[show.value], part = find.value.trim().toLowerCase();
      for (const { row, values, place } of rows) row.hidden = !keep(values) || !`${values[0]} ${datasets[place]}`.toLowerCase().includes(part);
      status.textContent = `${rows.filter(({ row }) => !row.hidden).length} of ${rows.length} sets`;
    }
    find.addEventListener("input", filter);
    show.addEventListener("change", filter);
    filter();

    const heads = [...table.tHead.rows[0].cells];
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
    const tell = (cell) => { output.innerHTML = told(...cell); };
    for (const { row, values, place } of rows) {
      [...row.cells].forEach((cell, column) => {
        if (!column || values[column] === "–") return;
        if (GAINS.includes(column) && values[column] < 0) cell.className = "behind";
        const button = document.createElement("button"), about = [values[0], datasets[place], column, records, values];
        button.type = "button";
        button.textContent = cell.textContent;
        button.setAttribute("aria-pressed", "false");
        cell.replaceChildren(button);
        button.addEventListener("mouseenter", () => kept || tell(about));
        button.addEventListener("focus", () => kept || tell(about));
        button.addEventListener("click", () => {
          const again = kept === button;
          if (kept) kept.setAttribute("aria-pressed", "false");
          kept = again ? null : button;
          button.setAttribute("aria-pressed", String(!again));
          tell(about);
        });
      });
    }
  }

  einetFigure("debd", build);
})();
