// The text of a line as DOM nodes: bold, code, links. Nothing in it is read as HTML, and nothing is loaded from elsewhere.

import {h} from "../dom.js";
import {MARK} from "./blocks.js";

export const MOST_DEPTH = 12;
/** A mark of Markdown that is still without its partner after so many characters stays text. */
const FAR = 4000;
const OPENS = /[*_~`[<\\!]/;

const INLINE = new RegExp([
  /\\([!-/:-@[-`{-~])/, // 1 escaped
  /(`+)([^`]|[^`][\s\S]{0,2000}?[^`])\2(?!`)/, // 2, 3 code
  /!\[([^\]]{0,500})\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+"[^"]*")?\)/, // 4, 5 image
  /\[((?:[^[\]]|\[[^[\]]*\]){1,1000})\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+"[^"]*")?\)/, // 6, 7 link
  /<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/, // 8 autolink
  /(https?:\/\/[^\s<>()[\]`*"']{1,2000}[^\s<>()[\]`*"'.,;:!?])/, // 9 bare link
  /\*\*(?=\S)([\s\S]{1,2000}?\S|\S)\*\*(?!\*)/, // 10 bold
  /(?<![\w])__(?=\S)([\s\S]{1,2000}?\S|\S)__(?!\w)/, // 11 bold
  /\*(?=[^\s*])([^*]{1,2000}?[^\s*]|[^\s*])\*(?!\*)/, // 12 italic
  /(?<![\w])_(?=[^\s_])([^_]{1,2000}?[^\s_]|[^\s_])_(?!\w)/, // 13 italic
  /~~(?=\S)([\s\S]{1,2000}?\S|\S)~~/, // 14 struck
  /\uE000(\d{1,4})\uE001/, // 15 mark
].map((part) => part.source).join("|"), "g");

/** The nodes of a text in a line. *marks*: [{node}], which stand where MARK names them. */
export function inline(text, marks, depth = 0) {
  const nodes = [];
  let at = 0;
  if (depth > MOST_DEPTH) return [text.replace(MARK, "")];
  for (const m of text.matchAll(INLINE)) {
    if (m.index > at) nodes.push(...broken(text.slice(at, m.index)));
    at = m.index + m[0].length;
    const inner = (part) => inline(part, marks, depth + 1);
    if (m[1] !== undefined) nodes.push(m[1]);
    else if (m[3] !== undefined) nodes.push(h("code", {}, ...withMarks(m[3], marks)));
    else if (m[5] !== undefined) nodes.push(...link(m[5], [`image: ${m[4] || m[5]}`.replace(MARK, "")], marks));
    else if (m[7] !== undefined) nodes.push(...link(m[7], inner(m[6]), marks));
    else if (m[8] !== undefined) nodes.push(...link(m[8], withMarks(m[8], []), marks));
    else if (m[9] !== undefined) nodes.push(...link(m[9], withMarks(m[9], []), marks));
    else if (m[10] ?? m[11]) nodes.push(h("strong", {}, ...inner(m[10] ?? m[11])));
    else if (m[12] ?? m[13]) nodes.push(h("em", {}, ...inner(m[12] ?? m[13])));
    else if (m[14] !== undefined) nodes.push(h("s", {}, ...inner(m[14])));
    else nodes.push(marks[Number(m[15])]?.node ?? "");
  }
  if (at < text.length) nodes.push(...broken(text.slice(at)));
  return nodes;
}

/** A text that is not Markdown, with the nodes of its marks. */
export function withMarks(text, marks) {
  return text.split(MARK).map((part, n) => (n % 2 ? marks[Number(part)]?.node ?? "" : part));
}

/** How much of a text looks the same whatever follows it: up to a blank before which nothing is open. */
export function settledLength(text) {
  let settled = 0;
  let at = 0;
  let isOpen = false;
  const see = (end) => {
    const plain = text.slice(at, end);
    const open = isOpen ? 0 : plain.search(OPENS);
    for (const blank of plain.matchAll(/\s(?=\S)/g)) {
      const place = at + blank.index + 1;
      if ((open < 0 || blank.index < open) && !isOpen || place < text.length - FAR) settled = place;
    }
    isOpen ||= open >= 0;
  };
  for (const m of text.matchAll(INLINE)) {
    see(m.index);
    at = m.index + m[0].length;
  }
  see(text.length);
  return settled;
}

/** Two blanks or a backslash at a line's end break it; so does every line end in a chat. */
function broken(text) {
  return text.split(/(?: {2,}|\\)?\n/).flatMap((line, n) => (n ? [h("br"), line] : [line]));
}

/** A link, if its scheme can do no harm; else its text alone. Marks in *target* stand behind it. */
function link(target, nodes, marks) {
  const behind = withMarks(target, marks).filter((part) => typeof part !== "string");
  const href = target.replace(MARK, "");
  if (/^(https?:\/\/|mailto:)/i.test(href)) {
    return [h("a", {href, target: "_blank", rel: "noopener noreferrer nofollow", title: href}, ...nodes), ...behind];
  }
  return [h("span", {class: "no-link", title: "This link is not safe to open."}, ...nodes), ...behind];
}
