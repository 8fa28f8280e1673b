// The answers as text: a token's colour is the chosen quantity, a ring is what another setting would change.
// Knows lanes, tokens and nodes; of a press it says which token it was, and decides nothing.

// An answer's token, whoever decided it: its own step, or, before a branch, the parent's with what was said instead.
// {token, text, step, lane: whose step it is, forced: was it said instead}
function tokenAt(lane, i) {
  if (i < lane.trace.first) return lane.prefix[i];
  const step = lane.trace.steps[i - lane.trace.first];
  return step && { token: step.token, text: step.text, step, lane, forced: false };
}
// A token in words, by itself where it is a part of a character.
const wordFor = (lane, token, text = "") => (lane.ends.has(token) ? "■ the end" : quoted(text || (lane.trace.words.get(token) ?? "")));
function saidAt(lane, i) {
  const { token, text, lane: owner } = tokenAt(lane, i);
  return wordFor(owner ?? lane, token, text);
}
const lengthOf = (lane) => lane.trace.first + lane.trace.steps.length;

const LONG = 400; // tokens from which on lines out of sight are left alone

function answerTexts(place, { choose, about }) {
  let lanes = [];
  let quantity = "push";
  let looked = null; // the node that has the cursor
  let marked = []; // nodes that a finding is about

  function lay(shown) {
    lanes = shown;
    looked = null;
    marked = [];
    place.replaceChildren(...lanes.map(pane));
    lanes.forEach((lane) => append(lane));
  }

  function pane(lane) {
    const box = make("section", "pane");
    const head = make("header");
    head.append(make("span", "letter", LETTERS[lane.at]), make("h3", "", visible(lane.title)), make("small", "", visible(lane.detail)));
    const text = make("div", "text");
    text.dir = "auto";
    text.setAttribute("role", "listbox");
    text.setAttribute("aria-orientation", "horizontal");
    text.setAttribute("aria-label", `Answer ${LETTERS[lane.at]}, ${visible(lane.title)}: its tokens`);
    const facts = make("footer");
    const findings = make("ul", "findings");
    box.append(head, text, facts, findings);
    Object.assign(lane, { text, facts, findings, nodes: [], ringed: new Map(), line: null });
    return box;
  }

  // What came since the last time, and the lane's end once it is there.
  function append(lane) {
    const news = document.createDocumentFragment();
    for (let i = lane.nodes.length; i < lengthOf(lane); i++) {
      const { text, step, forced } = tokenAt(lane, i);
      const node = make("span", "token");
      node.dataset.i = i;
      node.setAttribute("role", "option");
      node.tabIndex = i ? -1 : 0;
      if (text === null) node.hidden = true; // the text of a beginning whose tokens are not known stands in the first
      else spell(node, text, false);
      if (i < lane.trace.first) node.classList.add(forced ? "forced" : "before");
      else {
        if (step.gated) node.classList.add("gated");
        if (step.token !== step.baseToken) node.classList.add("other");
      }
      lane.nodes.push(node);
      if (i >= lane.trace.first) tint(lane, i);
      // A line is a block of its own, so that of a long answer only what is near the window is laid out.
      if (!lane.line) news.append((lane.line = make("div", "line")));
      lane.line.append(node);
      if (text?.endsWith("\n")) lane.line = null;
    }
    lane.text.append(news);
    if (lane.nodes.length > LONG && lane.trace.head.done) rest(lane);
    finish(lane);
  }

  // Lines that are not laid out yet take about the room that they will take.
  function rest(lane) {
    const across = Math.max(20, lane.text.clientWidth / 8);
    for (const each of lane.text.children)
      each.style.containIntrinsicSize = `auto ${(1.75 * Math.ceil(each.textContent.length / across)).toFixed(1)}em`;
    lane.text.classList.add("long");
  }

  function finish(lane) {
    const { head, steps } = lane.trace;
    const facts = [`${lengthOf(lane)} tokens`];
    if (lane.trace.first) facts.push(`the first ${lane.trace.first} were given`);
    if (head.done) {
      const last = lane.nodes.at(-1);
      if (head.done === "eos" && last && steps.length && !steps.at(-1).text) spell(last, "", true);
      facts.push(ENDED[head.done]);
      if (head.tokens_per_s) facts.push(`${head.tokens_per_s.toFixed(0)}/s`);
      if (lane.aligned) facts.push(`gated ${Math.round(100 * head.gated_share)}%`, `mean KL ${head.mean_kl.toFixed(2)}`);
      facts.push(`seed ${lane.trace.settings.seed}`);
    }
    lane.facts.replaceChildren(...facts.map((fact) => make("span", "", fact)));
    lane.findings.replaceChildren(...(lane.health ?? []).map((found) => finding(lane, found)));
  }

  function finding(lane, { says, advice, at, level }) {
    const item = make("li", level);
    const words = make("span", "", visible(says));
    if (at) {
      const show = button("", visible(says), () => about(lane, at[0], at[1]));
      show.title = "Show the tokens that this is about";
      words.replaceChildren(show);
    }
    item.append(make("b", "", level === "warning" ? "Look" : "Note"), words, make("small", "", visible(advice)));
    return item;
  }

  function tint(lane, i) {
    const { step } = tokenAt(lane, i);
    lane.nodes[i].style.backgroundColor = shade(quantity, QUANTITIES[quantity].of(step));
  }

  function colour(chosen) {
    quantity = chosen;
    for (const lane of lanes) for (let i = lane.trace.first; i < lane.nodes.length; i++) tint(lane, i);
  }

  // Where two lanes part, seen from the first one.
  function part(at) {
    place.querySelectorAll(".parting").forEach((node) => node.classList.remove("parting"));
    for (const [lane, i] of at) lane.nodes[i]?.classList.add("parting");
  }

  // would: Map of token -> what it would be; only nodes whose state changes are touched.
  function ring(lane, would, first) {
    for (const [i] of lane.ringed) if (!would.has(i)) unring(lane.nodes[i]);
    for (const [i, text] of would) {
      const node = lane.nodes[i];
      if (lane.ringed.get(i) !== text) node.dataset.would = text;
      if (!lane.ringed.has(i)) node.classList.add("would");
      node.classList.toggle("first", i === first);
    }
    lane.ringed = would;
    lane.text.classList.toggle("asks", would.size > 0);
  }

  function unring(node) {
    node.classList.remove("would", "first");
    delete node.dataset.would;
  }

  function gate(lane, i, gated) {
    lane.nodes[i].classList.toggle("gated", gated);
  }

  function look(lane, i, focus) {
    if (looked) {
      looked.classList.remove("looked");
      looked.removeAttribute("aria-selected");
    }
    looked = lane?.nodes[i] ?? null;
    if (!looked) return;
    for (const node of place.querySelectorAll('.token[tabindex="0"]')) if (node.parentNode.parentNode === lane.text) node.tabIndex = -1;
    looked.tabIndex = 0;
    looked.classList.add("looked");
    looked.setAttribute("aria-selected", "true");
    looked.setAttribute("aria-label", named(lane, i));
    if (focus) looked.focus({ preventScroll: true });
    show(lane.text, looked, focus);
  }

  // Into view within its own pane; into the window only where somebody moves along the text.
  function show(text, node, focus) {
    const [box, at] = [text.getBoundingClientRect(), node.getBoundingClientRect()];
    if (at.top < box.top + 24 || at.bottom > box.bottom - 24) text.scrollTop += at.top - box.top - box.height / 3;
    if (focus) node.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  function named(lane, i) {
    const { step, forced } = tokenAt(lane, i);
    const said = [saidAt(lane, i), `token ${i + 1} of ${lengthOf(lane)}`];
    if (forced) said.push("said instead, by you");
    else if (step.gated) said.push("gated");
    else if (step.token !== step.baseToken) said.push("changed by the aligner");
    if (lane.ringed.has(i)) said.push(`would be ${lane.ringed.get(i)}`);
    return said.join(", ");
  }

  function mark(lane, first, count) {
    marked.forEach((node) => node.classList.remove("about"));
    marked = lane ? lane.nodes.slice(first, first + count) : [];
    marked.forEach((node) => node.classList.add("about"));
  }

  const found = (target) => {
    const node = target.closest?.(".token");
    const lane = node && lanes.find((each) => each.text.contains(node));
    return lane ? [lane, Number(node.dataset.i)] : null;
  };
  place.addEventListener("click", (event) => {
    const at = found(event.target);
    if (at) choose(...at, true);
  });
  place.addEventListener("mouseover", (event) => {
    const at = found(event.target);
    if (!at || at[1] < at[0].trace.first) return;
    const { name, of, unit } = QUANTITIES[quantity];
    lanes[at[0].at].nodes[at[1]].title = `${name} ${amount(quantity, of(tokenAt(...at).step))}${unit ? " " + unit : ""}`;
  });

  return { lay, append, finish, colour, part, ring, gate, look, mark, found, named };
}

// Of every lane but the first: where it first says something else than that one.
function partings(lanes) {
  const [base, ...others] = lanes;
  return others.flatMap((lane) => {
    const shared = Math.min(lengthOf(base), lengthOf(lane));
    for (let i = lane.trace.first; i < shared; i++) if (tokenAt(lane, i).token !== tokenAt(base, i).token) return [[lane, i]];
    return [];
  });
}
