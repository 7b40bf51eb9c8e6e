// All chats of this browser, and what other windows change of them.

import {counted} from "../numbers.js";
import {Store} from "./store.js";

export class Library {
  #store = new Store(() => this.actions.kept(this.problem));
  #channel = new BroadcastChannel("spillover-chats");
  #changedElsewhere = new Set();
  #isOpen = false;
  /** What could not be kept, by its chat's id: {chat, nodes}, the messages by their ids. */
  #unkept = new Map();
  /** The latest first. */
  chats = [];

  /**
   * *actions*: kept(problem) is called when that may have changed, changed(id, chat) when another window has changed a chat
   * (undefined: deleted it).
   */
  constructor(actions) {
    this.actions = actions;
    this.#channel.addEventListener("message", ({data}) => {
      this.#changedElsewhere.add(data);
      this.catchUp();
    });
    document.addEventListener("visibilitychange", () => this.catchUp());
  }

  async open() {
    await this.#store.open();
    this.chats = await this.#store.all().catch(() => []);
    this.#isOpen = true;
  }

  /** What is not there after the page is closed, and why, for people; empty where all is kept. */
  get problem() {
    if (this.#store.problem || !this.#unkept.size) return this.#store.problem;
    const [{chat}] = this.#unkept.values();
    const what = this.#unkept.size === 1 ? `“${chat.title}”` : counted(this.#unkept.size, "chat", "chats");
    return `The browser could not keep ${what}: its storage is full or not allowed. Export what you need, or delete old chats.`;
  }

  /** The chat as it is now. */
  async get(id) {
    const fresh = await this.#store.get(id).catch(() => undefined);
    return this.#whole(id, fresh) ?? this.chats.find((one) => one.id === id);
  }

  /** *fresh*, as it is kept, with what could not be kept. */
  #whole(id, fresh) {
    const unkept = this.#unkept.get(id);
    return unkept ? {...unkept.chat, nodes: {...fresh?.nodes, ...unkept.chat.nodes}} : fresh;
  }

  /**
   * Keeps a chat, and *nodes* of it that have changed. Other windows are told unless it *isQuiet*. What cannot be kept is tried again
   * with the next that is saved, or once a chat was removed. *sameFields*: nothing but the nodes has changed.
   */
  async save(chat, nodes = [], {isQuiet = false, sameFields = false} = {}) {
    if (isQuiet && this.#unkept.has(chat.id)) this.#note(chat, nodes);
    else if (!(await this.#write(chat, nodes, {isQuiet, sameFields}))) return;
    this.#place(chat);
    if (!isQuiet && !this.#unkept.has(chat.id)) await this.#retry();
  }

  /** Returns false where the chat was deleted. */
  async #write(chat, nodes, {isQuiet = false, sameFields = false} = {}) {
    const before = this.#unkept.get(chat.id);
    const all = new Map([...(before?.nodes ?? []), ...nodes.map((node) => [node.id, node])]);
    const hasFields = Boolean(before) || !sameFields;
    let isThere = true;
    try {
      isThere = await this.#store.put(chat, [...all.values()], {sameFields: !hasFields});
      const unkept = this.#unkept.get(chat.id);
      for (const id of all.keys()) unkept?.nodes.delete(id);
      if (!isThere || (hasFields && !unkept?.nodes.size)) this.#unkept.delete(chat.id);
      if (isThere && !isQuiet) this.#channel.postMessage(chat.id);
    } catch {
      this.#note(chat, [...all.values()]);
    }
    this.actions.kept(this.problem);
    return isThere;
  }

  #note(chat, nodes) {
    const unkept = this.#unkept.get(chat.id) ?? {nodes: new Map()};
    for (const node of nodes) unkept.nodes.set(node.id, node);
    this.#unkept.set(chat.id, {chat, nodes: unkept.nodes});
  }

  async #retry() {
    for (const {chat} of [...this.#unkept.values()]) await this.#write(chat, []);
  }

  /** Rejects where the browser could not delete it. */
  async remove(id) {
    await this.#store.remove(id);
    this.#unkept.delete(id);
    this.forget(id);
    this.#channel.postMessage(id);
    await this.#retry();
    this.actions.kept(this.problem);
  }

  /** Takes a chat from the list only. */
  forget(id) {
    this.chats = this.chats.filter((other) => other.id !== id);
  }

  #place(chat) {
    this.chats = [chat, ...this.chats.filter((other) => other.id !== chat.id)].sort((a, b) => b.updated - a.updated);
  }

  /** Takes over what other windows have changed. To be called once the page can show it: what was changed while the chats were read waits. */
  async catchUp() {
    if (document.hidden || !this.#isOpen) return;
    for (const id of [...this.#changedElsewhere]) {
      this.#changedElsewhere.delete(id);
      let fresh;
      try {
        fresh = await this.#store.get(id);
      } catch { // read again with the next change, or when the page is shown again: it need not be deleted
        this.#changedElsewhere.add(id);
        continue;
      }
      if (fresh) {
        fresh = this.#whole(id, fresh);
        this.#place(fresh);
      } else {
        this.#unkept.delete(id);
        this.forget(id);
      }
      this.actions.changed(id, fresh);
    }
  }
}
