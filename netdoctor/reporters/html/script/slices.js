// The cross-sections through the chosen cell of a map: its row over the steps, its column over the layers.
function drawSlices([steps, layers], state, row, column, say) {
  const { entry } = state;
  const count = entry.from.length;
  const across = entry.names.map((_, i) => number(entry.cells[i * count + column]));
  const along = entry.from.map((_, i) => number(entry.cells[row * count + i]));
  const marked = entry.owners.map((owner, i) => (state.marked.has(owner) ? i : -1)).filter((i) => i >= 0);
  const log = state.log;
  steps.firstChild.textContent = `${entry.title} of ${spoken(entry.names[row])} over the steps`;
  layers.firstChild.textContent = `${entry.title} of all layers, ${stepWords(entry, column)}`;
  const first = {
    x: "step",
    log,
    logx: entry.from.length > 8 && entry.from[count >> 1] < 0.2 * entry.to[count - 1],
    lines: [{ name: entry.title, x: entry.to, y: along, style: "1", points: count < 60 }],
  };
  const second = {
    x: "layer",
    names: entry.names,
    log,
    lines: [
      {
        name: entry.title,
        x: entry.names.map((_, i) => i),
        y: across,
        style: "1",
        points: entry.names.length < 120,
        marked,
      },
    ],
  };
  readable(drawChart(steps.lastChild, first, 190, steps.firstChild.textContent), first, say);
  readable(drawChart(layers.lastChild, second, 190, layers.firstChild.textContent), second, say);
}

function number(value) {
  return Number.isFinite(value) ? value : null;
}
