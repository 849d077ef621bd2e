// The part of Markdown that models write, as nodes. Whatever else a text has stays text: no links, images or markup.

import { el } from "./dom.js";

const FENCE = /^\s*```(.*)$/;
const HEADING = /^#{1,6}\s+(.*)$/;
const ITEM = /^\s*(?:[-*+]|(\d+)[.)])\s+(.*)$/;
const INLINE = /(`+)(.+?)\1|\*\*(.+?)\*\*|(?<![\w*])\*([^*\s](?:[^*]*[^*\s])?)\*(?!\w)/g;

/** A text that may still be growing: an open fence goes on to its end. */
export function markdown(text) {
  const blocks = document.createDocumentFragment();
  const lines = text.split("\n");
  for (let at = 0; at < lines.length; ) at = block(lines, at, blocks);
  return blocks;
}

/** Appends the block that begins at line `at`; returns where the next one does. */
function block(lines, at, out) {
  if (lines[at].trim() === "") return at + 1;
  if (FENCE.test(lines[at])) return code(lines, at, out);
  if (ITEM.test(lines[at])) return list(lines, at, out);
  const heading = HEADING.exec(lines[at]);
  if (heading) {
    out.append(el("p", { class: "heading" }, ...inline(heading[1])));
    return at + 1;
  }
  return paragraph(lines, at, out);
}

function code(lines, at, out) {
  const language = FENCE.exec(lines[at])[1].trim();
  const rest = lines.slice(at + 1);
  const length = rest.findIndex((line) => FENCE.test(line));
  const body = length < 0 ? rest : rest.slice(0, length);
  const label = language && `${language} code`;
  out.append(el("pre", { tabindex: 0, role: "group", "aria-label": label || "code" }, el("code", {}, body.join("\n"))));
  return at + 1 + body.length + 1;
}

function list(lines, at, out) {
  const isOrdered = (line) => ITEM.exec(line)?.[1] !== undefined;
  const ordered = isOrdered(lines[at]);
  const node = ordered ? el("ol", { start: ITEM.exec(lines[at])[1] }) : el("ul");
  for (; at < lines.length && ITEM.test(lines[at]) && isOrdered(lines[at]) === ordered; at += 1) {
    node.append(el("li", {}, ...inline(ITEM.exec(lines[at])[2])));
    // Items may stand apart.
    while (lines[at + 1]?.trim() === "" && ITEM.test(lines[at + 2] ?? "")) at += 1;
  }
  out.append(node);
  return at;
}

function paragraph(lines, at, out) {
  const first = at;
  const endsIt = (line) => line.trim() === "" || FENCE.test(line) || ITEM.test(line) || HEADING.test(line);
  while (at < lines.length && !endsIt(lines[at])) at += 1;
  out.append(el("p", {}, ...inline(lines.slice(first, at).join("\n"))));
  return at;
}

function inline(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    nodes.push(text.slice(end, match.index));
    const [all, , codeText, bold, italic] = match;
    if (codeText !== undefined) nodes.push(el("code", {}, codeText));
    else if (bold !== undefined) nodes.push(el("strong", {}, ...inline(bold)));
    else nodes.push(el("em", {}, italic));
    end = match.index + all.length;
  }
  return [...nodes, text.slice(end)];
}
