// From values to pixels: linear, logarithmic, and symmetric-logarithmic for values on both sides of zero.
function linearScale([low, high], [start, end]) {
  const at = (value) => start + ((value - low) / (high - low)) * (end - start);
  return {
    kind: "linear",
    low,
    high,
    at,
    ticks: (count) => linearTicks(low, high, count),
    label: (v) => tickLabel(v, high - low),
  };
}

function logScale([low, high], [start, end]) {
  const first = Math.log10(low);
  const range = Math.log10(high) - first;
  const at = (value) => (value > 0 ? start + ((Math.log10(value) - first) / range) * (end - start) : start);
  return { kind: "log", low, high, at, ticks: (count) => logTicks(low, high, count), label: logLabel };
}

function symlogScale([low, high], [start, end], width) {
  const bend = (value) => Math.sign(value) * Math.log10(1 + Math.abs(value) / width);
  const [first, last] = [bend(low), bend(high)];
  const at = (value) => start + ((bend(value) - first) / (last - first)) * (end - start);
  const ticks = (count) => {
    const side = (most) => (most > width ? logTicks(width, most, Math.max(2, count / 2)) : []);
    return [
      ...side(-low)
        .map((value) => -value)
        .reverse(),
      0,
      ...side(high),
    ];
  };
  return { kind: "symlog", low, high, at, ticks, label: logLabel };
}

function linearTicks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1);
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => size >= rough) || rough;
  const ticks = [];
  for (let place = Math.ceil(low / step - 1e-9); place * step <= high + step * 1e-9; place += 1)
    ticks.push(place * step);
  return ticks;
}

function logTicks(low, high, count) {
  const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
  const decades = Math.log10(high / low);
  if (decades < 1) return linearTicks(low, high, count).filter((value) => value > 0);
  const ticks = [];
  if (decades < 2.5 && count >= 4) {
    for (let exponent = first - 1; exponent <= last; exponent += 1) {
      for (const digit of decades < 1.6 ? [1, 2, 5] : [1, 3]) ticks.push(digit * 10 ** exponent);
    }
    return ticks.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  }
  const every = Math.max(1, Math.ceil((last - first + 1) / Math.max(count, 2)));
  for (let exponent = last; exponent >= first; exponent -= every) ticks.unshift(10 ** exponent);
  return ticks;
}

function tickLabel(value, range) {
  if (Math.abs(value) < range * 1e-9) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return spelled(value, 2);
  const decimals = Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(range))));
  return Number(value.toFixed(decimals)).toLocaleString("en-US", { maximumFractionDigits: decimals }).replace("-", "−");
}

function logLabel(value) {
  const exponent = Math.log10(Math.abs(value));
  const decade = Math.abs(exponent - Math.round(exponent)) < 1e-6;
  if (value !== 0 && decade && Math.abs(exponent) > 2.5) return `${value < 0 ? "−" : ""}${power(Math.round(exponent))}`;
  return spelled(value);
}
