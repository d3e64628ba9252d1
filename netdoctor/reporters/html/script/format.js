// Numbers as people read them: 0.0123, 1,234, 1.2×10⁻⁷; the same as numbers.py writes.
const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

function spelled(value, digits = 3) {
  if (value === null || Number.isNaN(value)) return "not seen";
  if (!Number.isFinite(value)) return "NaN or Inf";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if ((size >= 1e-3 && size < 1e6) || (Number.isInteger(value) && size < 1e6)) {
    const decimals = Math.max(digits - 1 - Math.floor(Math.log10(size)), 0);
    return value.toLocaleString("en-US", { maximumFractionDigits: decimals }).replace("-", "−");
  }
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  const short = mantissa.includes(".") ? mantissa.replace(/\.?0+$/, "") : mantissa;
  return `${short}×${power(Number(exponent))}`.replace("-", "−");
}

function power(exponent) {
  return `10${String(exponent).replace(/./g, (char) => SUPERSCRIPTS[char])}`;
}

function whole(value) {
  return Math.round(value).toLocaleString("en-US");
}

// A layer's name in a sentence: those of nn.Sequential are bare numbers.
function spoken(name) {
  return /^\d/.test(name) ? `layer ${name}` : name;
}

// The end of a long name tells more than its beginning.
function clipped(text, length) {
  return text.length <= length ? text : `…${text.slice(text.length - length + 1)}`;
}
