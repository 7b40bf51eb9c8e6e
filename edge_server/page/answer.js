// Shows one answer: its text while it is written, who writes it, and how it ended.

import {apply, endInWords, nameOf, stageInWords} from "./answer_state.js";
import {ConsentCard} from "./consent.js";
import {batched, copy, h} from "./dom.js";
import {MarkdownView} from "./markdown/view.js";
import {counted, usd} from "./numbers.js";

/** Touches the page only where something changes, so that a frame has little to lay out. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const nameInBadge = (writer) => (writer?.origin === "cloud" ? `cloud: ${nameOf(writer)}` : "on this device");

/** Who wrote an answer, in their order, and how fast the device was. */
function writersOf({marks, writer, usage, speed}) {
  if (!marks.length && writer?.origin !== "cloud") {
    const facts = ["on this device", usage?.completion_tokens ? counted(usage.completion_tokens, "token", "tokens") : "", speed ? `${speed.toFixed(1)} tokens/s` : ""];
    return facts.filter(Boolean).join(" · ");
  }
  const names = [...marks.map((mark) => mark.from), writer].map(nameInBadge);
  return names.filter((name, n) => name !== names[n - 1]).join(" → ");
}

export class AnswerView {
  #drawn = 0;
  #marked = 0;
  #reasoned = 0;
  /** The node that shows how long a seam took, of each mark. */
  #gaps = new Map();
  #draw = batched(() => this.#drawNow());

  /** *actions*: {regenerate, carryOn, handOver, keepLocal, consent, canUseCloud, branches}. */
  constructor(node, actions) {
    this.answer = node;
    this.actions = actions;
    this.badge = h("span", {class: "badge"});
    this.stage = h("span", {class: "stage"});
    this.bar = h("progress", {class: "reading", max: 1, value: 0, hidden: true, "aria-label": "Prompt read"});
    this.reasoning = h("div", {class: "reasoning-text"});
    this.thought = h("details", {class: "reasoning", hidden: true}, h("summary", {}, "Reasoning"), this.reasoning);
    this.body = h("div", {class: "markdown", dir: "auto"});
    this.tools = h("div", {class: "tools"});
    /** Stand at fixed places of the page while the answer is written: in the text they would move away from the pointer. */
    this.consent = h("div", {class: "consent-place"});
    this.steering = h("div", {class: "steering"});
    this.notes = h("div", {class: "notes"});
    this.buttons = h("div", {class: "actions"});
    this.node = h("article", {class: "message answer", "aria-label": "Answer"},
      h("div", {class: "head"}, this.badge, this.stage, this.bar),
      this.thought, this.body, this.tools, this.notes, this.buttons);
    this.card = null;
    this.markdown = new MarkdownView(this.body);
    this.#drawNow();
  }

  /** Takes an event of the stream. */
  take(event) {
    const {changes, taken} = apply(this.answer, event);
    if (changes.has("replace")) this.#takeBack(taken);
    if (changes.has("consent")) this.#drawConsent();
    this.#draw();
  }

  /** The answer's state was set from outside. */
  refresh() {
    this.#drawNow();
  }

