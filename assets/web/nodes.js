// What every part of the page makes its nodes with: stands before the scripts of those that show tokens.
// Text from a model or a person enters the page through textContent alone, and nothing in it stays unseen.

// Characters that would reorder or hide the text around them are shown by their number.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
const button = (className, text, onclick) => Object.assign(make("button", className, text), { type: "button", onclick });
const visible = (text) =>
  text.replace(UNSEEN, (c) => "⟨" + "U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩");
// Nothing to see: a part of a character, or the end of the text.
const quoted = (text) =>
  text === "" ? "▫" : "“" + visible(text).replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length)) + "”";
const percent = (x) => (x >= 0.0995 ? Math.round(100 * x) + "%" : x >= 0.0005 ? (100 * x).toFixed(1) + "%" : "<0.1%");
const signed = (x, digits = 2) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
const duration = (ms) => (ms < 100 ? `${Math.max(1, Math.round(ms))} ms` : `${(ms / 1000).toFixed(1)} s`);
const LETTERS = "ABCDEFGHIJ"; // of the lanes, in the order in which they stand
const ENDED = { eos: "ended by itself", length: "cut at the length", stopped: "stopped" };

// What a token shows of itself: its text with every newline and tab marked, or a sign where there is nothing to see.
function spell(node, text, end) {
  node.replaceChildren();
  if (!text) return node.append(make("i", "mark", end ? "■" : "▫"));
  visible(text)
    .split(/(\n|\t)/)
    .forEach((piece) => {
      if (piece === "\n") node.append(make("i", "mark", "⏎"), "\n");
      else if (piece === "\t") node.append(make("i", "mark", "⇥"), "\t");
      else if (piece) node.append(piece);
    });
}
