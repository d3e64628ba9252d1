// Draws lines, bands, guides and marks over steps or layers into a host element, at the host's width.
const PLACE = { top: 10, right: 12, bottom: 34, left: 46 };

function drawChart(host, spec, height, label) {
  const width = Math.max(host.clientWidth, 160);
  const [low, high] = extent(spec);
  const upright = [height - PLACE.bottom, PLACE.top];
  const y = spec.symlog
    ? symlogScale([low, high], upright, spec.symlog)
    : spec.log
      ? logScale([low, high], upright)
      : linearScale([low, high], upright);
  const rows = y.ticks(Math.max(3, Math.round(height / 45)));
  const left = Math.max(26, ...rows.map((value) => textWidth(y.label(value)) + 10));
  const x = acrossScale(spec, [left, width - PLACE.right]);
  const svg = shape("svg", {
    class: "chart",
    viewBox: `0 0 ${width} ${height}`,
    height,
    role: "img",
    "aria-label": label,
  });
  for (const value of rows) {
    svg.append(shape("line", { class: "grid", x1: left, x2: width - PLACE.right, y1: y.at(value), y2: y.at(value) }));
    svg.append(shape("text", { x: left - 7, y: y.at(value) + 4, "text-anchor": "end" }, y.label(value)));
  }
  drawAcross(svg, spec, x, height, left, width);
  if (spec.span && spec.span.length) svg.append(spanned(spec.span, x, height));
  for (const step of spec.broken || [])
    svg.append(shape("line", { class: "broken", x1: x.at(step), x2: x.at(step), y1: PLACE.top, y2: PLACE.top + 9 }));
  for (const band of spec.bands || [])
    svg.append(shape("path", { class: `band s-${band.style || "1"}`, d: bandPath(band, x, y) }));
  for (const guide of spec.guides || []) drawGuide(svg, guide, x, y, width);
  for (const line of spec.lines) svg.append(drawLine(line, x, y, height - PLACE.bottom));
  for (const mark of spec.marks || []) drawMark(svg, mark, x, y, width, left);
  host.replaceChildren(svg);
  return { svg, x, y, height, left, width };
}

