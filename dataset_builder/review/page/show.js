// Texts of documents and models, put on the page as text: nothing here ever makes markup of them.

const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufff9-\ufffb]/g;

export function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) plain(element, text);
  return element;
}

// A text with what the eye cannot see (marks that turn the writing around, characters without width) spelled out.
export function plain(parent, text) {
  let done = 0;
  for (const match of text.matchAll(HIDDEN)) {
    parent.append(text.slice(done, match.index));
    const code = "U+" + match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    const chip = document.createElement("span");
    chip.className = "hidden-char";
    chip.textContent = code;
    parent.append(chip);
    done = match.index + match[0].length;
  }
  parent.append(text.slice(done));
}

// Markdown as a reader wants it while comparing: code blocks, headings, tables and lists in their shapes, all other marks
// as they stand. `from` and `to` are the place of the quote.
export function showText(parent, text, from = -1, to = -1) {
  parent.replaceChildren();
  const put = (element, start, end) => {
    for (const [a, b, marked] of [[start, Math.min(end, from), false], [Math.max(start, from), Math.min(end, to), true],
                                  [Math.max(start, to), end, false]]) {
      if (a >= b) continue;
      if (marked) element.append(make("mark", "", text.slice(a, b)));
      else plain(element, text.slice(a, b));
    }
  };
  for (const block of blocks(text)) {
    const element = make(block.name, block.className);
    if (block.name === "pre" || block.className === "table") put(element, block.start, block.end);
    else inline(text, block.start, block.end, element, put);
    parent.append(element);
  }
}

function inline(text, start, end, element, put) {
  let done = start;
  for (const match of text.slice(start, end).matchAll(/(`+)([^`]|[^`][^]*?[^`])\1(?!`)|\]\([^()\s]*\)/g)) {
    const at = start + match.index, ticks = match[1] ? match[1].length : 0;
    put(element, done, at);
    const part = ticks ? make("code") : make("span", "target");  // code, or where a link leads: of little interest here
    put(part, at + ticks, at + match[0].length - ticks);
    element.append(part);
    done = at + match[0].length;
  }
  put(element, done, end);
}

function blocks(text) {
  const found = [];
  let position = 0, fence = null;
  for (const line of text.split("\n")) {
    const start = position, end = position + line.length;
    position = end + 1;
    const last = found[found.length - 1];
    if (fence) {
      if (new RegExp("^\\s*" + fence.mark + "\\s*$").test(line)) fence = null;
      else if (fence.block) fence.block.end = end;
      else found.push(fence.block = {name: "pre", className: "", start, end});
      continue;
    }
    const opens = /^\s*(```+|~~~+)/.exec(line);
    if (opens) { fence = {mark: opens[1], block: null}; found.push({name: "pre", className: "none", start: end, end}); continue; }
    const heading = /^\s*#{1,6}\s+/.exec(line), quoted = /^\s*>[>\s]*/.exec(line);
    if (!line.trim()) found.push({name: "p", className: "none", start: end, end});
    else if (heading) found.push({name: "p", className: "heading", start: start + heading[0].length, end});
    else if (quoted) found.push({name: "p", className: "quoted", start: start + quoted[0].length, end});
    else if (/^\s*\|/.test(line)) join(found, last, {name: "div", className: "table", start, end});
    else if (/^\s*(?:[-*+]|\d{1,3}[.)])\s/.test(line)) found.push({name: "p", className: "item", start, end});
    else join(found, last, {name: "p", className: last && last.className === "item" ? "item" : "plain", start, end});
  }
  return found.filter((block) => block.className !== "none");
}

function join(found, last, block) {
  if (last && last.name === block.name && last.className === block.className) last.end = block.end;
  else found.push(block);
}
