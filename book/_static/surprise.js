// The figure of chapter 9 that answers: the oddest rows of a table, and what each of their cells was expected to be.
// A classic script without dependencies, so that it also runs from file://. It fills every element of class
// "surprise-figure" with what a cell of the page computed and left in the element "surprise-data".
(() => {
  "use strict";
  const FULL = 10; // nats at which a cell has its full colour

  function build(root, data) {
    const { columns, rows } = data, odd = (row) => Math.max(...row.nats.map((nats) => nats ?? -Infinity));
    const ORDERS = {
      "the oddest cell": (a, b) => odd(b) - odd(a),
      "as in the file": (a, b) => a.line - b.line,
      ...Object.fromEntries(columns.map((name, i) => [name, (a, b) => (b.nats[i] ?? -Infinity) - (a.nats[i] ?? -Infinity)])),
    };
    root.innerHTML = `<div class="controls"><label>sort by <select>${Object.keys(ORDERS).map((name) => `<option>${name}</option>`).join("")}</select></label>
      <label><input type="checkbox"> show what is wrong</label></div>
      <div class="scroll" tabindex="0" role="group" aria-label="The rows of the table"><table><thead><tr><th scope="col">line</th>${columns.map((name) => `<th scope="col">${name}</th>`).join("")}</tr></thead><tbody></tbody></table></div>
      <output aria-live="polite"></output>`;
    const [select, box, body, output] = ["select", "input", "tbody", "output"].map((s) => root.querySelector(s));
    let pressed = null;

    function cell(row, i) {
      const nats = row.nats[i], share = nats === null ? 0 : Math.round(100 * Math.min(1, Math.max(0, nats / FULL)));
      const wrong = box.checked && row.wrong === i;
      return `<td style="--share: ${share}%"${wrong ? ' class="wrong"' : ""}>${row.cells[i]}${wrong ? "<small>was " + row.right + "</small>" : ""}</td>`;
    }
    function tell() {
      if (pressed === null) {
        output.textContent = "Press the number of a line: here it says how odd each of its cells is. The stronger the colour, the odder.";
        return;
      }
      const order = columns.map((_, i) => i).filter((i) => pressed.nats[i] !== null).sort((a, b) => pressed.nats[b] - pressed.nats[a]);
      const bars = order.map((i) => {
        const nats = pressed.nats[i], width = Math.min(100, Math.max(0, 10 * nats));
        return `<div class="bar"><span>${columns[i]}</span><i style="width: ${0.4 * width}%"></i>${nats.toFixed(1).replace("-", "−")}</div>`;
      });
      const oddest = order[0];
      output.innerHTML = `<p>Line ${pressed.line}, nats above the usual. ${columns[oddest]} is ${pressed.cells[oddest]}; from the rest of its row, ` +
        `${pressed.expected[oddest]}.</p>${bars.join("")}`;
    }
    function draw() {
      const sorted = [...rows].sort(ORDERS[select.value]);
      body.innerHTML = sorted.map((row) => `<tr><th scope="row"><button aria-pressed="${row === pressed}">${row.line}</button></th>${columns.map((_, i) => cell(row, i)).join("")}</tr>`).join("");
      body.querySelectorAll("button").forEach((button, i) => button.addEventListener("click", () => {
        pressed = pressed === sorted[i] ? null : sorted[i];
        body.querySelectorAll("button").forEach((other, j) => other.setAttribute("aria-pressed", sorted[j] === pressed));
        tell();
      }));
      tell();
    }
    select.addEventListener("change", draw);
    box.addEventListener("change", draw);
    draw();
  }

  einetFigure("surprise", (root) => build(root, JSON.parse(document.getElementById("surprise-data").textContent)));
})();