function extent(spec) {
  const usable = (value) => value !== null && Number.isFinite(value) && (!spec.log || value > 0);
  const values = [];
  for (const line of spec.lines) for (const value of line.y) if (usable(value)) values.push(value);
  for (const band of spec.bands || [])
    for (const value of [...band.low, ...band.high]) if (usable(value)) values.push(value);
  for (const guide of spec.guides || []) if (usable(guide.y)) values.push(guide.y);
  if (!values.length) return spec.log ? [0.1, 1] : [0, 1];
  let [low, high] = spec.range || [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  if (spec.log) {
    const room = Math.max(1.15, (high / low) ** 0.05);
    return [low / room, high * room];
  }
  if (high === low) [low, high] = high === 0 ? [0, 1] : [Math.min(0, high), Math.max(0, high)];
  const room = spec.range ? 0 : (high - low) * 0.06;
  const floor = low >= 0 && low < 0.35 * high ? 0 : low - room;
  return [floor, high + room];
}

function acrossScale(spec, room) {
  if (spec.x === "layer") {
    const count = Math.max(spec.names.length, 1);
    const inset = Math.min(18, (room[1] - room[0]) / (2 * count));
    return linearScale([0, Math.max(count - 1, 1)], [room[0] + inset, room[1] - inset]);
  }
  let [low, high] = [Infinity, -Infinity];
  for (const part of [...spec.lines, ...(spec.bands || [])]) {
    for (const step of [part.x[0], part.x[part.x.length - 1]])
      if (step !== undefined) [low, high] = [Math.min(low, step), Math.max(high, step)];
  }
  for (const step of spec.broken || []) [low, high] = [Math.min(low, step), Math.max(high, step)];
  if (low > high) [low, high] = [0, 1];
  if (low === high) high = low + 1;
  return spec.logx ? logScale([Math.max(low, 1), high], room) : linearScale([low, high], room);
}

function drawAcross(svg, spec, x, height, left, width) {
  const base = height - PLACE.bottom;
  svg.append(shape("line", { class: "axis", x1: left, x2: width - PLACE.right, y1: base, y2: base }));
  if (spec.x === "layer") return drawLayerNames(svg, spec.names, x, height, left, width);
  let free = -Infinity;
  for (const value of x.ticks(Math.max(2, Math.round((width - left) / 95)))) {
    const text = x.kind === "log" && value > 9999 ? logLabel(value) : whole(value);
    if (!Number.isInteger(Math.round(value * 1e6) / 1e6) || x.at(value) - textWidth(text) / 2 < free) continue;
    svg.append(shape("text", { x: x.at(value), y: base + 17, "text-anchor": "middle" }, text));
    free = x.at(value) + textWidth(text) / 2 + 6;
  }
  svg.append(shape("text", { x: width - PLACE.right, y: base + 31, "text-anchor": "end" }, "step"));
}

function drawLayerNames(svg, names, x, height, left, width) {
  const base = height - PLACE.bottom;
  const most = Math.max(4, Math.floor((width - left) / 14));
  const [first, last] = [clipped(names[0] || "", most), clipped(names[names.length - 1] || "", most)];
  svg.append(shape("text", { x: left, y: base + 17, "text-anchor": "start" }, first));
  if (names.length > 1) svg.append(shape("text", { x: width - PLACE.right, y: base + 17, "text-anchor": "end" }, last));
  const middle = left + textWidth(first) + 10 < width - PLACE.right - textWidth(last) - 10 - 60;
  if (middle)
    svg.append(shape("text", { x: (left + width - PLACE.right) / 2, y: base + 17, "text-anchor": "middle" }, "layers"));
}

function spanned([first, last], x, height) {
  const [start, end] = [
    Math.max(x.at(Math.max(first, x.low)), x.at(x.low)),
    Math.min(x.at(Math.max(last, x.low)), x.at(x.high)),
  ];
  const middle = (start + end) / 2;
  const wide = Math.max(end - start, 4);
  return shape("rect", {
    class: "span",
    x: middle - wide / 2,
    y: PLACE.top,
    width: wide,
    height: height - PLACE.bottom - PLACE.top,
  });
}

function bandPath(band, x, y) {
  const seen = band.x.map((_, i) => i).filter((i) => band.low[i] !== null && band.high[i] !== null);
  if (!seen.length) return "";
  const point = (i, values) => `${x.at(band.x[i]).toFixed(1)},${y.at(values[i]).toFixed(1)}`;
  return `M${seen.map((i) => point(i, band.high)).join("L")}L${seen
    .reverse()
    .map((i) => point(i, band.low))
    .join("L")}Z`;
}

function drawGuide(svg, guide, x, y, width) {
  svg.append(
    shape("line", { class: "guide", x1: x.at(x.low), x2: width - PLACE.right, y1: y.at(guide.y), y2: y.at(guide.y) }),
  );
  svg.append(shape("text", { x: width - PLACE.right, y: y.at(guide.y) - 5, "text-anchor": "end" }, guide.label));
}

// A line is broken where nothing was seen; on a logarithmic axis zero is a hollow dot at the bottom.
function drawLine(line, x, y, floor) {
  const group = shape("g", { class: `s-${line.style}` });
  const off = (value) => y.kind === "log" && value <= 0;
  let path = "";
  let pen = false;
  line.x.forEach((step, i) => {
    const value = line.y[i];
    const drawn = value !== null && Number.isFinite(value) && !off(value);
    const inside = Math.max(y.low, Math.min(y.high, value));
    if (drawn) path += `${pen ? "L" : "M"}${x.at(step).toFixed(1)},${y.at(inside).toFixed(1)}`;
    pen = drawn;
  });
  group.append(shape("path", { class: lineLooks(line), d: path }));
  if (line.points || line.x.length === 1) {
    const crowded = line.x.length > 80;
    const most = crowded ? line.x.length / 2 : Infinity; // marks on nearly all layers mark none
    const marked = new Set((line.marked || []).length > most ? [] : line.marked);
    line.x.forEach((step, i) => {
      const value = line.y[i];
      if (value === null || !Number.isFinite(value)) return;
      if (crowded && !off(value) && !marked.has(i)) return;
      const name = ["dot", off(value) && "zero", marked.has(i) && "marked"].filter(Boolean).join(" ");
      group.append(
        shape("circle", {
          class: name,
          cx: x.at(step),
          cy: off(value) ? floor : y.at(value),
          r: line.x.length > 60 ? 2 : 3.2,
        }),
      );
    });
  }
  return group;
}

function lineLooks(line) {
  const looks = ["line", line.faint && "faint", line.ghost && "ghost", line.style === "reference" && "dash"];
  return looks.filter(Boolean).join(" ");
}

function drawMark(svg, mark, x, y, width, left) {
  const [across, up] = [x.at(mark.x), y.at(mark.y)];
  svg.append(shape("circle", { class: "best", cx: across, cy: up, r: 5 }));
  const half = textWidth(mark.label) / 2;
  const middle = Math.max(left + half + 4, Math.min(across, width - PLACE.right - half));
  const below = up + 22 < svg.getAttribute("height") - PLACE.bottom;
  svg.append(
    shape(
      "text",
      { class: "mark-label", x: middle, y: below ? up + 20 : up - 12, "text-anchor": "middle" },
      mark.label,
    ),
  );
}
