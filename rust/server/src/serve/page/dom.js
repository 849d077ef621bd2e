// Making nodes, and writing figures. Text goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });

/** A rate or a time: tenths below a hundred, whole numbers above. */
export const figure = (value) => (Math.abs(value) < 99.95 && !Number.isInteger(value) ? tenths : whole).format(value);

export const count = (value) => whole.format(value);

export const percent = (share) => `${figure(Math.round(share * 1000) / 10)} %`;

/** Milliseconds, in the unit that reads best. */
export function time(ms) {
  if (ms >= 999.5) return `${(ms / 1000).toFixed(2)} s`;
  return `${(ms < 99.95 ? tenths : whole).format(ms)} ms`;
}

/** The value below which `share` of `values` lie; null if there are none. */
export function quantile(values, share) {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}
