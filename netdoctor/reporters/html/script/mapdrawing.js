// Draws a map: its cells, the names of its rows, the steps of its columns, and the chosen cell.
const CELL = { most: 22, least: 2, height: 520, least_height: 120 };

function drawMap(body, state, act) {
  const { entry } = state;
  const [rows, columns] = [entry.names.length, entry.from.length];
  const width = body.clientWidth;
  const size = Math.max(CELL.least, Math.min(CELL.most, CELL.height / rows), rows < 6 ? CELL.least_height / 6 : 0);
  const longest = Math.max(...entry.names.map((name) => textWidth(name))) + 12;
  const left = Math.ceil(Math.min(longest, Math.max(64, width * 0.26)));
  const [inner, tall] = [width - left - 2, Math.round(size * rows)];
  const range = valueRange(entry, state.log);
  const picture = html("canvas", { width: columns, height: rows, "aria-hidden": "true" });
  Object.assign(picture.style, { left: `${left}px`, top: "0px", width: `${inner}px`, height: `${tall}px` });
  paint(picture, entry, range);
  const chosen = cellWords(entry, state.row, state.column);
  const svg = shape("svg", {
    class: "chart",
    viewBox: `0 0 ${width} ${tall + 74}`,
    height: tall + 74,
    role: "img",
    tabindex: "0",
    "aria-label": `${entry.title} of ${rows} layers over ${columns} steps. ${chosen}`,
  });
  describe(svg, body.closest(".figure"));
  drawRowNames(svg, state, left, size);
  drawColumnSteps(svg, entry, left, inner, tall);
  drawKey(svg, entry, range, left, inner, tall + 42);
  const [wide, high] = [inner / columns, tall / rows];
  const box = { x: left + state.column * wide, y: state.row * high, width: wide, height: high };
  svg.append(shape("rect", { class: "focus", ...box }), shape("rect", { class: "focus inner", ...box }));
  const cell = (event) => {
    const place = picture.getBoundingClientRect();
    const [row, column] = [
      Math.floor(((event.clientY - place.top) / place.height) * rows),
      Math.floor(((event.clientX - place.left) / place.width) * columns),
    ];
    return row >= 0 && row < rows && column >= 0 && column < columns ? [row, column] : null;
  };
  body.replaceChildren(picture, svg);
  svg.addEventListener("pointermove", (event) => (cell(event) ? act.point(...cell(event), event) : act.leave()));
  svg.addEventListener("pointerleave", act.leave);
  svg.addEventListener("blur", act.leave);
  svg.addEventListener("click", (event) => cell(event) && act.pick(...cell(event)));
  svg.addEventListener("keydown", (event) => {
    const move = {
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
      PageUp: [-10, 0],
      PageDown: [10, 0],
      Home: [0, -columns],
      End: [0, columns],
    }[event.key];
    if (!move) return;
    event.preventDefault();
    act.pick(
      Math.max(0, Math.min(rows - 1, state.row + move[0])),
      Math.max(0, Math.min(columns - 1, state.column + move[1])),
    );
    act.say();
  });
}

function drawRowNames(svg, state, left, size) {
  const { entry } = state;
  const every = Math.max(1, Math.ceil(13 / size));
  entry.names.forEach((name, row) => {
    const named = state.marked.has(entry.owners[row]);
    if (row % every && !(named && every === 1)) return;
    let text = name;
    while (text.length > 3 && textWidth(text) > left - 10) text = clipped(name, text.length - 1);
    const y = (row + 0.5) * size + 4;
    svg.append(shape("text", { x: left - 8, y, "text-anchor": "end", ...(named ? { class: "named" } : {}) }, text));
  });
  if (every > 1) {
    entry.owners.forEach((owner, row) => {
      if (state.marked.has(owner))
        svg.append(shape("rect", { class: "named", x: left - 5, y: row * size, width: 4, height: size }));
    });
  }
}

function drawColumnSteps(svg, entry, left, inner, tall) {
  const wide = inner / entry.from.length;
  let free = -Infinity;
  entry.from.forEach((step, column) => {
    const [text, middle] = [whole(step), left + (column + 0.5) * wide];
    const half = textWidth(text) / 2;
    if (middle - half < free || middle + half > left + inner + 6) return;
    svg.append(shape("line", { class: "axis", x1: middle, x2: middle, y1: tall, y2: tall + 4 }));
    svg.append(shape("text", { x: middle, y: tall + 17, "text-anchor": "middle" }, text));
    free = middle + half + 16;
  });
  svg.append(shape("text", { x: left - 8, y: tall + 17, "text-anchor": "end" }, "step"));
}
