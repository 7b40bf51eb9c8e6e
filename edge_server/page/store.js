// Chats, kept in the browser's IndexedDB. A chat is a tree: editing or regenerating adds a branch.
//
// chat: {id, title, created, updated, dial, model, leaf, nodes: {id: message}}
// message: {id, parent, role, text, at, …}; an answer's other fields are those of answer_state.js

import {newAnswer} from "./answer_state.js";

export const newId = () => crypto.randomUUID?.() ?? `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;

export function newChat(dial, model = "") {
  return {id: newId(), title: "New chat", created: Date.now(), updated: Date.now(), dial, model, leaf: null, nodes: {}};
}

/** The messages from the first to *leaf*. */
export function pathOf(chat, leaf = chat.leaf) {
  const path = [];
  for (let node = chat.nodes[leaf]; node; node = chat.nodes[node.parent]) path.unshift(node);
  return path;
}

/** The messages that stand in the same place, in the order of their writing. */
export function siblingsOf(chat, node) {
  return Object.values(chat.nodes).filter((other) => other.parent === node.parent).sort((a, b) => a.at - b.at);
}

/** The end of the branch of *node* that was written last. */
export function lastLeafOf(chat, node) {
  for (;;) {
    const children = Object.values(chat.nodes).filter((other) => other.parent === node.id);
    if (!children.length) return node.id;
    node = children.sort((a, b) => b.at - a.at)[0];
  }
}

export function addNode(chat, node) {
  const whole = {id: newId(), at: Date.now(), parent: chat.leaf, ...node};
  chat.nodes[whole.id] = whole;
  chat.leaf = whole.id;
  return whole;
}

/** Where chats are kept; in memory where the browser allows no database. */
export class Store {
  #db = null;
  #memory = new Map();

  async open() {
    try {
      this.#db = await new Promise((resolve, reject) => {
        const request = indexedDB.open("spillover", 1);
        request.onupgradeneeded = () => request.result.createObjectStore("chats", {keyPath: "id"});
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
    } catch {
      this.#db = null;
    }
    return this;
  }

  get isKept() {
    return this.#db !== null;
  }

  async all() {
    const chats = this.#db ? await this.#run("readonly", (chats) => chats.getAll()) : [...this.#memory.values()];
    return chats.sort((a, b) => b.updated - a.updated);
  }

  async get(id) {
    return this.#db ? this.#run("readonly", (chats) => chats.get(id)) : this.#memory.get(id);
  }

  async put(chat) {
    if (this.#db) await this.#run("readwrite", (chats) => chats.put(chat));
    else this.#memory.set(chat.id, structuredClone(chat));
  }

  async remove(id) {
    if (this.#db) await this.#run("readwrite", (chats) => chats.delete(id));
    else this.#memory.delete(id);
  }

  #run(mode, act) {
    return new Promise((resolve, reject) => {
      const request = act(this.#db.transaction("chats", mode).objectStore("chats"));
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  }
}

// --- files ---------------------------------------------------------------------------------------------------

export function asMarkdown(chat) {
  const parts = pathOf(chat).map((node) => `## ${node.role === "user" ? "You" : "Answer"}\n\n${node.text}\n`);
  return `# ${chat.title}\n\n${parts.join("\n")}`;
}

/** The chats in an exported file. Throws an Error that says what is wrong. */
export function chatsIn(text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    throw new Error("The file is not JSON.");
  }
  const chats = (Array.isArray(found) ? found : [found]).map(checkedChat);
  if (!chats.length) throw new Error("The file has no chats.");
  return chats;
}

function checkedChat(chat) {
  const isText = (value) => typeof value === "string";
  const nodes = Object.values(chat?.nodes ?? {});
  const isGood = isText(chat?.title) && nodes.every((node) => isText(node?.id) && isText(node.text)
    && ["user", "assistant"].includes(node.role) && (node.parent === null || isText(node.parent)));
  if (!isGood) throw new Error("The file is not an exported chat.");
  const clean = nodes.map((node) => ({
    ...(node.role === "assistant" ? {...newAnswer(), state: "done", reasoning: isText(node.reasoning) ? node.reasoning : ""} : {}),
    id: node.id, parent: node.parent, role: node.role, text: node.text, at: Number(node.at) || 0,
  }));
  const byId = Object.fromEntries(clean.map((node) => [node.id, node]));
  for (const node of clean) {
    const seen = new Set();
    for (let at = node; at; at = byId[at.parent]) {
      if (seen.has(at.id)) throw new Error("The file is not an exported chat: its messages go in a circle.");
      seen.add(at.id);
    }
  }
  const leaf = byId[chat.leaf] ? chat.leaf : clean.at(-1)?.id ?? null;
  return {...newChat("never"), title: chat.title.slice(0, 200), leaf, nodes: byId};
}
