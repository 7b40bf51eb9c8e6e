// Markdown as DOM nodes, while it is written. What is finished is never drawn again: only the last block, and of
// code only its last line. No HTML is ever parsed, and nothing is loaded from elsewhere.

import {copy, h} from "./dom.js";
import {highlight, languageOf} from "./highlight.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:\s+(.*)|)$/;
const TABLE_RULE = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;
const MARK = /\uE000\d{1,4}\uE001/g;
const MOST_DEPTH = 12;

// --- blocks --------------------------------------------------------------------------------------------------

/** The blocks of a text: [{kind, start, lines, …}]; *start* is the block's place in the text. */
export function blocksOf(text) {
  const lines = [];
  let at = 0;
  for (const line of text.split("\n")) {
    lines.push({text: line, at});
    at += line.length + 1;
  }
  const blocks = [];
  let i = 0;
  const take = (kind, n, more = {}) => {
    blocks.push({kind, start: lines[i].at, lines: lines.slice(i, i + n).map((line) => line.text), ...more});
    i += n;
  };
  while (i < lines.length) {
    const line = lines[i].text;
    if (line.trim() === "") {
      i += 1;
      continue;
    }
    const fence = FENCE.exec(line);
    const heading = HEADING.exec(line);
    const item = ITEM.exec(line);
    if (fence) take("code", fenceLength(lines, i, fence[1]), {language: fence[2], fence: fence[1]});
    else if (line.trim().startsWith("$$")) take("math", mathLength(lines, i));
    else if (heading) take("heading", 1, {level: heading[1].length, content: heading[2]});
    else if (RULE.test(line)) take("rule", 1);
    else if (QUOTE.test(line)) take("quote", lengthWhile(lines, i, (text) => QUOTE.test(text)));
    else if (item) take("item", itemLength(lines, i, item), itemOf(item));
    else if (isTable(lines, i)) take("table", lengthWhile(lines, i, (text) => text.includes("|")));
    else take("paragraph", paragraphLength(lines, i));
  }
  return blocks;
}

function lengthWhile(lines, first, test) {
  let n = 1;
  while (first + n < lines.length && test(lines[first + n].text)) n += 1;
  return n;
}

