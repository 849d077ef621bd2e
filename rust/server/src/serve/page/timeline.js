// The latest requests, one row each: what they cost, and a bar of how their time was spent.

import { byId, count, el, figure, svg, time } from "./dom.js";

const MAX_ROWS = 14;
const SPANS_MS = [5_000, 10_000, 20_000, 30_000, 60_000, 120_000, 300_000];
/** In units of the bar's drawing. */
const WIDTH = 1000;
const ENDS = { stop: "done", length: "done", abort: "left by its caller", error: "failed" };

/** By a request's number. Rows stay the same nodes, so that a click or the focus never loses them. */
const rows = new Map();
let chosen = null;
let redraw = () => {};

/** `changed` is called when another request is chosen. */
export function openTimeline(changed) {
  redraw = changed;
}

/** Draws the requests of a report; returns the blocks of the chosen one. */
export function drawTimeline(requests) {
  const latest = requests.slice(-MAX_ROWS);
  const running = requests.filter(({ total_ms }) => total_ms === null).length;
  byId("timeline-facts").textContent = latest.length ? `${running} running; a request's name shows its blocks` : "";
  byId("timeline-empty").hidden = latest.length > 0;
  const oldest = Math.max(0, ...latest.map(({ age_ms }) => age_ms));
  const span = SPANS_MS.find((candidate) => candidate >= oldest) ?? SPANS_MS.at(-1);
  byId("timeline-scale").textContent = latest.length ? `last ${span / 1000} s` : "";
  keepRows(latest);
  for (const request of latest) fill(rows.get(request.number), request, span);
  return latest.find(({ number }) => number === chosen)?.blocks ?? [];
}

/** The newest request's row comes first. */
function keepRows(requests) {
  const numbers = new Set(requests.map(({ number }) => number));
  for (const [number, row] of rows) {
    if (numbers.has(number)) continue;
    row.node.remove();
    rows.delete(number);
  }
  for (const request of requests) {
    if (rows.has(request.number)) continue;
    rows.set(request.number, newRow(request));
    byId("timeline").prepend(rows.get(request.number).node);
  }
}

function newRow(request) {
  const name = nameOf(request);
  const cells = ["prompt", "cached", "output", "ttft", "rate"].map(() => el("td", { class: "number" }));
  const bar = svg("svg", { viewBox: `0 0 ${WIDTH} 14`, preserveAspectRatio: "none", role: "img" });
  const head = el("th", { scope: "row" }, name);
  return { node: el("tr", {}, head, ...cells, el("td", { class: "track" }, bar)), name, cells, bar };
}

function nameOf({ id, number }) {
  if (id === null) return el("span", { class: "foreign" }, "another key");
  const choose = () => {
    chosen = chosen === number ? null : number;
    redraw();
  };
  const short = id.startsWith("req-") ? id.slice(4, 12) : id.slice(0, 12);
  return el("button", { type: "button", title: id, click: choose }, short);
}

function fill({ node, name, cells, bar }, request, span) {
  const { prompt_tokens, cached_tokens, generated_tokens, ttft_ms } = request;
  const isChosen = request.number === chosen;
  node.classList.toggle("chosen", isChosen);
  if (name.localName === "button") name.setAttribute("aria-pressed", isChosen);
  const texts = [
    count(prompt_tokens),
    cached_tokens ? count(cached_tokens) : "–",
    count(generated_tokens),
    ttft_ms === null ? progress(request) : time(ttft_ms),
    rate(request),
  ];
  cells.forEach((cell, i) => (cell.textContent = texts[i]));
  drawBar(bar, request, span);
}

/** How much of the prompt is computed. */
function progress({ queue_ms, computed_tokens, prompt_tokens, total_ms }) {
  if (total_ms !== null) return "–";
  if (queue_ms === null) return "waits";
  return `${Math.round((100 * Math.min(computed_tokens, prompt_tokens)) / prompt_tokens)} %`;
}

function rate({ generated_tokens, ttft_ms, last_token_ms }) {
  if (generated_tokens < 2 || last_token_ms <= ttft_ms) return "–";
  return figure(((generated_tokens - 1) * 1000) / (last_token_ms - ttft_ms));
}

function drawBar(bar, request, span) {
  const { age_ms, queue_ms, ttft_ms, last_token_ms, total_ms, end } = request;
  const now = total_ms ?? age_ms;
  const first = ttft_ms ?? now;
  // Requests that were given up do not tell how long they waited.
  const begun = Math.min(queue_ms ?? first, first);
  const done = total_ms === null ? age_ms : (last_token_ms ?? now);
  const x = (ms) => Math.max(0, WIDTH * (1 - (age_ms - ms) / span));
  const part = (tone, from, to) =>
    to > from && svg("rect", { class: tone, x: x(from), y: 3, width: Math.max(3, x(to) - x(from)), height: 8 });
  const parts = [part("queue", 0, begun), part("prefill", begun, first), part("decode", first, done)];
  if (end === "abort" || end === "error") {
    parts.push(svg("rect", { class: "broken", x: Math.min(x(now), WIDTH - 6), y: 0, width: 6, height: 14 }));
  }
  const label = `${end ? ENDS[end] : "running"}, ${time(now)}`;
  bar.setAttribute("aria-label", label);
  bar.replaceChildren(svg("title", {}, label), ...parts.filter(Boolean));
}
