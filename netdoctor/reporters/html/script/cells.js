// Colours a map's cells: which range the colours span, and what has none.
function valueRange(entry, log) {
  const finite = Array.from(entry.cells).filter((value) => Number.isFinite(value));
  const used = log ? finite.filter((value) => value > 0) : finite;
  if (!used.length) return { kind: "linear", low: 0, high: 1 };
  const [low, high] = [used.reduce((a, b) => Math.min(a, b)), used.reduce((a, b) => Math.max(a, b))];
  if (entry.scale === "diverging") {
    const most = Math.max(-low, high) || 1;
    return { kind: "diverging", low: -most, high: most };
  }
  if (log) return { kind: "log", low, high: high > low ? high : low * 10 };
  if (entry.scale === "share" && high <= 1) return { kind: "linear", low: 0, high: 1 };
  return { kind: "linear", low: Math.min(low, 0), high: high > 0 ? high : 1 };
}

function shade(value, range) {
  const place =
    range.kind === "log"
      ? Math.log(value / range.low) / Math.log(range.high / range.low)
      : (value - range.low) / (range.high - range.low);
  return Math.max(0, Math.min(255, Math.round(place * 255)));
}

function paint(picture, entry, range) {
  const context = picture.getContext("2d");
  const image = context.createImageData(picture.width, picture.height);
  const colors = colorsFor(range.kind);
  const [none, broken] = [styleColor("sunken"), styleColor("error")];
  const zero = styleColor("zero");
  entry.cells.forEach((value, i) => {
    let color = none;
    if (Number.isFinite(value)) color = range.kind === "log" && value <= 0 ? zero : colors[shade(value, range)];
    else if (!Number.isNaN(value)) color = broken;
    image.data.set([...color, 255], 4 * i);
  });
  context.putImageData(image, 0, 0);
}
