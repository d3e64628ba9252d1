// A figure of lines over the steps: its legend, its switches, its table.
function linesFigure(figure, data, canvas, say) {
  const spec = { ...data };
  const height = () =>
    figure.classList.contains("wide") ? Math.max(260, Math.min(420, canvas.clientWidth * 0.4)) : 230;
  const title = figure.querySelector("h2, h3").textContent;
  const draw = () => {
    const drawn = drawChart(canvas, spec, height(), title);
    describe(drawn.svg, figure);
    readable(drawn, spec, say);
  };
  const positive = spec.lines.some((line) => line.y.some((value) => value > 0)) && !spec.range;
  const switches = [];
  if (positive) switches.push(toggle("Log scale", spec.log, (on) => ((spec.log = on), draw())));
  if (spec.x === "step" && spec.lines.some((line) => line.x.length > 2)) {
    switches.push(toggle("Log steps", spec.logx, (on) => ((spec.logx = on), draw())));
  }
  figure.querySelector(".controls").append(...switches);
  figure.querySelector(".legend").append(...legend(spec));
  return { draw, show: ({ span }) => ((spec.span = span), draw()), table: () => lineTable(spec) };
}

function describe(svg, figure) {
  svg.setAttribute("aria-describedby", figure.querySelector(".canvas").getAttribute("aria-describedby") || "");
}

function toggle(text, on, change) {
  const button = html("button", { type: "button", "aria-pressed": String(Boolean(on)) }, text);
  button.addEventListener("click", () => {
    const pressed = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(pressed));
    change(pressed);
  });
  return button;
}

function legend(spec) {
  const entries = new Map();
  for (const line of spec.lines) {
    const sample = shape("path", { class: lineLooks(line), d: "M1,5H21" });
    entries.set(line.name, [shape("g", { class: `s-${line.style}` }, sample)]);
  }
  (spec.bands || []).forEach((band, i) => {
    const below = spec.bands.slice(0, i + 1);
    entries.set(
      band.name,
      below.map(() => shape("rect", { class: `band s-${band.style || "1"}`, width: 22, height: 10 })),
    );
  });
  if ((spec.broken || []).length)
    entries.set("NaN or Inf", [shape("line", { class: "broken", x1: 11, x2: 11, y1: 0, y2: 10 })]);
  if (entries.size < 2) return [];
  return [...entries].map(([name, samples]) =>
    html("li", {}, shape("svg", { class: "chart", viewBox: "0 0 22 10", "aria-hidden": "true" }, ...samples), name),
  );
}

const TABLE_ROWS = 40;

function lineTable(spec) {
  const lines = spec.lines.filter((line) => !line.faint || spec.lines.length === 1);
  const places = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const every = Math.max(1, Math.ceil(places.length / TABLE_ROWS));
  const chosen = places.filter((_, i) => i % every === 0 || i === places.length - 1);
  const at = lines.map((line) => new Map(line.x.map((step, i) => [step, line.y[i]])));
  const rows = chosen.map((step) => [
    whole(step),
    ...at.map((values) => (values.has(step) ? spelled(values.get(step)) : "")),
  ]);
  return { head: ["Step", ...lines.map((line) => line.name)], rows };
}
