// Colours code line by line, so that it works while the code is written: comments, texts, numbers and keywords.

import {h} from "../dom.js";

const words = (text) => new Set(text.split(" "));
const C_LIKE = {line: "//", block: ["/*", "*/"], quotes: "\"'"};
const LANGUAGES = {
  python: {line: "#", triple: ['"""', "'''"], quotes: "\"'", keywords: words("and as assert async await break case class continue def del elif else except finally for from global if import in is lambda match nonlocal not or pass raise return try while with yield None True False self")},
  javascript: {...C_LIKE, quotes: "\"'`", keywords: words("async await break case catch class const continue default delete do else export extends finally for from function if import in instanceof let new null of return static super switch this throw true false try typeof undefined var void while yield interface type enum implements private public readonly as")},
  c: {...C_LIKE, keywords: words("auto bool break case char class const constexpr continue default delete do double else enum explicit extern false float for if inline int long namespace new nullptr operator private protected public return short signed sizeof static struct switch template this throw true try typedef typename union unsigned using virtual void volatile while")},
  java: {...C_LIKE, keywords: words("abstract boolean break byte case catch char class const continue default do double else enum extends final finally float for if implements import instanceof int interface long new null package private protected public return short static super switch this throw throws true false try var void while fun val when object override data")},
  go: {...C_LIKE, quotes: "\"'`", keywords: words("break case chan const continue default defer else fallthrough for func go goto if import interface map package range return select struct switch type var nil true false")},
  rust: {...C_LIKE, quotes: '"', keywords: words("as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut pub ref return self Self static struct super trait true type unsafe use where while")},
  bash: {line: "#", quotes: "\"'", keywords: words("if then else elif fi for while do done case esac in function return local export echo cd set exit source")},
  sql: {line: "--", block: ["/*", "*/"], quotes: "'", isCaseless: true, keywords: words("select from where insert into values update set delete create table drop alter join left right inner outer on group by order having limit as and or not null is in like distinct primary key foreign references index union all case when then else end")},
  json: {quotes: '"', keywords: words("true false null")},
  yaml: {line: "#", quotes: "\"'", keywords: words("true false null yes no")},
  css: {block: ["/*", "*/"], quotes: "\"'", keywords: words("important media import supports keyframes")},
  html: {block: ["<!--", "-->"], quotes: "\"'", keywords: words("")},
};
const NAMES = {py: "python", python3: "python", js: "javascript", jsx: "javascript", ts: "javascript", tsx: "javascript", typescript: "javascript", mjs: "javascript", "c++": "c", cpp: "c", h: "c", hpp: "c", cs: "java", csharp: "java", kotlin: "java", kt: "java", swift: "java", golang: "go", rs: "rust", sh: "bash", shell: "bash", zsh: "bash", console: "bash", dockerfile: "bash", make: "bash", toml: "yaml", yml: "yaml", ini: "yaml", jsonc: "json", xml: "html", svg: "html", scss: "css"};

export const languageOf = (name) => LANGUAGES[NAMES[name.toLowerCase()] ?? name.toLowerCase()] ?? null;

/** The nodes of a line, and the state at its end: the mark that will end an open comment or text. */
export function highlight(line, language, state) {
  if (!language || line.length > 2000) return {nodes: [line], state: null};
  const nodes = [];
  let at = 0;
  let plain = "";
  const put = (text, kind) => {
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(h("span", {class: `hl-${kind}`}, text));
  };
  if (state) {
    const end = line.indexOf(state.end);
    if (end < 0) return {nodes: [h("span", {class: `hl-${state.kind}`}, line)], state};
    at = end + state.end.length;
    put(line.slice(0, at), state.kind);
  }
  while (at < line.length) {
    const rest = line.slice(at);
    const open = opening(rest, language);
    if (open) {
      const end = rest.indexOf(open.end, open.begin.length);
      if (end < 0) {
        put(rest, open.kind);
        return {nodes, state: {end: open.end, kind: open.kind}};
      }
      put(rest.slice(0, end + open.end.length), open.kind);
      at += end + open.end.length;
    } else if (language.line && rest.startsWith(language.line)) {
      put(rest, "comment");
      return {nodes, state: null};
    } else if (language.quotes.includes(rest[0])) {
      const text = /^(["'`])(?:\\.|(?!\1).)*\1?/.exec(rest)[0];
      put(text, "string");
      at += text.length;
    } else {
      const word = /^(?:[A-Za-z_$][\w$]*|\d[\w.]*|[^A-Za-z_$\d"'`/#<-]+|.)/.exec(rest)[0];
      const key = language.isCaseless ? word.toLowerCase() : word;
      if (language.keywords.has(key)) put(word, "keyword");
      else if (/^\d/.test(word)) put(word, "number");
      else plain += word;
      at += word.length;
    }
  }
  if (plain) nodes.push(plain);
  return {nodes, state: null};
}

function opening(rest, language) {
  if (language.block && rest.startsWith(language.block[0])) {
    return {begin: language.block[0], end: language.block[1], kind: "comment"};
  }
  const mark = language.triple?.find((triple) => rest.startsWith(triple));
  return mark ? {begin: mark, end: mark, kind: "string"} : null;
}
