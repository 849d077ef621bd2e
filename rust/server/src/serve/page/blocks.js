// The KV cache as a picture: one cell per block, or per few neighbours where there are too many.

import { byId, count, el, percent } from "./dom.js";

/** By the letters of a report. */
const STATES = { u: "in use", s: "shared", c: "cached", f: "free" };
const MAX_HEIGHT = 132;
const SMALLEST = 4;
const LARGEST = 12;

const canvas = byId("blocks");
const swatches = {};
const counts = {};
let last = null;

export function openBlocks() {
  const entry = (letter, name) => {
    swatches[letter] = el("i", { class: `block-${letter}`, "aria-hidden": true });
    counts[letter] = el("b", {}, "0");
    return el("li", {}, swatches[letter], `${name} `, counts[letter]);
  };
  const legend = byId("blocks-legend");
  legend.append(...Object.entries(STATES).map(([letter, name]) => entry(letter, name)));
  swatches.x = el("i", { class: "block-x", "aria-hidden": true });
  legend.append(el("li", {}, swatches.x, "of the chosen request"));
  new ResizeObserver(() => last && paint(...last)).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => last && paint(...last));
}

/** `model` as reported; `chosen`: ranges [start, end) of block ids. */
export function drawBlocks(model, chosen) {
  // A report during a long step has no blocks: the picture stays.
  if (!model.blocks) return;
  const states = expand(model.blocks);
  for (const letter of Object.keys(STATES)) {
    counts[letter].textContent = count(states.reduce((sum, state) => sum + (state === letter), 0));
  }
  for (const [start, end] of chosen) states.fill("x", start, end);
  const used = percent(model.num_used_blocks / Math.max(1, model.num_blocks));
  const told = `${count(model.num_used_blocks)} of ${count(model.num_blocks)} blocks in use, ${used}`;
  byId("blocks-facts").textContent = `${told}; ${model.block_size} tokens a block`;
  canvas.setAttribute("aria-label", `KV cache: ${told}, ${counts.c.textContent} cached`);
  last = [states];
  paint(states);
}

/** `2u3f` is u u f f f. */
function expand(runs) {
  return [...runs.matchAll(/(\d+)([a-z])/g)].flatMap(([, length, letter]) => new Array(Number(length)).fill(letter));
}

function paint(states) {
  const width = canvas.clientWidth;
  if (width === 0) return;
  const { size, perCell } = fit(states.length, width);
  const columns = Math.floor(width / size);
  const cells = Math.ceil(states.length / perCell);
  const height = Math.max(1, Math.ceil(cells / columns)) * size;
  const scale = devicePixelRatio;
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const colours = Object.fromEntries(
    Object.entries(swatches).map(([letter, swatch]) => [letter, getComputedStyle(swatch).backgroundColor]),
  );
  for (let cell = 0; cell < cells; cell += 1) {
    context.fillStyle = colours[strongest(states, cell * perCell, perCell)];
    context.fillRect((cell % columns) * size, Math.floor(cell / columns) * size, size - 1, size - 1);
  }
}

/** The largest cells that fit, and how many blocks each stands for. */
function fit(numBlocks, width) {
  const room = (size) => Math.floor(width / size) * Math.floor(MAX_HEIGHT / size);
  for (let size = LARGEST; size >= SMALLEST; size -= 1) {
    if (room(size) >= numBlocks) return { size, perCell: 1 };
  }
  return { size: SMALLEST, perCell: Math.ceil(numBlocks / Math.max(1, room(SMALLEST))) };
}

/** What a cell shows of its blocks: rather the rare than the common. */
function strongest(states, start, length) {
  const found = new Set(states.slice(start, start + length));
  return ["x", "s", "u", "c", "f"].find((letter) => found.has(letter));
}
