// Quantiles by layer at a step that is chosen with a slider; thin lines are those of the first step.
function distributionsFigure(figure, data, canvas, say) {
  const state = { step: data.steps.length - 1, symlog: data.log };
  const title = figure.querySelector("h3").textContent;
  const host = html("div", { class: "canvas" });
  const slider = html("input", {
    type: "range",
    min: 0,
    max: data.steps.length - 1,
    value: state.step,
    "aria-label": "Step",
  });
  const output = html("output");
  canvas.append(host);
  if (data.steps.length > 1) canvas.append(html("label", { class: "slider" }, "Step", slider, output));
  const width = smallest(data);

  function draw() {
    const spec = quantileSpec(data, state, width);
    const drawn = drawChart(host, spec, 260, `${title}, step ${whole(data.steps[state.step])}`);
    describe(drawn.svg, figure);
    readable(drawn, spec, say);
    output.textContent = `step ${whole(data.steps[state.step])}`;
    slider.setAttribute("aria-valuetext", output.textContent);
    figure.querySelector(".legend").replaceChildren(...legend(spec));
  }

  slider.addEventListener("input", () => ((state.step = Number(slider.value)), draw()));
  figure.querySelector(".controls").append(toggle("Log scale", state.symlog, (on) => ((state.symlog = on), draw())));
  return { draw, show: () => draw(), table: () => quantileTable(data, state) };
}

function quantileSpec(data, state, width) {
  const now = data.values[state.step];
  const places = data.layers.map((_, i) => i);
  const bands = [];
  data.levels.forEach((level, i) => {
    const mirror = data.levels.indexOf(100 - level);
    if (level < 50 && mirror > i)
      bands.push({ name: `${level} to ${100 - level} %`, x: places, low: now[i], high: now[mirror] });
  });
  const middle = data.levels.indexOf(50);
  const lines =
    middle >= 0 ? [{ name: "median", x: places, y: now[middle], style: "1", points: places.length < 60 }] : [];
  const ends = state.step > 0 ? [0, data.levels.length - 1] : [];
  ends.forEach((level) =>
    lines.push({ name: `step ${whole(data.steps[0])}`, x: places, y: data.values[0][level], style: "2", ghost: true }),
  );
  return { x: "layer", names: data.layers, lines, bands, symlog: state.symlog ? width : 0 };
}

// Where the symmetric logarithm becomes linear: the narrowest layer's magnitude, at most 12 decades below the widest.
function smallest(data) {
  const sizes = data.values
    .flat(2)
    .filter((value) => value)
    .map(Math.abs);
  if (!sizes.length) return 1;
  const most = sizes.reduce((a, b) => Math.max(a, b));
  const layers = data.layers.map((_, i) =>
    Math.max(...data.values.flatMap((step) => step.map((level) => Math.abs(level[i] || 0)))),
  );
  return Math.max(Math.min(...layers.filter((size) => size > 0)) / 10, most * 1e-12);
}

function quantileTable(data, state) {
  const now = data.values[state.step];
  const rows = data.layers.map((name, i) => [name, ...now.map((level) => spelled(level[i]))]);
  return { head: ["Layer", ...data.levels.map((level) => `${level} %`)], rows };
}
