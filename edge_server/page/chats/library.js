// All chats of this browser, and what other windows change of them.

import {Store} from "./store.js";

export class Library {
  #store = new Store();
  #channel = new BroadcastChannel("spillover-chats");
  #changedElsewhere = new Set();
  #isOpen = false;
  /** The latest first. */
  chats = [];

  /**
   * *actions*: kept(isKept) says whether the browser kept what it was last given, changed(id, chat) that another window has changed a chat
   * (undefined: deleted it).
   */
  constructor(actions) {
    this.actions = actions;
    this.#channel.addEventListener("message", ({data}) => {
      this.#changedElsewhere.add(data);
      this.#catchUp();
    });
    document.addEventListener("visibilitychange", () => this.#catchUp());
  }

  async open() {
    await this.#store.open();
    this.chats = await this.#store.all().catch(() => []);
    this.#isOpen = true;
  }

  /** Whether chats are there after the page is closed. */
  get isKept() {
    return this.#store.isKept;
  }

  /** The chat as it is kept now. */
  async get(id) {
    return await this.#store.get(id).catch(() => undefined) ?? this.chats.find((one) => one.id === id);
  }

  /** Keeps a chat, and *nodes* of it that have changed. Other windows are told unless it *isQuiet*. */
  async save(chat, nodes = [], {isQuiet = false} = {}) {
    try {
      if (!(await this.#store.put(chat, nodes))) return;
      this.actions.kept(true);
    } catch {
      this.actions.kept(false);
    }
    this.#place(chat);
    if (!isQuiet) this.#channel.postMessage(chat.id);
  }

  async remove(id) {
    await this.#store.remove(id).catch(() => this.actions.kept(false));
    this.forget(id);
    this.#channel.postMessage(id);
  }

  /** Takes a chat from the list only. */
  forget(id) {
    this.chats = this.chats.filter((other) => other.id !== id);
  }

  #place(chat) {
    this.chats = [chat, ...this.chats.filter((other) => other.id !== chat.id)].sort((a, b) => b.updated - a.updated);
  }

  async #catchUp() {
    if (document.hidden || !this.#isOpen || !this.isKept) return;
    for (const id of [...this.#changedElsewhere]) {
      this.#changedElsewhere.delete(id);
      const fresh = await this.#store.get(id).catch(() => undefined);
      if (fresh) this.#place(fresh);
      else this.forget(id);
      this.actions.changed(id, fresh);
    }
  }
}
