// Elements by name, attributes and children; text is always text.
const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function html(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

let measure = null;

// Width of a label in pixels.
function textWidth(text) {
  if (!measure) {
    measure = document.createElement("canvas").getContext("2d");
    measure.font = `11.5px ${getComputedStyle(document.body).fontFamily}`;
  }
  return measure.measureText(text).width;
}
