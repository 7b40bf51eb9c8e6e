// Chats, kept in the browser's IndexedDB: a row for each chat, and one for each message, so that windows that write into one
// chat do not undo each other, and a growing answer does not write the whole chat again.

export class Store {
  #db = null;
  /** The chats that have a row, as far as this window knows. */
  #known = new WeakSet();
  #removed = new Set();

  async open() {
    try {
      this.#db = await opened();
    } catch {
      this.#db = null;
    }
    return this;
  }

  /** Whether the browser allows to keep anything. */
  get isKept() {
    return this.#db !== null;
  }

  async all() {
    if (!this.#db) return [];
    const [chats, messages] = await this.#run("readonly", (chats, messages) => [chats.getAll(), messages.getAll()]);
    const byId = new Map(chats.map((chat) => [chat.id, this.#filled(chat, [])]));
    for (const {chat: id, ...node} of messages) if (byId.has(id)) byId.get(id).nodes[node.id] = node;
    return [...byId.values()].sort((a, b) => b.updated - a.updated);
  }

  /** The chat; undefined where there is none any more. */
  async get(id) {
    if (!this.#db) return undefined;
    const [chat, messages] = await this.#run("readonly", (chats, messages) => [chats.get(id), messages.index("chat").getAll(id)]);
    return chat && this.#filled(chat, messages);
  }

  #filled(chat, messages) {
    const whole = {...chat, nodes: Object.fromEntries(messages.map(({chat: _, ...node}) => [node.id, node]))};
    this.#known.add(whole);
    return whole;
  }

  /** Keeps the chat's own fields and *nodes* of it. Returns false where it was deleted meanwhile, by another window maybe. */
  async put(chat, nodes) {
    if (this.#removed.has(chat.id)) return false;
    if (!this.#db) return true;
    const {nodes: _, ...row} = chat;
    const wasKnown = this.#known.has(chat);
    this.#known.add(chat);
    let isThere = true;
    await this.#run("readwrite", (chats, messages) => {
      const write = () => {
        chats.put(row);
        for (const node of nodes) messages.put({...node, chat: chat.id});
      };
      if (!wasKnown) {
        write();
        return [];
      }
      const found = chats.getKey(chat.id);
      found.onsuccess = () => {
        isThere = found.result !== undefined;
        if (isThere) write();
      };
      return [];
    });
    return isThere;
  }

  async remove(id) {
    this.#removed.add(id);
    if (!this.#db) return;
    await this.#run("readwrite", (chats, messages) => {
      chats.delete(id);
      const keys = messages.index("chat").getAllKeys(id);
      keys.onsuccess = () => { for (const key of keys.result) messages.delete(key); };
      return [];
    });
  }

  /** The results of the requests that *act* returns, once the transaction is on the disk. */
  #run(mode, act) {
    return new Promise((resolve, reject) => {
      const transaction = this.#db.transaction(["chats", "messages"], mode);
      const requests = act(transaction.objectStore("chats"), transaction.objectStore("messages"));
      transaction.oncomplete = () => resolve(requests.map((request) => request.result));
      transaction.onabort = () => reject(transaction.error);
    });
  }
}

function opened() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("spillover", 2);
    request.onupgradeneeded = ({oldVersion}) => {
      const {result: db, transaction} = request;
      const chats = oldVersion ? transaction.objectStore("chats") : db.createObjectStore("chats", {keyPath: "id"});
      const messages = db.createObjectStore("messages", {keyPath: "id"});
      messages.createIndex("chat", "chat");
      chats.getAll().onsuccess = ({target}) => {
        for (const {nodes = {}, ...chat} of target.result) {
          chats.put(chat);
          for (const node of Object.values(nodes)) messages.put({...node, chat: chat.id});
        }
      };
    };
    request.onsuccess = () => {
      request.result.onversionchange = () => request.result.close();
      resolve(request.result);
    };
    request.onerror = () => reject(request.error);
  });
}
