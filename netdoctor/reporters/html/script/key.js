// The key of the colours; what has no place on the scale gets its own square.
function drawKey(svg, entry, range, left, inner, top) {
  const wide = Math.min(260, inner * 0.6);
  const colors = colorsFor(range.kind);
  for (let i = 0; i < 64; i += 1) {
    svg.append(
      shape("rect", {
        x: left + (i * wide) / 64,
        y: top,
        width: wide / 64 + 0.5,
        height: 9,
        fill: `rgb(${colors[Math.round((i * 255) / 63)]})`,
      }),
    );
  }
  const scale =
    range.kind === "log"
      ? logScale([range.low, range.high], [left, left + wide])
      : linearScale([range.low, range.high], [left, left + wide]);
  let free = -Infinity;
  for (const value of scale.ticks(4)) {
    const half = textWidth(scale.label(value)) / 2;
    if (scale.at(value) - half < free) continue;
    svg.append(shape("text", { x: scale.at(value), y: top + 23, "text-anchor": "middle" }, scale.label(value)));
    free = scale.at(value) + half + 8;
  }
  const cells = Array.from(entry.cells);
  const apart = [
    [range.kind === "log" && cells.some((value) => value <= 0), "0", "zero"],
    [cells.some((value) => !Number.isFinite(value) && !Number.isNaN(value)), "NaN or Inf", "error"],
    [cells.some((value) => Number.isNaN(value)), "not seen", "sunken"],
  ];
  let place = left + wide + 18;
  for (const [there, text, color] of apart) {
    if (!there) continue;
    svg.append(shape("rect", { x: place, y: top, width: 9, height: 9, fill: `rgb(${styleColor(color)})` }));
    svg.append(shape("text", { x: place + 14, y: top + 9 }, text));
    place += 24 + textWidth(text);
  }
}
