// Colours of the map: viridis, and purple to orange around zero; both can be told apart by colour-blind people.
const VIRIDIS = [
  "#440154",
  "#482475",
  "#414487",
  "#355f8d",
  "#2a788e",
  "#21918c",
  "#22a884",
  "#44bf70",
  "#7ad151",
  "#bddf26",
  "#fde725",
];
const AROUND_ZERO = {
  light: ["#3f1d80", "#8a7bc0", "#f3f1ec", "#eda65a", "#a84a00"],
  dark: ["#c3b3ff", "#6c58b5", "#262930", "#a9641c", "#ffb764"],
};

function ramp(stops) {
  const parsed = stops.map((stop) => [1, 3, 5].map((place) => parseInt(stop.slice(place, place + 2), 16)));
  return Array.from({ length: 256 }, (_, i) => {
    const place = (i / 255) * (parsed.length - 1);
    const start = Math.min(Math.floor(place), parsed.length - 2);
    return parsed[start].map((value, channel) =>
      Math.round(value + (parsed[start + 1][channel] - value) * (place - start)),
    );
  });
}

function colorsFor(scale) {
  return ramp(scale === "diverging" ? AROUND_ZERO[darkNow() ? "dark" : "light"] : VIRIDIS);
}

// A colour of the style sheet as red, green and blue, whatever the theme.
function styleColor(name) {
  const probe = html("i", { class: "unseen" });
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe)
    .color.match(/[\d.]+/g)
    .slice(0, 3)
    .map(Number);
  probe.remove();
  return found;
}
