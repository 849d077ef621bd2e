// The conversation: what was said, the answer that is being written, and what each answer cost.

import { ApiError, call, events } from "./api.js";
import { byId, count, el, figure, time } from "./dom.js";
import { markdown } from "./markdown.js";
import { sampling, systemPrompt } from "./settings.js";

const EXAMPLES = [
  "What is the capital of France, and what is it known for?",
  "Write a short poem about a pencil.",
  "Explain in three points why the sky is blue.",
];

const messages = byId("messages");
const prompt = byId("prompt");
const settings = byId("settings");

/** {role, content, node} in order. */
let conversation = [];
/** Of the answer that is being written. */
let writing = null;

export function openChat() {
  for (const text of EXAMPLES) {
    byId("examples").append(el("li", {}, el("button", { type: "button", click: () => ask(text) }, text)));
  }
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = prompt.value.trim();
    if (text && !writing) ask(text);
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("composer").requestSubmit();
  });
  prompt.addEventListener("input", fitPrompt);
  document.addEventListener("keydown", (event) => event.key === "Escape" && writing?.abort());
  byId("stop").addEventListener("click", () => {
    writing?.abort();
    prompt.focus();
  });
  byId("new-chat").addEventListener("click", startAnew);
}

function startAnew() {
  writing?.abort();
  conversation.forEach(({ node }) => node.remove());
  conversation = [];
  byId("welcome").hidden = false;
  prompt.focus();
}

function fitPrompt() {
  prompt.style.height = "auto";
  prompt.style.height = `${Math.min(prompt.scrollHeight + 2, 220)}px`;
}

function ask(text) {
  byId("welcome").hidden = true;
  prompt.value = "";
  fitPrompt();
  prompt.focus();
  say("user", text, "You").body.append(el("p", {}, text));
  answer();
}

/** Adds a message to the conversation and to the page. */
function say(role, content, who) {
  const body = el("div", { class: "body" });
  const node = el("article", { class: role, "aria-label": who }, el("h3", {}, who), body);
  const message = { role, content, node, body };
  conversation.push(message);
  messages.append(node);
  messages.scrollTop = messages.scrollHeight;
  return message;
}

function regenerate() {
  if (writing) return;
  conversation.pop().node.remove();
  prompt.focus();
  answer();
}

async function answer() {
  const model = byId("model").value;
  const body = request(model);
  const message = say("assistant", "", model || "Model");
  const controller = new AbortController();
  setWriting(controller);
  const took = { ended: "", failed: null };
  try {
    await receive(message, body, controller.signal, took);
  } catch (error) {
    if (error.name === "AbortError") took.ended = "stopped";
    else took.failed = error instanceof ApiError ? error.message : "The connection to the server was lost.";
  }
  // A new chat may have begun meanwhile.
  if (writing === controller) setWriting(null);
  finish(message, took);
}

function request(model) {
  const system = systemPrompt(settings);
  // Answers that failed at once said nothing.
  const said = conversation.filter(({ content }) => content).map(({ role, content }) => ({ role, content }));
  return {
    ...sampling(settings),
    model: model || undefined,
    messages: system ? [{ role: "system", content: system }, ...said] : said,
    stream: true,
    stream_options: { include_usage: true },
  };
}

async function receive(message, body, signal, took) {
  const draw = eachFrame(() => show(message));
  try {
    for await (const data of events(await call("v1/chat/completions", { body, signal }))) {
      if (data === "[DONE]") break;
      take(JSON.parse(data), message, took);
      draw();
    }
  } finally {
    show(message);
  }
}

function take(chunk, message, took) {
  if (chunk.error) throw new ApiError(500, chunk.error.message);
  const choice = chunk.choices[0];
  message.content += choice?.delta?.content ?? "";
  took.ended = choice?.finish_reason ?? took.ended;
  took.timing = chunk.timing ?? took.timing;
  took.usage = chunk.usage ?? took.usage;
}

/** At most once per frame, however fast tokens come. */
function eachFrame(draw) {
  let isDue = false;
  return () => {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => {
      isDue = false;
      draw();
    });
  };
}

function show(message) {
  const isAtEnd = messages.scrollHeight - messages.scrollTop - messages.clientHeight < 48;
  message.body.replaceChildren(markdown(message.content));
  if (isAtEnd) messages.scrollTop = messages.scrollHeight;
}

function setWriting(controller) {
  writing = controller;
  const isWriting = controller !== null;
  byId("stop").hidden = !isWriting;
  byId("send").hidden = isWriting;
  // Screen readers read the answer once it is whole.
  messages.setAttribute("aria-busy", isWriting);
  if (isWriting) byId("progress").textContent = "The answer is being written.";
}

function finish(message, took) {
  for (const old of messages.querySelectorAll(".regenerate")) old.remove();
  if (took.failed) message.body.append(el("p", { class: "error", role: "alert" }, took.failed));
  const figures = costs(took);
  byId("progress").textContent = took.failed ? "" : `The answer is complete. ${figures.slice(0, 2).join(", ")}`;
  message.node.append(
    el(
      "footer",
      {},
      el("span", { class: "figures" }, figures.join(" · ")),
      ...copyButton(message),
      el("button", { type: "button", class: "quiet regenerate", click: regenerate }, "Regenerate"),
    ),
  );
  messages.scrollTop = messages.scrollHeight;
}

/** Browsers have a clipboard only where the page came safely. */
function copyButton({ content }) {
  if (!navigator.clipboard) return [];
  const copy = async ({ target }) => {
    await navigator.clipboard.writeText(content);
    target.textContent = "Copied";
  };
  return [el("button", { type: "button", class: "quiet", click: copy }, "Copy")];
}

function costs({ ended, timing, usage }) {
  const figures = [];
  if (usage) figures.push(`${count(usage.completion_tokens)} tokens`);
  if (timing?.decode_tokens_per_s) figures.push(`${figure(timing.decode_tokens_per_s)} tokens/s`);
  if (timing?.ttft_ms) figures.push(`first after ${time(timing.ttft_ms)}`);
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  if (usage) figures.push(`prompt ${count(usage.prompt_tokens)}${cached ? `, ${count(cached)} cached` : ""}`);
  if (ended === "length") figures.push("cut at its longest");
  if (ended === "stopped") figures.push("stopped");
  return figures;
}
