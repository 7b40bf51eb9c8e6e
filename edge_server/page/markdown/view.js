// Markdown as DOM nodes, while it is written. What is finished is never drawn again: of the last block only what can
// still change. No HTML is ever parsed, and nothing is loaded from elsewhere.

import {h} from "../dom.js";
import {ITEM, MARK, QUOTE, blocksOf} from "./blocks.js";
import {CodeView} from "./code.js";
import {MOST_DEPTH, inline, settledLength, withMarks} from "./inline.js";

/** So many blocks share an element that the browser skips while it is off the screen. */
const PART_BLOCKS = 24;
const LONG_CHARS = 400;

/** The blocks of a text that only grows, at the end of *root*. */
class Blocks {
  /** Where the text begins that is looked at again. */
  #open = 0;
  #nDone = 0;
  /** Of the blocks from there on. */
  #views = [];
  #code = null;

  /** *isTight*: the first paragraph has no element of its own. */
  constructor(root, marks, {depth = 0, isTight = false, hasParts = false} = {}) {
    Object.assign(this, {root, marks, depth, isTight, hasParts});
  }

  /** *text* begins with what was drawn before. */
  draw(text) {
    let rest = text.slice(this.#open);
    if (this.#code) {
      const n = this.#code.feed(rest);
      this.#open += n;
      if (!this.#code.isClosed) return;
      this.#code = null;
      rest = rest.slice(n);
    }
    const blocks = blocksOf(rest);
    let n = 0;
    while (n < Math.min(this.#views.length, blocks.length) && this.#views[n].update(blocks[n])) n += 1;
    for (const view of this.#views.splice(n).reverse()) view.remove();
    for (const block of blocks.slice(n)) this.#views.push(this.#viewOf(block));
    if (blocks.length) this.#settle(rest, blocks);
  }

  /** Leaves alone what no further text can change. A line that is not complete may yet belong to the block before it. */
  #settle(rest, blocks) {
    const last = blocks.length - 1;
    const n = blocks[last].start > rest.lastIndexOf("\n") ? Math.max(0, last - 1) : last;
    const block = blocks[n];
    this.#views.splice(0, n);
    this.#nDone += n;
    this.#open += block.start;
    if (n < last || !(this.#views[0] instanceof FencedView) || block.lines.length < 2) return;
    this.#code = this.#views.pop();
    this.#nDone += 1;
    this.#open += block.lines[0].length + 1 + this.#code.nFed;
  }

  #viewOf(block) {
    const root = this.#rootOf(block);
    if (this.depth > MOST_DEPTH) return new PlainView(root, block, this.marks, this.depth);
    const isBare = this.isTight && this.#nDone + this.#views.length === 0;
    if (block.kind === "paragraph") return new ParagraphView(root, block, this.marks, isBare);
    const View = {code: FencedView, item: ItemView, quote: QuoteView, table: TableView}[block.kind] ?? PlainView;
    return new View(root, block, this.marks, this.depth);
  }

  #rootOf(block) {
    if (!this.hasParts) return this.root;
    const part = this.root.lastElementChild;
    const goesOn = block.kind === "item" && part?.lastElementChild?.tagName === listOf(block);
    if (part && (goesOn || part.childElementCount < PART_BLOCKS)) return part;
    const added = h("div", {class: "part"});
    this.root.append(added);
    return added;
  }
}

// --- the kinds of blocks -------------------------------------------------------------------------------------
// Each has kind; update(block), which returns false where it has to be drawn anew; and remove().

/** What is drawn anew with each change, since it is short. */
class PlainView {
  constructor(root, block, marks, depth) {
    this.kind = block.kind;
    this.source = block.lines.join("\n");
    this.node = depth > MOST_DEPTH ? h("p", {}, this.source.replace(MARK, "")) : plainNode(block, this.source, marks);
    root.append(this.node);
  }

  update(block) {
    return block.kind === this.kind && block.lines.join("\n") === this.source;
  }

  remove() {
    this.node.remove();
  }
}

function plainNode(block, text, marks) {
  if (block.kind === "rule") return h("hr");
  if (block.kind === "math") return h("pre", {class: "math", tabindex: "0"}, ...withMarks(text.replaceAll("$$", "").trim(), marks));
  return h(`h${Math.min(block.level + 1, 6)}`, {}, ...inline(block.content, marks));
}

class FencedView extends CodeView {
  constructor(root, block, marks) {
    super(root, block, marks);
    this.source = block.lines.join("\n");
    this.nFed = this.feed(block.lines.slice(1).join("\n"));
  }

  update(block) {
    return block.kind === "code" && block.lines.join("\n") === this.source;
  }
}

/** A paragraph: what no further text can change is drawn once. */
class ParagraphView {
  kind = "paragraph";
  #text = null;
  #settled = "";
  #nodes = [];
  #open = [];

  constructor(root, block, marks, isBare) {
    Object.assign(this, {marks, isBare});
    this.node = isBare ? root : h("p");
    if (!isBare) root.append(this.node);
    this.update(block);
  }

  update(block) {
    const text = block.lines.join("\n").trim();
    if (block.kind !== "paragraph" || !text.startsWith(this.#settled)) return false;
    if (text === this.#text) return true;
    this.#text = text;
    for (const node of this.#open) node.remove();
    const rest = text.slice(this.#settled.length);
    const n = rest.length > LONG_CHARS ? settledLength(rest) : 0;
    if (n) this.#nodes.push(...this.#put(rest.slice(0, n)));
    this.#settled += rest.slice(0, n);
    this.#open = this.#put(rest.slice(n));
    return true;
  }

  #put(text) {
    const nodes = inline(text, this.marks).filter(Boolean).map((node) => (typeof node === "string" ? new Text(node) : node));
    this.node.append(...nodes);
    return nodes;
  }

  remove() {
    if (!this.isBare) this.node.remove();
    else for (const node of [...this.#nodes, ...this.#open]) node.remove();
  }
}

/** A block that holds blocks. */
class NestedView {
  #drawn = "";

  constructor(kind, node, marks, options) {
    Object.assign(this, {kind, node});
    this.blocks = new Blocks(node, marks, options);
  }

  grow(text) {
    if (!text.startsWith(this.#drawn)) return false;
    this.#drawn = text;
    this.blocks.draw(text);
    return true;
  }

  remove() {
    this.node.remove();
  }
}

class QuoteView extends NestedView {
  constructor(root, block, marks, depth) {
    super("quote", h("blockquote"), marks, {depth: depth + 1});
    root.append(this.node);
    this.update(block);
  }

  update(block) {
    return block.kind === "quote" && this.grow(block.lines.map((line) => QUOTE.exec(line)[1]).join("\n"));
  }
}

const listOf = (block) => (block.isOrdered ? "OL" : "UL");

/** An item; those of one kind that follow each other share a list. */
class ItemView extends NestedView {
  constructor(root, block, marks, depth) {
    super("item", h("li"), marks, {depth: depth + 1, isTight: true});
    const name = listOf(block);
    this.list = root.lastElementChild;
    if (this.list?.tagName !== name) {
      this.list = h(name.toLowerCase(), block.isOrdered && block.number !== 1 ? {start: block.number} : {});
      root.append(this.list);
    }
    this.list.append(this.node);
    const {task} = itemText(block);
    this.task = task;
    if (task) this.node.append(h("input", {type: "checkbox", disabled: true, checked: task !== " ", "aria-label": "task"}));
    this.update(block);
  }

  update(block) {
    if (block.kind !== "item" || this.list.tagName !== listOf(block)) return false;
    const {text, task} = itemText(block);
    return task === this.task && this.grow(text);
  }

  remove() {
    super.remove();
    if (!this.list.childElementCount) this.list.remove();
  }
}

/** The text of an item, and what stands in its box where it has one. */
function itemText({lines: [first, ...rest], indent}) {
  const indented = new RegExp(`^ {0,${indent}}`);
  const inner = [ITEM.exec(first)[3] ?? "", ...rest.map((line) => line.replace(indented, ""))].join("\n");
  const task = /^\[([ xX])\]\s+/.exec(inner);
  return {text: task ? inner.slice(task[0].length) : inner, task: task?.[1] ?? null};
}

/** A table: whole rows are drawn once. */
class TableView {
  kind = "table";
  #n = 2;
  #last = null;

  constructor(root, block, marks) {
    this.marks = marks;
    [this.head, this.rule] = block.lines;
    this.align = cellsOf(this.rule).map((cell) =>
      cell.startsWith(":") && cell.endsWith(":") ? "center" : cell.endsWith(":") ? "right" : "");
    this.body = h("tbody");
    const table = h("table", {}, h("thead", {}, this.#row(this.head, "th")), this.body);
    this.node = h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Table"}, table);
    root.append(this.node);
    this.update(block);
  }

  update({kind, lines}) {
    if (kind !== "table" || lines[0] !== this.head || lines[1] !== this.rule) return false;
    this.#last?.remove();
    this.#last = null;
    for (; this.#n < lines.length - 1; this.#n += 1) this.body.append(this.#row(lines[this.#n], "td"));
    if (this.#n < lines.length) {
      this.#last = this.#row(lines[this.#n], "td");
      this.body.append(this.#last);
    }
    return true;
  }

  #row(line, name) {
    return h("tr", {}, ...cellsOf(line).slice(0, this.align.length).map((cell, n) =>
      h(name, {class: this.align[n] || null}, ...inline(cell, this.marks))));
  }

  remove() {
    this.node.remove();
  }
}

function cellsOf(line) {
  const cells = line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/);
  return cells.map((cell) => cell.trim().replaceAll("\\|", "|"));
}

// --- the whole -----------------------------------------------------------------------------------------------

/**
 * Text that grows: append(text), and cut(n) to take back all but its first n characters, with the marks behind them. mark(node) puts a node
 * where the text ends now, in the middle of a sentence if need be.
 */
export class MarkdownView {
  #raw = "";
  #marks = [];
  #shown = "";

  constructor(node) {
    this.node = node;
    this.blocks = new Blocks(node, this.#marks, {hasParts: true});
  }

  get text() {
    return this.#raw;
  }

  append(text) {
    this.#raw += text;
    this.#shown += text.replace(/[\uE000\uE001]/g, "\uFFFD"); // a model could write the characters that stand for marks
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
    this.node.replaceChildren();
    this.blocks = new Blocks(this.node, this.#marks, {hasParts: true});
    let at = 0;
    for (const mark of marks) {
      this.append(raw.slice(at, mark.at));
      this.mark(mark.node);
      at = mark.at;
    }
    this.append(raw.slice(at));
    this.draw();
  }

  /** Draws what has come. */
  draw() {
    this.blocks.draw(this.#shown);
  }
}