function fenceLength(lines, first, fence) {
  const isEnd = (text) => {
    const end = /^ {0,3}(`{3,}|~{3,})\s*$/.exec(text);
    return end && end[1][0] === fence[0] && end[1].length >= fence.length;
  };
  const n = lengthWhile(lines, first, (text) => !isEnd(text));
  return Math.min(n + 1, lines.length - first);
}

function mathLength(lines, first) {
  if (/^\s*\$\$.+\$\$\s*$/.test(lines[first].text)) return 1;
  const n = lengthWhile(lines, first, (text) => !text.trim().endsWith("$$"));
  return Math.min(n + 1, lines.length - first);
}

function itemOf(match) {
  const isOrdered = /\d/.test(match[2]);
  return {isOrdered, number: isOrdered ? parseInt(match[2], 10) : 0, indent: match[1].length + match[2].length + 1};
}

function itemLength(lines, first, match) {
  const indent = match[1].length + match[2].length + 1;
  let n = 1;
  let wasBlank = false;
  while (first + n < lines.length) {
    const text = lines[first + n].text;
    const isBlank = text.trim() === "";
    const isInside = /^\s*/.exec(text)[0].length >= Math.min(indent, 2);
    const isLazy = !wasBlank && !beginsBlock(text);
    if (!isBlank && !isInside && !isLazy) break;
    wasBlank = isBlank;
    n += 1;
  }
  while (n > 1 && lines[first + n - 1].text.trim() === "") n -= 1;
  return n;
}

function beginsBlock(text) {
  return FENCE.test(text) || HEADING.test(text) || RULE.test(text) || QUOTE.test(text) || ITEM.test(text);
}

function isTable(lines, i) {
  return lines[i].text.includes("|") && i + 1 < lines.length && lines[i + 1].text.includes("-")
    && TABLE_RULE.test(lines[i + 1].text);
}

function paragraphLength(lines, first) {
  let n = 1;
  while (first + n < lines.length) {
    const text = lines[first + n].text;
    if (text.trim() === "" || beginsBlock(text) || isTable(lines, first + n)) break;
    n += 1;
  }
  return n;
}

// --- nodes ---------------------------------------------------------------------------------------------------

/** The nodes of a text that is complete. */
export function render(text, depth = 0) {
  const root = document.createDocumentFragment();
  for (const block of blocksOf(text)) place(root, block, depth);
  return root;
}

/** Draws *block* at the end of *root*; returns its node. Items of one kind share a list. */
function place(root, block, depth) {
  if (block.kind !== "item") {
    const node = nodeOf(block, depth);
    root.append(node);
    return node;
  }
  const name = block.isOrdered ? "OL" : "UL";
  let list = root.lastElementChild;
  if (list?.tagName !== name) {
    list = h(name.toLowerCase(), block.isOrdered && block.number !== 1 ? {start: block.number} : {});
    root.append(list);
  }
  const node = itemNode(block, depth);
  list.append(node);
  return node;
}

function nodeOf(block, depth) {
  const text = block.lines.join("\n");
  if (depth > MOST_DEPTH) return h("p", {}, text);
  switch (block.kind) {
    case "code": return new CodeView(block).node;
    case "math": return h("pre", {class: "math"}, text.replaceAll("$$", "").trim());
    case "heading": return h(`h${Math.min(block.level + 1, 6)}`, {}, ...inline(block.content));
    case "rule": return h("hr");
    case "quote": {
      const inner = block.lines.map((line) => QUOTE.exec(line)[1]).join("\n");
      return h("blockquote", {}, render(inner, depth + 1));
    }
    case "table": return tableNode(block.lines);
    default: return h("p", {}, ...inline(text.trim()));
  }
}

function itemNode(block, depth) {
  const [first, ...rest] = block.lines;
  const indented = new RegExp(`^ {0,${block.indent}}`);
  const inner = [ITEM.exec(first)[3] ?? "", ...rest.map((line) => line.replace(indented, ""))].join("\n");
  const task = /^\[([ xX])\]\s+/.exec(inner);
  const blocks = blocksOf(task ? inner.slice(task[0].length) : inner);
  const node = h("li", {});
  if (task) node.append(h("input", {type: "checkbox", disabled: true, checked: task[1] !== " ", "aria-label": "task"}));
  blocks.forEach((child, n) => {
    const isTight = n === 0 && child.kind === "paragraph";
    if (isTight) node.append(...inline(child.lines.join("\n").trim()));
    else if (depth < MOST_DEPTH) place(node, child, depth + 1);
    else node.append(h("p", {}, child.lines.join("\n")));
  });
  return node;
}

function tableNode(lines) {
  const cells = (line) => line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/).map((cell) =>
    cell.trim().replaceAll("\\|", "|"));
  const align = cells(lines[1]).map((cell) =>
    cell.startsWith(":") && cell.endsWith(":") ? "center" : cell.endsWith(":") ? "right" : "");
  const row = (line, name) => h("tr", {}, ...cells(line).slice(0, align.length).map((cell, n) =>
    h(name, {class: align[n] || null}, ...inline(cell))));
  const body = lines.slice(2).map((line) => row(line, "td"));
  const table = h("table", {}, h("thead", {}, row(lines[0], "th")), h("tbody", {}, ...body));
  return h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Table"}, table);
}

/** A code block: finished lines are highlighted once, and kept. */
class CodeView {
  constructor(block) {
    this.name = h("span");
    this.code = h("code", {});
    this.state = null;
    this.n = 0;
    this.last = null;
    const button = h("button", {class: "quiet small", type: "button"}, "Copy");
    button.addEventListener("click", () => copy(this.text, button));
    this.node = h("div", {class: "code"},
      h("div", {class: "code-head"}, this.name, button),
      h("pre", {tabindex: "0"}, this.code));
    this.update(block);
  }

  get text() {
    return this.lines.join("\n").replace(MARK, "");
  }

  update(block) {
    const [, ...inner] = block.lines;
    this.name.textContent = block.language || "text";
    this.language = languageOf(block.language);
    const end = inner.at(-1)?.trim() ?? "";
    this.isClosed = end.length >= block.fence.length && /^(`+|~+)$/.test(end) && end[0] === block.fence[0];
    this.lines = this.isClosed ? inner.slice(0, -1) : inner;
    this.last?.remove();
    this.last = null;
    const nWhole = this.isClosed ? this.lines.length : Math.max(this.lines.length - 1, 0);
    for (; this.n < nWhole; this.n += 1) this.code.append(this.#line(this.lines[this.n], true), "\n");
    if (!this.isClosed && this.lines.length) {
      this.last = this.#line(this.lines.at(-1), false);
      this.code.append(this.last);
    }
  }

  #line(text, isWhole) {
    const marks = [...text.matchAll(/\uE000(\d{1,4})\uE001/g)].map((m) => h("span", {"data-mark": m[1]}));
    const {nodes, state} = highlight(text.replace(MARK, ""), this.language, this.state);
    if (isWhole) this.state = state;
    return h("span", {class: "line"}, ...nodes, ...marks);
  }
}