  #takeBack(taken) {
    this.markdown.cut(this.answer.text.length);
    this.#drawn = this.answer.text.length;
    this.#marked = this.markdown.nMarks; // those behind are drawn again, at the end of what stands
    if (!taken.trim()) return;
    const ghost = h("p", {class: "taken-back", "aria-hidden": "true"}, taken.trim());
    ghost.addEventListener("animationend", () => ghost.remove());
    this.body.after(ghost);
  }

  #drawNow() {
    const answer = this.answer;
    const isRunning = answer.state === "running";
    this.node.setAttribute("aria-busy", String(isRunning));
    this.node.classList.toggle("running", isRunning);
    this.#drawText();
    this.#drawReasoning(isRunning);
    this.#drawHead(isRunning);
    this.#drawTools();
    this.#drawConsent();
    this.#drawNotes(isRunning);
  }

  #drawText() {
    const {text, marks} = this.answer;
    const isNew = text.length > this.#drawn || marks.length > this.#marked;
    while (this.#marked < marks.length) {
      const mark = marks[this.#marked];
      this.markdown.append(text.slice(this.#drawn, Math.max(mark.at, this.#drawn)));
      this.#drawn = Math.max(mark.at, this.#drawn);
      this.markdown.mark(this.#markNode(mark));
      this.#marked += 1;
    }
    if (text.length > this.#drawn) {
      this.markdown.append(text.slice(this.#drawn));
      this.#drawn = text.length;
    }
    if (isNew) this.markdown.draw();
    for (const mark of marks) {
      if (mark.gapMs !== null) setText(this.#gaps.get(mark), ` after ${(mark.gapMs / 1000).toFixed(1)} s`);
    }
  }

  #markNode(mark) {
    const gap = h("span", {class: "gap"});
    this.#gaps.set(mark, gap);
    const redacted = mark.redacted ? `, ${mark.redacted} private ${mark.redacted === 1 ? "text" : "texts"} redacted` : "";
    const target = mark.to.origin === "cloud" ? nameOf(mark.to) : "back to this device";
    return h("span", {class: `seam ${mark.to.origin}`, role: "note"}, `${mark.words} → ${target}`, gap, redacted);
  }

  #drawReasoning(isRunning) {
    const {reasoning, reasoningMs, text, reasoningSince} = this.answer;
    this.thought.hidden = !reasoning;
    if (!reasoning) return;
    if (reasoning.length > this.#reasoned) this.reasoning.append(reasoning.slice(this.#reasoned));
    this.#reasoned = reasoning.length;
    const isThinking = isRunning && !text;
    const s = (reasoningMs || (isRunning && reasoningSince ? Date.now() - reasoningSince : 0)) / 1000;
    setText(this.thought.firstChild, isThinking ? `Thinking for ${Math.round(s)} s` : s ? `Thought for ${s.toFixed(1)} s` : "Reasoning");
  }

  #drawHead(isRunning) {
    const {writer, speed, stage, stageDetail, state, text} = this.answer;
    const origin = writer?.origin ?? "local";
    this.badge.className = `badge ${origin}`;
    this.badge.hidden = (state === "error" && !text) || (isRunning && stage === "sending"); // nobody writes yet
    const rate = speed ? ` · ${speed.toFixed(1)} tokens/s` : "";
    setText(this.badge, isRunning ? nameInBadge(writer) + (origin === "local" ? rate : "") : writersOf(this.answer));
    setText(this.stage, isRunning && stage !== "writing" ? stageInWords(this.answer) : "");
    this.bar.hidden = !(isRunning && stage === "reading" && stageDetail.total > 0);
    if (!this.bar.hidden) this.bar.value = stageDetail.processed / stageDetail.total;
  }

  #drawTools() {
    const {tools} = this.answer;
    while (this.tools.children.length < tools.length) {
      this.tools.append(h("div", {class: "tool"}, h("strong"), h("pre", {}, h("code"))));
    }
    tools.forEach((tool, n) => {
      const box = this.tools.children[n];
      setText(box.firstChild, `Calls ${tool.name}`);
      setText(box.lastChild.firstChild, tool.arguments);
    });
  }

  #drawConsent() {
    const {question, questionUntil, state} = this.answer;
    const isOpen = Boolean(question) && state === "running";
    if (this.card && !(isOpen && this.card.id === question.id)) {
      this.card.close();
      this.card = null;
    }
    this.steering.hidden = isOpen;
    if (!isOpen || this.card) return;
    this.card = new ConsentCard(question, questionUntil, (granted, scope) => this.actions.consent(question.id, granted, scope));
    this.consent.append(this.card.node);
  }

  #drawNotes(isRunning) {
    const canBeKept = isRunning && Boolean(this.answer.answerId) && this.answer.mayLeave;
    const canLeave = canBeKept && this.answer.writer?.origin !== "cloud" && this.actions.canUseCloud();
    const key = [isRunning, this.answer.state, this.answer.failures.length, canBeKept, canLeave].join();
    if (key === this.notesKey) return;
    this.notesKey = key;
    const {state, failures, usage, text} = this.answer;
    const end = isRunning ? "" : endInWords(this.answer);
    const cost = (usage?.by_leg ?? []).reduce((sum, leg) => sum + (leg.usd ?? 0), 0);
    this.notes.replaceChildren(...failures.map((failure) => h("p", {class: "warning"}, failure)));
    if (end) this.notes.append(h("p", {class: state === "error" ? "error" : "warning", role: "alert"}, end));
    if (cost) this.notes.append(h("p", {class: "quiet-text"}, `The cloud's part cost ${usd(cost)}.`));
    const button = (label, act, name = label) =>
      h("button", {class: "quiet small", type: "button", "aria-label": name, onclick: (event) => act(event.currentTarget)}, label);
    this.buttons.replaceChildren();
    this.steering.replaceChildren();
    if (isRunning) {
      if (canLeave) this.steering.append(button("Ask the cloud", () => this.actions.handOver()));
      if (canBeKept) this.steering.append(button("Keep it here", () => this.actions.keepLocal()));
      return;
    }
    if (text) this.buttons.append(button("Copy", (target) => copy(text, target), "Copy the answer"));
    this.buttons.append(button(text ? "Regenerate" : "Try again", () => this.actions.regenerate()));
    if (["stopped", "length", "interrupted", "error"].includes(state) && text) {
      this.buttons.append(button("Continue", () => this.actions.carryOn()));
    }
    this.actions.branches?.(this.buttons);
  }
}
