// The list of chats at the side: by date, or those in which the searched words are.

import {h} from "../dom.js";

const DAY_MS = 86_400_000;
const HIT_CHARS = 28;

export class ChatList {
  /** *actions*: open(chat), rename(chat), remove(chat). *search*: the field with the searched words. */
  constructor(list, search, actions) {
    Object.assign(this, {list, search, actions});
    search.addEventListener("input", () => this.#draw());
  }

  /** *chats*: the latest first. *currentId*: the chat that is open. *busy*: the chats that are being answered. */
  show(chats, currentId, busy) {
    Object.assign(this, {chats, currentId, busy: new Set([...busy].map((chat) => chat.id))});
    this.#draw();
  }

  #draw() {
    const wanted = this.search.value.trim().toLowerCase();
    const nodes = [];
    let age = "";
    for (const chat of this.chats) {
      const hit = wanted ? hitIn(chat, wanted) : "";
      if (hit === null) continue;
      if (ageOf(chat) !== age) {
        age = ageOf(chat);
        nodes.push(h("li", {class: "age"}, age));
      }
      nodes.push(this.#entry(chat, hit));
    }
    if (!nodes.length) nodes.push(h("li", {class: "empty"}, wanted ? "No chat has these words." : "No chats yet."));
    this.list.replaceChildren(...nodes);
  }

  #entry(chat, hit) {
    const isCurrent = chat.id === this.currentId;
    const button = (label, sign, act) =>
      h("button", {class: "icon small", type: "button", "aria-label": `${label} ${chat.title}`, title: label, onclick: () => act(chat)}, sign);
    return h("li", {class: isCurrent ? "chat current" : "chat"},
      h("button", {class: "chat-name", type: "button", title: chat.title, "aria-current": isCurrent ? "true" : null, onclick: () => this.actions.open(chat)},
        this.busy.has(chat.id) ? h("span", {class: "busy", role: "img", "aria-label": "being answered"}) : null,
        chat.title, hit ? h("small", {}, hit) : null),
      button("Rename", "✎", this.actions.rename), button("Delete", "✕", this.actions.remove));
  }
}

/** The words around the first place where *wanted* stands; empty where that is the title, null where it is nowhere. */
function hitIn(chat, wanted) {
  if (chat.title.toLowerCase().includes(wanted)) return "";
  for (const {text} of Object.values(chat.nodes)) {
    const at = text.toLowerCase().indexOf(wanted);
    if (at < 0) continue;
    const start = Math.max(0, at - HIT_CHARS);
    return `${start ? "…" : ""}${text.slice(start, at + wanted.length + HIT_CHARS)}…`;
  }
  return null;
}

function ageOf({updated}) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (updated >= midnight) return "Today";
  if (updated >= midnight - DAY_MS) return "Yesterday";
  if (updated >= midnight - 7 * DAY_MS) return "The last seven days";
  return new Date(updated).toLocaleDateString([], {month: "long", year: "numeric"});
}