/**
 * Text that grows: append(text), and cut(n) to take back all but its first n characters, with the marks behind them. mark(node) puts a node
 * where the text ends now, in the middle of a sentence if need be.
 */
export class MarkdownView {
  #raw = "";
  #marks = [];
  #shown = "";
  #open = 0;
  #tail = null;
  #code = null;

  constructor(node) {
    this.node = node;
  }

  get text() {
    return this.#raw;
  }

  append(text) {
    this.#raw += text;
    this.#shown += withoutMarks(text);
  }

  get nMarks() {
    return this.#marks.length;
  }

  mark(node) {
    this.#marks.push({at: this.#raw.length, node});
    this.#shown += `\uE000${this.#marks.length - 1}\uE001`;
  }

  cut(n) {
    const raw = this.#raw.slice(0, n);
    const marks = this.#marks.filter((mark) => mark.at <= n);
    this.#raw = this.#shown = "";
    this.#marks = [];
    this.#open = 0;
    this.#tail = this.#code = null;
    this.node.replaceChildren();
    let at = 0;
    for (const mark of marks) {
      this.append(raw.slice(at, mark.at));
      this.mark(mark.node);
      at = mark.at;
    }
    this.append(raw.slice(at));
    this.draw();
  }

  /** Draws what has come. All blocks but the last are finished. */
  draw() {
    const blocks = blocksOf(this.#shown.slice(this.#open));
    if (this.#code && blocks[0]?.kind === "code") {
      this.#code.update(blocks[0]);
      this.#fill(this.#code.node);
      if (blocks.length === 1) return;
      blocks.shift();
      this.#code = this.#tail = null;
    }
    this.#removeTail();
    blocks.forEach((block, n) => this.#place(block, n === blocks.length - 1));
  }

  #place(block, isLast) {
    const isCode = isLast && block.kind === "code";
    const code = isCode ? new CodeView(block) : null;
    const node = code ? code.node : place(this.node, block, 0);
    if (code) this.node.append(node);
    this.#fill(node);
    if (isLast) {
      this.#open += block.start;
      this.#tail = node;
      this.#code = code;
    }
  }

  #fill(node) {
    for (const place of node.querySelectorAll("[data-mark]")) {
      const mark = this.#marks[Number(place.dataset.mark)];
      if (mark) place.replaceWith(mark.node);
    }
  }

