// The engine at work, from the server's stream of reports.

import { call, events, keys } from "./api.js";
import { drawBlocks, openBlocks } from "./blocks.js";
import { chart, WINDOW_MS } from "./chart.js";
import { byId, count, el, figure, percent, quantile, time } from "./dom.js";
import { drawTimeline, openTimeline } from "./timeline.js";

const RETRY_MS = 2_000;
/** Rates are means over this, so that one step does not make a peak. */
const RATE_MS = 1_500;
/** Quantiles are of this many latest requests. */
const RECENT = 32;

const TILES = {
  generation: "Generated/s",
  prompt: "Prompt/s",
  ttft: "First token",
  gap: "Per token",
  load: "Running",
  hits: "Prefix hits",
};

const tiles = {};
let charts = null;
/** Of the model that is shown: {t, generated, computed, running, waiting}, oldest first. */
let samples = [];
let shown = null;
let report = null;
let connection = null;

/** `onState(text)` hears how the server is. */
export function openEngine(onState) {
  for (const [id, name] of Object.entries(TILES)) {
    tiles[id] = { value: el("dd", {}, "–"), more: el("dd", { class: "more" }, "") };
    byId("tiles").append(el("div", {}, el("dt", {}, name), tiles[id].value, tiles[id].more));
  }
  charts = {
    throughput: chart(byId("throughput"), "Tokens per second", [
      { name: "generated", kind: "area", tone: "decode" },
      { name: "prompt", kind: "line", tone: "prefill" },
    ]),
    ttft: chart(byId("ttft"), "Time to first token in milliseconds", [{ name: "latest", kind: "dots", tone: "prefill" }]),
    requests: chart(byId("requests"), "Requests", [
      { name: "running", kind: "step", tone: "decode" },
      { name: "waiting", kind: "step", tone: "queue" },
    ]),
  };
  openBlocks();
  openTimeline(redraw);
  byId("model").addEventListener("change", redraw);
  // Who does not look costs nothing.
  const follow = () => (document.hidden ? connection?.abort() : watch(onState));
  document.addEventListener("visibilitychange", follow);
  keys.addEventListener("given", follow);
  follow();
}

/** Colours changed. */
export function redraw() {
  if (report) show(report);
}

async function watch(onState) {
  connection?.abort();
  const own = (connection = new AbortController());
  while (!own.signal.aborted) {
    try {
      for await (const data of events(await call("live", { signal: own.signal, quiet: true }))) {
        report = JSON.parse(data);
        onState(report.state);
        byId("version").textContent = report.version;
        show(report);
      }
    } catch (error) {
      if (own.signal.aborted) return;
      onState(error.status === 401 ? "no key" : "unreachable");
      // Whoever has no key is asked for one when they want something.
      if (error.status === 401) return;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

function show({ models, requests }) {
  const wanted = byId("model").value;
  const model = models.find(({ name }) => name === wanted) ?? models[0];
  byId("engine-facts").textContent = model ? facts(model) : "no model in memory";
  if (!model) return;
  const now = performance.now();
  remember(model, now);
  const own = requests.filter((request) => request.model === model.name);
  showTiles(model, own);
  showCharts(own, now);
  drawBlocks(model, drawTimeline(own));
}

function facts({ name, backend, max_model_len, num_steps, num_preemptions }) {
  const preempted = num_preemptions ? `, ${count(num_preemptions)} preemptions` : "";
  return `${name} on ${backend}, context ${count(max_model_len)}, ${count(num_steps)} steps${preempted}`;
}

function remember(model, t) {
  const { name, num_generated_tokens: generated, num_running: running, num_waiting: waiting } = model;
  const computed = model.num_prompt_tokens - model.prefix_cache_hits;
  // Another model, or the same one loaded again.
  if (name !== shown || generated < (samples.at(-1)?.generated ?? 0)) samples = [];
  shown = name;
  if (t - (samples.at(-1)?.t ?? 0) < 100) return;
  samples.push({ t, generated, computed, running, waiting });
  if (samples[0].t < t - WINDOW_MS - RATE_MS) samples.shift();
}

/** Per second over the last RATE_MS before sample `i`. */
function rate(i, what) {
  const { t, [what]: total } = samples[i];
  let from = i;
  while (from > 0 && t - samples[from].t < RATE_MS) from -= 1;
  return from === i ? 0 : ((total - samples[from][what]) * 1000) / (t - samples[from].t);
}

function showTiles(model, requests) {
  const recent = requests.filter(({ ttft_ms }) => ttft_ms !== null).slice(-RECENT);
  const gaps = recent.filter(({ generated_tokens: n }) => n > 1);
  const gap = gaps.map((r) => (r.last_token_ms - r.ttft_ms) / (r.generated_tokens - 1));
  const last = samples.length - 1;
  const { prefix_cache_hits: hits, prefix_cache_queries: queries } = model;
  tell("generation", figure(rate(last, "generated")), `${count(model.num_generated_tokens)} total`);
  tell("prompt", figure(rate(last, "computed")), `${count(model.num_prompt_tokens - hits)} total`);
  tellQuantiles("ttft", recent.map(({ ttft_ms }) => ttft_ms));
  tellQuantiles("gap", gap);
  tell("load", count(model.num_running), `${count(model.num_waiting)} waiting`);
  tell("hits", queries ? percent(hits / queries) : "–", queries ? `${count(hits)} tokens` : "");
}

function tell(id, value, more) {
  tiles[id].value.textContent = value;
  tiles[id].more.textContent = more;
}

function tellQuantiles(id, values) {
  if (values.length) tell(id, time(quantile(values, 0.5)), `p90 ${time(quantile(values, 0.9))}`);
}

function showCharts(requests, now) {
  const rates = (what) => samples.map(({ t }, i) => ({ t, value: rate(i, what) }));
  const levels = (what) => samples.map((sample) => ({ t: sample.t, value: sample[what] }));
  const firsts = requests.filter(({ ttft_ms }) => ttft_ms !== null);
  charts.throughput([rates("generated"), rates("computed")], now);
  charts.ttft([firsts.map(({ age_ms, ttft_ms }) => ({ t: now - age_ms + ttft_ms, value: ttft_ms }))], now);
  charts.requests([levels("running"), levels("waiting")], now);
}
