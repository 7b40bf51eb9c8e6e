// Chats as files: exported, and imported again.

import {newAnswer} from "../answer_state.js";
import {newChat, newId, pathOf} from "./chat_tree.js";

export function asMarkdown(chat) {
  const parts = pathOf(chat).map((node) => `## ${node.role === "user" ? "You" : "Answer"}\n\n${node.text}\n`);
  return `# ${chat.title}\n\n${parts.join("\n")}`;
}

/** The chats in an exported file, with new ids. Throws an Error that says what is wrong. */
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

const isText = (value) => typeof value === "string";

function checkedChat(chat) {
  const nodes = Object.values(chat?.nodes ?? {});
  const isGood = isText(chat?.title) && nodes.every((node) => isText(node?.id) && isText(node.text)
    && ["user", "assistant"].includes(node.role) && (node.parent === null || isText(node.parent)));
  if (!isGood) throw new Error("The file is not an exported chat.");
  const ids = new Map(nodes.map((node) => [node.id, newId()]));
  const clean = nodes.map((node) => ({
    ...(node.role === "assistant" ? answerFields(node) : {files: filesOf(node)}),
    id: ids.get(node.id), parent: ids.get(node.parent) ?? null, role: node.role, text: node.text, at: Number(node.at) || 0,
  }));
  const byId = Object.fromEntries(clean.map((node) => [node.id, node]));
  failOnCircles(clean, byId);
  const leaf = ids.get(chat.leaf) ?? clean.at(-1)?.id ?? null;
  return {...newChat("never"), title: chat.title.trim().slice(0, 200) || "Imported chat", leaf, nodes: byId};
}

function answerFields(node) {
  return {...newAnswer(), state: "done", reasoning: isText(node.reasoning) ? node.reasoning : ""};
}

/** The text files of a message; images are not taken from a file that anybody could have written. */
function filesOf({files}) {
  if (!Array.isArray(files)) return [];
  return files.filter((file) => isText(file?.name) && isText(file.text) && !file.image)
    .map(({name, text}) => ({name: name.slice(0, 200), text, nTokens: null}));
}

function failOnCircles(nodes, byId) {
  const good = new Set();
  for (const node of nodes) {
    const seen = new Set();
    for (let at = node; at && !good.has(at.id); at = byId[at.parent]) {
      if (seen.has(at.id)) throw new Error("The file is not an exported chat: its messages go in a circle.");
      seen.add(at.id);
    }
    for (const id of seen) good.add(id);
  }
}
