// A block of code while it is written: finished lines are highlighted once, and kept.

import {copy, h} from "../dom.js";
import {MARK} from "./blocks.js";
import {highlight, languageOf} from "./highlight.js";

export class CodeView {
  #lines = [];
  #state = null;
  #last = null;
  #lastText = "";
  kind = "code";
  isClosed = false;

  /** *fence*: the characters that opened it. *marks*: [{node}], which stand at the end of their line. */
  constructor(root, {language, fence}, marks) {
    Object.assign(this, {fence, marks});
    const name = language.replace(MARK, "");
    this.language = languageOf(name);
    this.code = h("code", {});
    const button = h("button", {class: "quiet small", type: "button", onclick: () => copy(this.text, button)}, "Copy");
    this.node = h("div", {class: "code"},
      h("div", {class: "code-head"}, h("span", {}, name || "text", ...this.#marksIn(language)), button),
      h("pre", {tabindex: "0"}, this.code));
    root.append(this.node);
  }

  get text() {
    return [...this.#lines, this.#lastText].join("\n").replace(MARK, "").replace(/\n$/, "");
  }

  /** Takes what comes after the lines that it has. Returns how much of *text* was whole lines, and need not be given again. */
  feed(text) {
    this.#last?.remove();
    this.#last = null;
    this.#lastText = "";
    let at = 0;
    for (let end = text.indexOf("\n"); end >= 0 && !this.isClosed; end = text.indexOf("\n", at)) {
      const line = text.slice(at, end);
      at = end + 1;
      this.isClosed = this.#isEnd(line);
      if (this.isClosed) this.code.append(...this.#marksIn(line));
      else this.#take(line);
    }
    const rest = this.isClosed ? "" : text.slice(at);
    if (rest && !this.#isEnd(rest)) {
      this.#lastText = rest;
      this.#last = this.#line(rest).node;
      this.code.append(this.#last);
    }
    return at;
  }

  #take(line) {
    const {node, state} = this.#line(line);
    this.#state = state;
    this.#lines.push(line);
    this.code.append(node, "\n");
  }

  #isEnd(line) {
    const end = /^ {0,3}(`{3,}|~{3,})\s*$/.exec(line.replace(MARK, ""));
    return end !== null && end[1][0] === this.fence[0] && end[1].length >= this.fence.length;
  }

  #line(text) {
    const {nodes, state} = highlight(text.replace(MARK, ""), this.language, this.#state);
    return {node: h("span", {class: "line"}, ...nodes, ...this.#marksIn(text)), state};
  }

  #marksIn(text) {
    return [...text.matchAll(MARK)].map((mark) => this.marks[Number(mark[1])]?.node ?? "");
  }

  remove() {
    this.node.remove();
  }
}