  #removeTail() {
    const list = this.#tail?.parentElement;
    this.#tail?.remove();
    if (list && list !== this.node && !list.children.length) list.remove();
    this.#tail = this.#code = null;
  }
}

/** A model could write the characters that stand for marks. */
function withoutMarks(text) {
  return text.replace(/[\uE000\uE001]/g, "\uFFFD");
}

// --- inline --------------------------------------------------------------------------------------------------

const INLINE = new RegExp([
  /\\([!-/:-@[-`{-~])/, // 1 escaped
  /(`+)([^`]|[^`][\s\S]{0,2000}?[^`])\2(?!`)/, // 2, 3 code
  /!\[([^\]]{0,500})\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+"[^"]*")?\)/, // 4, 5 image
  /\[((?:[^[\]]|\[[^[\]]*\]){1,1000})\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+"[^"]*")?\)/, // 6, 7 link
  /<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/, // 8 autolink
  /(https?:\/\/[^\s<>()[\]`*"']{1,2000}[^\s<>()[\]`*"'.,;:!?])/, // 9 bare link
  /\*\*(?=\S)([\s\S]{1,2000}?\S|\S)\*\*(?!\*)/, // 10 bold
  /(?<![\w])__(?=\S)([\s\S]{1,2000}?\S|\S)__(?!\w)/, // 11 bold
  /\*(?=[^\s*])([^*]{1,2000}?[^\s*]|[^\s*])\*(?!\*)/, // 12 italic
  /(?<![\w])_(?=[^\s_])([^_]{1,2000}?[^\s_]|[^\s_])_(?!\w)/, // 13 italic
  /~~(?=\S)([\s\S]{1,2000}?\S|\S)~~/, // 14 struck
  /\uE000(\d{1,4})\uE001/, // 15 mark
].map((part) => part.source).join("|"), "g");

/** The nodes of a text in a line. */
export function inline(text, depth = 0) {
  const nodes = [];
  let at = 0;
  if (depth > MOST_DEPTH) return [text];
  for (const m of text.matchAll(INLINE)) {
    if (m.index > at) nodes.push(...broken(text.slice(at, m.index)));
    at = m.index + m[0].length;
    const inner = (part) => inline(part, depth + 1);
    if (m[1] !== undefined) nodes.push(m[1]);
    else if (m[3] !== undefined) nodes.push(h("code", {}, m[3]));
    else if (m[5] !== undefined) nodes.push(link(m[5], [`image: ${m[4] || m[5]}`]));
    else if (m[7] !== undefined) nodes.push(link(m[7], inner(m[6])));
    else if (m[8] !== undefined) nodes.push(link(m[8], [m[8]]));
    else if (m[9] !== undefined) nodes.push(link(m[9], [m[9]]));
    else if (m[10] ?? m[11]) nodes.push(h("strong", {}, ...inner(m[10] ?? m[11])));
    else if (m[12] ?? m[13]) nodes.push(h("em", {}, ...inner(m[12] ?? m[13])));
    else if (m[14] !== undefined) nodes.push(h("s", {}, ...inner(m[14])));
    else nodes.push(h("span", {"data-mark": m[15]}));
  }
  if (at < text.length) nodes.push(...broken(text.slice(at)));
  return nodes;
}

/** Two blanks or a backslash at a line's end break it; so does every line end in a chat. */
function broken(text) {
  return text.split(/(?: {2,}|\\)?\n/).flatMap((line, n) => (n ? [h("br"), line] : [line]));
}

/** A link, if its scheme can do no harm; else its text and its target as text. */
function link(target, nodes) {
  if (/^(https?:\/\/|mailto:)/i.test(target)) {
    return h("a", {href: target, target: "_blank", rel: "noopener noreferrer nofollow", title: target}, ...nodes);
  }
  return h("span", {class: "no-link", title: "This link is not safe to open."}, ...nodes);
}
