// Chats, kept in the browser's IndexedDB: a row for each chat, and one for each message, so that windows that write into one
// chat do not undo each other, and a growing answer does not write the whole chat again.

const REFUSED = "This browser keeps no chats here: they are gone when the page is closed.";
const OLDER_PAGE = "An older version of this page is open in another tab, so this one keeps no chats: close that tab, then load this page anew.";
const NEWER_PAGE = "A newer version of this page was opened in another tab, so this one keeps no chats any more: load this page anew.";
const CLOSED = "The browser has closed its storage, so this page keeps no chats any more: load it anew.";

export class Store {
  #db = null;
  #lost;
  /** The ids of the chats that have a row, as far as this window knows. */
  #known = new Set();
  #removed = new Set();
  /** Why nothing is kept, for people; empty where chats are kept. */
  problem = "";

  /** *lost*() is called when nothing can be kept any more. */
  constructor(lost) {
    this.#lost = lost;
  }

  async open() {
    this.#db = await opened((problem) => this.#lose(problem)).catch(() => null);
    if (!this.#db) this.problem ||= REFUSED;
  }

  #lose(problem) {
    this.#db = null;
    this.problem = problem;
    this.#lost();
  }

  async all() {
    if (!this.#db) return [];
    const [chats, messages] = await this.#run("readonly", (chats, messages) => [chats.getAll(), messages.getAll()]);
    const byId = new Map(chats.map((chat) => [chat.id, this.#filled(chat, [])]));
    for (const {chat: id, ...node} of messages) if (byId.has(id)) byId.get(id).nodes[node.id] = node;
    return [...byId.values()].sort((a, b) => b.updated - a.updated);
  }

  /** The chat; undefined where there is none any more. Rejects where that cannot be read. */
  async get(id) {
    const [chat, messages] = await this.#run("readonly", (chats, messages) => [chats.get(id), messages.index("chat").getAll(id)]);
    return chat && this.#filled(chat, messages);
  }

  #filled(chat, messages) {
    this.#known.add(chat.id);
    return {...chat, nodes: Object.fromEntries(messages.map(({chat: _, ...node}) => [node.id, node]))};
  }

  /**
   * Keeps *nodes* of the chat, and its own fields unless they are *sameFields*. Returns false where it was deleted meanwhile, by another
   * window maybe. Rejects where nothing of this was kept.
   */
  async put(chat, nodes, {sameFields = false} = {}) {
    if (this.#removed.has(chat.id)) return false;
    if (!this.#db) return true;
    const {nodes: _, ...row} = chat;
    const wasKnown = this.#known.has(chat.id);
    let isThere = true;
    await this.#run("readwrite", (chats, messages) => {
      const write = () => {
        if (!wasKnown || !sameFields) chats.put(row);
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
    this.#known.add(chat.id); // not before: what was never written has not been deleted
    return isThere;
  }

  async remove(id) {
    this.#removed.add(id); // at once: what is being written of it must not bring it back
    if (!this.#db) return;
    const removed = this.#run("readwrite", (chats, messages) => {
      chats.delete(id);
      const keys = messages.index("chat").getAllKeys(id);
      keys.onsuccess = () => { for (const key of keys.result) messages.delete(key); };
      return [];
    });
    await removed.catch((error) => {
      this.#removed.delete(id);
      throw error;
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

/** The database, or null. *lost*(problem) is called where it is, or later becomes, unusable because of other tabs or the browser. */
function opened(lost) {
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
    let isLate = false;
    request.onblocked = () => {
      isLate = true;
      lost(OLDER_PAGE);
      resolve(null);
    };
    request.onsuccess = () => {
      const db = request.result;
      if (isLate) {
        db.close();
        return;
      }
      db.onversionchange = () => {
        db.close();
        lost(NEWER_PAGE);
      };
      db.onclose = () => lost(CLOSED);
      resolve(db);
    };
    request.onerror = () => reject(request.error);
  });
}
