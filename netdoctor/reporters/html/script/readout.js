// Reads a chart's values out where the pointer or the arrow keys are.
const tooltip = document.getElementById("tooltip");

function showTooltip(text, across, down) {
  tooltip.textContent = text;
  tooltip.hidden = false;
  const box = tooltip.getBoundingClientRect();
  const left = Math.min(Math.max(8, across + 14), innerWidth - box.width - 8);
  const top = down + box.height + 22 > innerHeight ? down - box.height - 12 : down + 16;
  tooltip.style.left = `${left}px`;
  tooltip.style.top = `${Math.max(8, top)}px`;
}

function hideTooltip() {
  tooltip.hidden = true;
}

// Lets a drawn chart be read: `say` takes the words for those who move by keyboard.
function readable(drawn, spec, say) {
  const { svg, x, height } = drawn;
  const lines = spec.lines.filter((line) => !line.faint && !line.ghost);
  const places = [...new Set((lines.length ? lines : spec.lines).flatMap((line) => line.x))].sort((a, b) => a - b);
  if (!places.length) return;
  const cursor = shape("line", { class: "cursor", y1: PLACE.top, y2: height - PLACE.bottom, visibility: "hidden" });
  svg.append(cursor);
  svg.setAttribute("tabindex", "0");
  let at = places.length - 1;
  const words = () => [where(spec, places[at]), ...values(spec, lines, places[at], x)];
  const move = (index) => {
    at = Math.max(0, Math.min(places.length - 1, index));
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, x.at(places[at]));
    cursor.setAttribute("visibility", "visible");
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    move(nearest(places, (event.clientX - box.left) * (svg.viewBox.baseVal.width / box.width), x));
    showTooltip(words().join("\n"), event.clientX, event.clientY);
  });
  const leave = () => {
    cursor.setAttribute("visibility", "hidden");
    hideTooltip();
  };
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const leap = Math.max(1, Math.round(places.length / 20));
    const next = {
      ArrowLeft: at - 1,
      ArrowRight: at + 1,
      PageUp: at - leap,
      PageDown: at + leap,
      Home: 0,
      End: places.length - 1,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    move(next);
    say(words().join("; "));
    const box = svg.getBoundingClientRect();
    showTooltip(
      words().join("\n"),
      box.left + (x.at(places[at]) * box.width) / svg.viewBox.baseVal.width,
      box.top + 20,
    );
  });
}

function where(spec, place) {
  return spec.x === "layer" ? spec.names[Math.round(place)] : `step ${whole(place)}`;
}

function values(spec, lines, place, x) {
  const read = lines.map((line) => {
    const i = nearest(line.x, x.at(place), x);
    if (Math.abs(x.at(line.x[i]) - x.at(place)) > 12) return null;
    const step = line.x[i] === place || spec.x === "layer" ? "" : ` (step ${whole(line.x[i])})`;
    return `${line.name} ${spelled(line.y[i])}${step}`;
  });
  for (const band of spec.bands || []) {
    const i = nearest(band.x, x.at(place), x);
    read.push(`${band.name} ${spelled(band.low[i])} … ${spelled(band.high[i])}`);
  }
  return read.filter(Boolean);
}

// Index of the place that is drawn nearest to a pixel; places increase.
function nearest(places, pixel, x) {
  let [low, high] = [0, places.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x.at(places[middle]) < pixel) low = middle + 1;
    else high = middle;
  }
  return low > 0 && pixel - x.at(places[low - 1]) < x.at(places[low]) - pixel ? low - 1 : low;
}
