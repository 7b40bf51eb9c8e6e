// The messages of the open chat, on the screen.

import {AnswerView} from "./answer.js";
import {branchesOf, lastLeafOf, pathOf} from "./chats/chat_tree.js";
import {$, copy, h} from "./dom.js";

/** So many messages share an element that the browser skips while it is off the screen. */
const STRETCH_MESSAGES = 10;
const IDEAS = ["Tell me a story about a dog named Max.", "Explain what a handoff is, in two sentences.", "Write a haiku about rain."];

export class Conversation {
  #views = new Map();

  /**
   * *actions*: {send(text), edit(node), regenerate(node), carryOn(node), steer(node, to), consent(node, id, granted, scope), goTo(leaf),
   * stay(message), canUseCloud()}.
   */
  constructor(place, actions) {
    Object.assign(this, {place, actions});
  }

  /** Draws the messages of a chat. */
  show(chat) {
    this.chat = chat;
    this.#views.clear();
    this.place.replaceChildren();
    $("dock").replaceChildren();
    $("steering").replaceChildren();
    const path = pathOf(chat);
    const branches = branchesOf(chat);
    for (const node of path) this.#append(node, branches);
    if (!path.length) this.place.append(this.#welcome());
  }

  /** Draws a message that was added at the end. */
  add(node) {
    this.place.querySelector(".welcome")?.remove();
    this.#append(node, branchesOf(this.chat));
  }

  /** The view of an answer; undefined where it is not on the screen. */
  view(node) {
    return this.#views.get(node.id);
  }

  /** Something is known now that the answers show. */
  refresh() {
    for (const view of this.#views.values()) view.refresh();
  }

  #append(node, branches) {
    let stretch = this.place.lastElementChild;
    if (!stretch || stretch.childElementCount >= STRETCH_MESSAGES) {
      stretch = h("div", {class: "stretch"});
      this.place.append(stretch);
    }
    stretch.append(node.role === "user" ? this.#question(node, branches) : this.#answer(node, branches));
  }

  #answer(node, branches) {
    const {regenerate, carryOn, steer, consent, canUseCloud} = this.actions;
    const view = new AnswerView(node, {
      regenerate: () => regenerate(node),
      carryOn: () => carryOn(node),
      handOver: () => steer(node, "cloud"),
      keepLocal: () => steer(node, "local"),
      consent: (id, granted, scope) => consent(node, id, granted, scope),
      canUseCloud,
      branches: (place) => this.#addBranches(place, node, branches),
    });
    if (node.state === "running") {
      $("dock").replaceChildren(view.consent);
      $("steering").replaceChildren(view.steering);
    }
    this.#views.set(node.id, view);
    return view.node;
  }

  #question(node, branches) {
    const actions = h("div", {class: "actions"},
      h("button", {class: "quiet small", type: "button", onclick: (event) => copy(node.text, event.currentTarget), "aria-label": "Copy the message"}, "Copy"),
      h("button", {class: "quiet small", type: "button", onclick: () => this.actions.edit(node)}, "Edit"));
    this.#addBranches(actions, node, branches);
    const attached = (node.files ?? []).map((file) => h("span", {class: "chip"}, h("span", {class: "file-name", title: file.name}, file.name)));
    const bubble = node.text ? h("div", {class: "bubble", dir: "auto"}, node.text) : null;
    return h("article", {class: "message user", "aria-label": "You"}, bubble, ...attached, actions);
  }

  #addBranches(place, node, branches) {
    const all = branches.get(node.parent) ?? [];
    if (all.length < 2) return;
    const n = all.findIndex((other) => other.id === node.id);
    const button = (label, sign, to) => h("button", {
      class: "icon small", type: "button", disabled: !all[to], "aria-label": label, onclick: (event) => this.#goTo(all[to], event.currentTarget),
    }, sign);
    place.append(h("span", {class: "branches"},
      button("Earlier version", "‹", n - 1), `${n + 1}/${all.length}`, button("Later version", "›", n + 1)));
  }

  /** Shows another branch, with the reader and the keyboard where they were. */
  #goTo(node, button) {
    const place = this.#messages.indexOf(button.closest("article"));
    this.actions.goTo(lastLeafOf(this.chat, node));
    const message = this.#messages[place];
    this.actions.stay(message);
    (message.querySelector(`.branches [aria-label="${button.ariaLabel}"]:enabled`) ?? message.querySelector(".branches :enabled")).focus();
  }

  get #messages() {
    return [...this.place.querySelectorAll("article")];
  }

  #welcome() {
    return h("div", {class: "welcome"},
      h("h2", {}, "What can I help with?"),
      h("p", {}, "Answers are written on this device. Nothing leaves it unless you allow that."),
      h("div", {class: "ideas"}, ...IDEAS.map((idea) => h("button", {type: "button", onclick: () => this.actions.send(idea)}, idea))));
  }
}
