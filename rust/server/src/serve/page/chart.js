// Charts over the last minute, drawn as SVG.

import { el, figure, svg } from "./dom.js";

export const WINDOW_MS = 60_000;
const LEFT = 40;
const RIGHT = 6;
const TOP = 8;
const BOTTOM = 18;

/**
 * A chart in `node`. `series`: {name, kind: "line" | "area" | "step" | "dots", tone}, where the tone is a class that
 * colours it. `draw(data, now)` takes for each series its points {t, value}, oldest first.
 */
export function chart(node, title, series) {
  const plot = svg("svg", { role: "img", "aria-label": title });
  const latest = series.map(() => el("b", {}, "–"));
  const keys = series.map(({ name, tone }, i) =>
    el("li", {}, el("i", { class: tone, "aria-hidden": true }), `${name} `, latest[i]),
  );
  node.append(plot, el("ul", { class: "legend" }, ...keys));
  let last = null;
  const draw = (data, now) => {
    last = [data, now];
    const values = data.map((points) => points.at(-1)?.value);
    values.forEach((value, i) => (latest[i].textContent = value === undefined ? "–" : figure(value)));
    const told = series.map(({ name }, i) => `${name} ${latest[i].textContent}`);
    plot.setAttribute("aria-label", `${title}: ${told.join(", ")}`);
    paint(plot, series, data, now);
  };
  new ResizeObserver(() => last && paint(plot, series, ...last)).observe(plot);
  return draw;
}

function paint(plot, series, data, now) {
  const { clientWidth: width, clientHeight: height } = plot;
  const shown = data.map((points) => points.filter(({ t }) => t >= now - WINDOW_MS));
  const top = niceTop(Math.max(0, ...shown.flat().map(({ value }) => value)));
  const x = (t) => LEFT + ((t - now + WINDOW_MS) / WINDOW_MS) * (width - LEFT - RIGHT);
  const y = (value) => height - BOTTOM - (value / top) * (height - TOP - BOTTOM);
  plot.replaceChildren(
    ...[0, top / 2, top].flatMap((value) => level(value, y(value), width)),
    ...[60, 30, 0].map((s) => moment(s, x(now - s * 1000), height)),
    ...shown.flatMap((points, i) => marks(series[i], points, x, y)),
  );
}

/** The next of 1, 2, 4, 6, 8, 10, 20, ... */
function niceTop(value) {
  const unit = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 4, 6, 8, 10].map((step) => step * unit).find((step) => step >= value);
}

function level(value, y, width) {
  return [
    svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }),
    svg("text", { class: "tick", x: LEFT - 6, y: y + 4, "text-anchor": "end" }, short(value)),
  ];
}

function moment(seconds, x, height) {
  const anchor = seconds === 0 ? "end" : seconds === 60 ? "start" : "middle";
  return svg("text", { class: "tick", x, y: height - 4, "text-anchor": anchor }, seconds ? `−${seconds} s` : "now");
}

const short = (value) => (value >= 10_000 ? `${value / 1000}k` : String(value));

function marks({ kind, tone }, points, x, y) {
  if (points.length === 0) return [];
  if (kind === "dots") return points.map(({ t, value }) => svg("circle", { class: tone, cx: x(t), cy: y(value), r: 2.5 }));
  const path = points.map(({ t, value }, i) => segment(kind, i, x(t), y(value))).join("");
  const line = svg("path", { class: `line ${tone}`, d: path });
  if (kind !== "area") return [line];
  const close = `L${x(points.at(-1).t)} ${y(0)}L${x(points[0].t)} ${y(0)}Z`;
  return [svg("path", { class: `area ${tone}`, d: path + close }), line];
}

function segment(kind, i, x, y) {
  const at = (value) => value.toFixed(1);
  if (i === 0) return `M${at(x)} ${at(y)}`;
  return kind === "step" ? `H${at(x)}V${at(y)}` : `L${at(x)} ${at(y)}`;
}
