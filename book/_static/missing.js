// The figure of chapter 8 that answers: what a classifier believes when pixels are missing, integrated out or filled in.
// A classic script without dependencies, so that it also runs from file://. It fills every element of class
// "missing-figure" with what a cell of the page computed and left in the element "missing-data".
(() => {
  "use strict";

  function picture(pixels) { // "0" paper, "1" ink, "2" missing
    const cells = [...pixels].map((pixel, i) => pixel === "2"
      ? `<circle cx="${16 * (i % 8) + 8}" cy="${16 * Math.floor(i / 8) + 8}" r="2" fill="#a9adb4"/>`
      : `<rect x="${16 * (i % 8)}" y="${16 * Math.floor(i / 8)}" width="16" height="16" fill="${pixel === "1" ? "#111" : "#fff"}"/>`);
    return `<svg viewBox="-1 -1 130 130" width="170" role="img" aria-label="The digit; dots are missing pixels">` +
      `<rect x="-1" y="-1" width="130" height="130" fill="#d5d8dd"/>${cells.join("")}</svg>`;
  }

  function bars(beliefs, label, kind, truth) {
    const body = beliefs.map((percent, digit) => {
      const height = Math.max(1, percent * 0.9), x = 4 + digit * 25;
      return `<rect class="${kind}" x="${x}" y="${104 - height}" width="18" height="${height}"/>` +
        `<text x="${x + 9}" y="120" text-anchor="middle"${digit === truth ? ' font-weight="bold" text-decoration="underline"' : ""}>${digit}</text>`;
    });
    return `<svg viewBox="0 0 256 126" width="256" role="img" aria-label="${label}"><text x="4" y="11">${label}</text>${body.join("")}</svg>`;
  }

  function build(root, data) {
    const options = data.labels.map((label, i) => `<option value="${i}">${label}</option>`).join("");
    root.innerHTML = `<div class="controls"><label>missing <input type="range" min="0" max="${data.stages.length - 1}" step="1" value="5"> <b></b></label>
      <span>digit <select aria-label="digit">${options}</select></span></div><div class="panels"></div><output aria-live="polite"></output>`;
    const [slider, number, select, panels, output] = ["input", "b", "select", ".panels", "output"].map((s) => root.querySelector(s));
    function draw() {
      const [share, shown, integrated, filled] = data.stages[slider.value], i = Number(select.value), truth = data.labels[i];
      const chances = (beliefs) => { const top = Math.max(...beliefs); return `${beliefs.indexOf(top)} with ${top} %`; };
      slider.setAttribute("aria-valuetext", `${share} percent missing`);
      number.textContent = `${share} %`;
      panels.innerHTML = picture(shown[i]) + `<div>${bars(integrated[i], "integrated out", "blue", truth)}<br>` +
        `${bars(filled[i], "filled with averages", "grey", truth)}</div>`;
      output.textContent = `A ${truth}, ${share} % of its pixels missing. Integrated out: ${chances(integrated[i])}. ` +
        `Filled with averages: ${chances(filled[i])}.`;
    }
    slider.addEventListener("input", draw);
    select.addEventListener("change", draw);
    draw();
  }

  einetFigure("missing", (root) => build(root, JSON.parse(document.getElementById("missing-data").textContent)));
})();
