// A chat is a tree of messages: editing or regenerating adds a branch.
//
// chat: {id, title, created, updated, dial, model, leaf, nodes: {id: message}}
// message: {id, parent, role, text, at, …}; an answer's other fields are those of answer_state.js

export const NO_TITLE = "New chat";
const MOST_TITLE_CHARS = 60;

export const newId = () => crypto.randomUUID?.() ?? `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;

export function newChat(dial, model = "") {
  return {id: newId(), title: NO_TITLE, created: Date.now(), updated: Date.now(), dial, model, leaf: null, nodes: {}};
}

/** What a chat is called that begins with *text*: its first line, cut at a word. */
export function titleOf(text) {
  const [line] = text.split("\n");
  return line.length > MOST_TITLE_CHARS ? `${line.slice(0, MOST_TITLE_CHARS).replace(/\s+\S*$|[\uD800-\uDBFF]$/, "")} …` : line;
}

/** The messages from the first to *leaf*. */
export function pathOf(chat, leaf = chat.leaf) {
  const path = [];
  for (let node = chat.nodes[leaf]; node; node = chat.nodes[node.parent]) path.push(node);
  return path.reverse();
}

/** The messages that answer the same one, in the order of their writing: lists by the id of that one, or null. */
export function branchesOf(chat) {
  const branches = new Map();
  for (const node of Object.values(chat.nodes)) {
    if (branches.has(node.parent)) branches.get(node.parent).push(node);
    else branches.set(node.parent, [node]);
  }
  for (const all of branches.values()) all.sort((a, b) => a.at - b.at);
  return branches;
}

/** The end of the branch of *node* that was written last. */
export function lastLeafOf(chat, node) {
  const branches = branchesOf(chat);
  while (branches.has(node.id)) node = branches.get(node.id).at(-1);
  return node.id;
}

export function addNode(chat, node) {
  const whole = {id: newId(), at: Date.now(), parent: chat.leaf, ...node};
  chat.nodes[whole.id] = whole;
  chat.leaf = whole.id;
  return whole;
}
