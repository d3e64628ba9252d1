// The map of layers and steps: one statistic at a time, with its cross-sections through the chosen cell.
function mapFigure(figure, data, canvas, say) {
  const state = { entry: null, log: false, row: 0, column: 0, type: "", marked: new Set() };
  const [body, slices] = [html("div", { class: "map-body" }), html("div", { class: "slices" })];
  const parts = ["over-steps", "over-layers"].map((name) =>
    html("div", { class: name }, html("h3"), html("div", { class: "canvas" })),
  );
  slices.append(...parts);
  canvas.append(body, slices);
  const select = statisticSelect(data);
  const types = typeSelect(data);
  const button = toggle("Log colours", false, (on) => ((state.log = on), draw()));
  figure.querySelector(".controls").append(html("label", {}, "Show", select), types, button);
  const caption = figure.querySelector(".caption");
  const reading = caption.textContent;

  function choose(name) {
    const entry = data.statistics.find((one) => one.name === name) || state.entry;
    entry.all = entry.all || unpacked(entry.values);
    const rows = data.rows[entry.rows];
    const kept = rows.names.map((_, i) => i).filter((i) => !state.type || rows.types[i] === state.type);
    if (!kept.length) return filter("", name);
    state.entry = {
      ...entry,
      ...data.axes[entry.axis],
      ...onlyRows(rows, kept),
      cells: onlyCells(entry, data.axes[entry.axis].from.length, kept),
    };
    select.value = name;
    state.log = entry.scale === "log";
    button.hidden = entry.scale === "diverging";
    button.setAttribute("aria-pressed", String(state.log));
    state.row = Math.min(state.row, kept.length - 1);
    state.column = Math.min(state.column, state.entry.from.length - 1);
    caption.textContent = `${entry.meaning ? `${entry.meaning} ` : ""}${reading}`;
  }

  function filter(type, name) {
    state.type = types.value = type;
    choose(name);
  }

  function draw() {
    drawMap(body, state, { point, leave: hideTooltip, pick, say: sayCell });
    drawSlices(parts, state, state.row, state.column, say);
  }

  function point(row, column, event) {
    showTooltip(cellWords(state.entry, row, column, "\n"), event.clientX, event.clientY);
  }

  function sayCell() {
    say(cellWords(state.entry, state.row, state.column));
    const box = body.querySelector(".focus").getBoundingClientRect();
    showTooltip(cellWords(state.entry, state.row, state.column, "\n"), box.right, box.bottom);
  }

  function pick(row, column) {
    [state.row, state.column] = [row, column];
    draw();
    body.querySelector("svg").focus({ preventScroll: true });
  }

  function show({ statistic, layers, span }) {
    filter("", statistic || state.entry.name);
    state.marked = new Set(layers);
    const row = state.entry.owners.findIndex((owner) => owner === layers[0]);
    if (row >= 0) state.row = row;
    if (span.length)
      state.column = Math.max(
        0,
        state.entry.to.findIndex((step) => step >= span[1]),
      );
    draw();
  }

  select.addEventListener("change", () => (choose(select.value), draw()));
  types.addEventListener("change", () => (filter(types.value, state.entry.name), draw()));
  choose(data.selected);
  state.column = state.entry.from.length - 1;
  return { draw, show, table: () => mapTable(state.entry), themed: true };
}

function statisticSelect(data) {
  const sections = new Map();
  for (const entry of data.statistics) {
    if (!sections.has(entry.section)) sections.set(entry.section, html("optgroup", { label: entry.section }));
    sections.get(entry.section).append(html("option", { value: entry.name }, entry.title));
  }
  return html("select", { "aria-label": "Statistic of the map" }, ...sections.values());
}

function typeSelect(data) {
  const found = [...new Set(data.rows.flatMap((rows) => rows.types))].sort();
  const select = html("select", { "aria-label": "Type of the layers" }, html("option", { value: "" }, "All layers"));
  select.append(...found.map((type) => html("option", { value: type }, type)));
  select.hidden = found.length < 2;
  return select;
}

function onlyRows(rows, kept) {
  return { names: kept.map((i) => rows.names[i]), owners: kept.map((i) => rows.owners[i]) };
}

function onlyCells(entry, columns, kept) {
  const cells = new Float32Array(kept.length * columns);
  kept.forEach((row, place) => cells.set(entry.all.subarray(row * columns, (row + 1) * columns), place * columns));
  return cells;
}

// The upper halves of float32 numbers, as base64.
function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const upper = new Uint32Array(bytes.length / 2);
  for (let i = 0; i < upper.length; i += 1) upper[i] = (bytes[2 * i] | (bytes[2 * i + 1] << 8)) << 16;
  return new Float32Array(upper.buffer);
}

function stepWords(entry, column) {
  const [first, last] = [entry.from[column], entry.to[column]];
  return first === last ? `step ${whole(first)}` : `steps ${whole(first)} to ${whole(last)}`;
}

function cellWords(entry, row, column, separator = "; ") {
  const value = entry.cells[row * entry.from.length + column];
  return [entry.names[row], stepWords(entry, column), `${entry.title} ${spelled(value)}`].join(separator);
}

function mapTable(entry) {
  const count = entry.from.length;
  const rows = entry.names.map((name, row) => {
    const all = Array.from(entry.cells.subarray(row * count, (row + 1) * count));
    const seen = all.filter((value) => Number.isFinite(value));
    const low = seen.length ? seen.reduce((a, b) => Math.min(a, b)) : NaN;
    const high = seen.length ? seen.reduce((a, b) => Math.max(a, b)) : NaN;
    return [name, ...[all[0], all[count - 1], low, high].map((value) => spelled(value))];
  });
  return {
    head: ["Layer", `Step ${whole(entry.from[0])}`, `Step ${whole(entry.to[count - 1])}`, "Lowest", "Highest"],
    rows,
    title: entry.title,
  };
}
