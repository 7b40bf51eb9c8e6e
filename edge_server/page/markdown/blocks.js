// Cuts Markdown into blocks: paragraphs, items of lists, code, tables. No DOM here.

/** Stands in a text where a node belongs: its number between two characters that no text has. */
export const MARK = /\uE000(\d{1,4})\uE001/g;

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
export const QUOTE = /^ {0,3}> ?(.*)$/;
export const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:\s+(.*)|)$/;
const TABLE_RULE = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

/** What begins a block behind the mark of a seam, which then stands behind it. */
const LED = /^((?:\uE000\d{1,4}\uE001)+)( {0,3}(?:(?:[-*+]|\d{1,9}[.)]|#{1,6})(?:\s+|$)|> ?|\||(?:`{3,}|~{3,})\S*))/;

/** The blocks of a text: [{kind, start, lines, …}]; *start* is the block's place in the text. */
export function blocksOf(text) {
  const lines = [];
  let at = 0;
  for (const line of text.split("\n")) {
    lines.push({text: line.replace(LED, "$2$1"), at});
    at += line.length + 1;
  }
  const blocks = [];
  let i = 0;
  const take = (kind, n, more = {}) => {
    blocks.push({kind, start: lines[i].at, lines: lines.slice(i, i + n).map((line) => line.text), ...more});
    i += n;
  };
  while (i < lines.length) {
    const line = lines[i].text;
    if (line.trim() === "") {
      i += 1;
      continue;
    }
    const fence = FENCE.exec(line);
    const heading = HEADING.exec(line);
    const item = ITEM.exec(line);
    if (fence) take("code", fenceLength(lines, i, fence[1]), {language: fence[2], fence: fence[1]});
    else if (line.trim().startsWith("$$")) take("math", mathLength(lines, i));
    else if (heading) take("heading", 1, {level: heading[1].length, content: heading[2]});
    else if (RULE.test(line)) take("rule", 1);
    else if (QUOTE.test(line)) take("quote", lengthWhile(lines, i, (text) => QUOTE.test(text)));
    else if (item) take("item", itemLength(lines, i, item), itemOf(item));
    else if (isTable(lines, i)) take("table", lengthWhile(lines, i, (text) => text.includes("|")));
    else take("paragraph", paragraphLength(lines, i));
  }
  return blocks;
}

function lengthWhile(lines, first, test) {
  let n = 1;
  while (first + n < lines.length && test(lines[first + n].text)) n += 1;
  return n;
}

function fenceLength(lines, first, fence) {
  const isEnd = (text) => {
    const end = /^ {0,3}(`{3,}|~{3,})\s*$/.exec(text.replace(MARK, ""));
    return end && end[1][0] === fence[0] && end[1].length >= fence.length;
  };
  const n = lengthWhile(lines, first, (text) => !isEnd(text));
  return Math.min(n + 1, lines.length - first);
}

function mathLength(lines, first) {
  if (/^\s*\$\$.+\$\$\s*$/.test(lines[first].text)) return 1;
  const n = lengthWhile(lines, first, (text) => !text.trim().endsWith("$$"));
  return Math.min(n + 1, lines.length - first);
}

function itemOf(match) {
  const isOrdered = /\d/.test(match[2]);
  return {isOrdered, number: isOrdered ? parseInt(match[2], 10) : 0, indent: match[1].length + match[2].length + 1};
}

function itemLength(lines, first, match) {
  const indent = match[1].length + match[2].length + 1;
  let n = 1;
  let wasBlank = false;
  while (first + n < lines.length) {
    const text = lines[first + n].text;
    const isBlank = text.trim() === "";
    const isInside = /^\s*/.exec(text)[0].length >= Math.min(indent, 2);
    const isLazy = !wasBlank && !beginsBlock(text);
    if (!isBlank && !isInside && !isLazy) break;
    wasBlank = isBlank;
    n += 1;
  }
  while (n > 1 && lines[first + n - 1].text.trim() === "") n -= 1;
  return n;
}

function beginsBlock(text) {
  return FENCE.test(text) || HEADING.test(text) || RULE.test(text) || QUOTE.test(text) || ITEM.test(text);
}

function isTable(lines, i) {
  return lines[i].text.includes("|") && i + 1 < lines.length && lines[i + 1].text.includes("|")
    && TABLE_RULE.test(lines[i + 1].text);
}

function paragraphLength(lines, first) {
  let n = 1;
  while (first + n < lines.length) {
    const text = lines[first + n].text;
    if (text.trim() === "" || beginsBlock(text) || isTable(lines, first + n)) break;
    n += 1;
  }
  return n;
}
