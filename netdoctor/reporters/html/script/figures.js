// Finds the figures, draws them, and draws them anew when their width or the theme changes.
const KINDS = { lines: linesFigure, map: mapFigure, distributions: distributionsFigure };
const figures = new Map();

function startFigures() {
  for (const figure of document.querySelectorAll(".figure")) {
    const name = figure.id.slice("figure-".length);
    const readout = figure.querySelector(".readout");
    const made = KINDS[figure.dataset.kind](
      figure,
      dataOf(name),
      figure.querySelector(".canvas"),
      (words) => (readout.textContent = words),
    );
    figures.set(figure.id, made);
    made.draw();
    redrawnWithWidth(figure.querySelector(".canvas"), made.draw);
  }
  for (const small of document.querySelectorAll("[data-small]")) {
    const [spec, host] = [dataOf(small.dataset.small), small.querySelector(".canvas")];
    small.querySelector(".legend").append(...legend(spec));
    const title = small.querySelector("h4").textContent;
    const draw = () => readable(drawChart(host, spec, 200, `${title}. ${spec.describe}`), spec, () => {});
    draw();
    redrawnWithWidth(host, draw);
  }
}

function dataOf(name) {
  return JSON.parse(document.getElementById(`data-${name}`).textContent);
}

function redrawnWithWidth(host, draw) {
  let width = host.clientWidth;
  new ResizeObserver(() => {
    if (Math.abs(host.clientWidth - width) < 1) return;
    width = host.clientWidth;
    requestAnimationFrame(draw);
  }).observe(host);
}

function redrawThemed() {
  for (const figure of figures.values()) if (figure.themed) figure.draw();
}
