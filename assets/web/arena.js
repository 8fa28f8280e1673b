// A blind battle, from the prompt to what is revealed. The server decides all; this page shows and asks.
// Before the vote it knows of A and B nothing but their texts. Text from a model or a person enters through textContent.

const arena = element.querySelector(".arena");
const given = JSON.parse(props.value); // {examples, reasons, longest}
const at = (selector) => arena.querySelector(selector);
const SIDES = ["a", "b"];
const BETTER = { a: "A is better", b: "B is better", tie: "Tie", both_bad: "Both bad" };

const ASK_MS = 250; // between two askings while tokens come
const PAUSES_S = [1, 2, 4, 8, 15, 30]; // before a vote that was not saved is sent again; the last one from then on
const KEPT_VOTE = "ram-demo-vote"; // a vote that is not saved yet survives a reload of the page

const session = ownSession();
// The Inspector is opened on a battle's turn, and by the session that fought it.
const stageProps = {
  value: '{"run": null}',
  door: (shown) => ({ battle, turn: Number(shown.split(":")[1]) }),
};
let showRun; // tells the stage to look at its value again
let battle = null; // its id
let turns = []; // of each: {a, b} -> {text: the node, raw: what was said}
let span = null; // the words that decided: [side, start, end], in characters of that side's last answer
let told = null; // what was revealed
let wake = () => {}; // ends a pause before its time

const pause = (ms) => new Promise((done) => setTimeout((wake = done), ms));
// Of the next token nothing is the end of the answer.
const said = (text) => (text === "" ? "the end" : quoted(text));

// Ask the server: an answer, {error, again}, or, where it did not answer at all, an error that may be asked again.
async function ask(question, more = {}) {
  try {
    return (await server[question]({ session, battle, ...more })) ?? { error: "The server did not answer.", again: true };
  } catch {
    return { error: "The server did not answer.", again: true };
  }
}

// idle, starting, running, ended (to be voted on), sending, kept (a vote the server has not), revealed, failed
function be(state, note = "") {
  arena.dataset.state = state;
  say(note);
  const fighting = ["starting", "running", "ended", "sending", "kept"].includes(state);
  at(".judge").hidden = !fighting || !turns.length;
  at(".why").hidden = state !== "ended";
  at(".choices").querySelectorAll("button").forEach((choice) => (choice.disabled = state !== "ended"));
  at(".prompt").hidden = ["sending", "kept", "revealed", "failed"].includes(state);
  at(".prompt .go").hidden = state === "running";
  at(".prompt .go").disabled = !["idle", "ended"].includes(state);
  at(".prompt textarea").disabled = ["starting", "running"].includes(state);
  at(".prompt .halt").hidden = state !== "running";
  at(".prompt .label").textContent = turns.length ? "Talk on with both, if you like" : "Your prompt";
  at(".prompt .go").textContent = turns.length ? "Continue" : "Start a battle";
  at(".examples").hidden = state !== "idle";
  at(".skip").hidden = state !== "ended";
  at(".talk").hidden = state === "revealed";
  at(".revealed").hidden = at(".tokens-head").hidden = state !== "revealed";
}

function say(...what) {
  at(".note").replaceChildren(...what.filter((part) => part !== ""));
}

function reset(note = "") {
  battle = told = null;
  turns = [];
  mark(null);
  at(".talk").replaceChildren();
  at(".why textarea").value = "";
  at(".chips").querySelectorAll("button").forEach((chip) => chip.setAttribute("aria-pressed", "false"));
  stageProps.value = '{"run": null}';
  showRun?.();
  be("idle", note);
}

// Talking -------------------------------------------------------------------------------------------------------------

// Both panes are made by the same lines, so that they differ in a letter alone.
function lay(prompt) {
  const turn = {};
  const panes = make("div", "sides");
  for (const side of SIDES) {
    const pane = make("section", "side");
    const head = make("header");
    head.append(make("span", "letter", side.toUpperCase()), make("h3", "", "Answer " + side.toUpperCase()));
    const text = make("div", "text");
    text.dir = "auto";
    text.dataset.side = side;
    pane.append(head, text);
    panes.append(pane);
    turn[side] = { text, raw: "" };
  }
  const asked = make("p", "asked", visible(prompt));
  asked.dir = "auto";
  at(".talk").append(asked, panes);
  turns.push(turn);
}

async function go(prompt) {
  if (!prompt.trim()) return;
  const first = !turns.length;
  mark(null);
  be("starting", first ? "Drawing two lanes and their sides…" : "Getting ready…");
  const answer = await ask(first ? "start" : "go_on", { prompt });
  if (answer.error) return be(first ? "idle" : "ended", answer.error);
  battle = answer.battle ?? battle;
  at(".prompt textarea").value = "";
  lay(prompt);
  be("running", "Both are reading your words…");
  follow(battle, turns.at(-1));
}

async function follow(id, turn) {
  let heard = 0;
  for (let failures = 0; battle === id; ) {
    const news = await ask("news", { heard });
    if (battle !== id) return;
    if (news.error && news.again && ++failures < 40) {
      await pause(ASK_MS * 2);
      continue;
    }
    if (news.state === "failed" && turns.length > 1) return back(news.note);
    if (news.error || news.state === "failed") return fail(news.error ?? news.note);
    failures = 0;
    heard = news.heard;
    for (const side of SIDES) {
      turn[side].raw += news[side];
      if (news[side]) turn[side].text.append(visible(news[side]));
    }
    if (news.state === "ended") {
      mark(null); // one text, no longer in pieces
      return be("ended", "Both have ended. Which is better?");
    }
    say(news.note || (news.state === "running" ? "A and B are answering, at one pace." : "Both are reading your words…"));
    await pause(ASK_MS);
  }
}

// A later turn that failed is taken back; the answers before it can be voted on.
function back(note) {
  turns.pop();
  [...at(".talk").children].slice(-2).forEach((node) => node.remove());
  be("ended", note);
}

function fail(note) {
  be("failed", "");
  say(make("span", "", note), button("plain", "New battle", () => reset()));
}

// The words that decided ----------------------------------------------------------------------------------------------

// Offsets in what is shown become offsets in what was said, in whole characters.
function characters(raw, shown) {
  let n = 0;
  for (const character of raw) {
    if (shown <= 0) break;
    shown -= visible(character).length;
    n += 1;
  }
  return n;
}

function selected() {
  const chosen = window.getSelection();
  if (arena.dataset.state !== "ended" || !chosen.rangeCount || chosen.isCollapsed) return;
  const range = chosen.getRangeAt(0);
  for (const side of SIDES) {
    const { text, raw } = turns.at(-1)[side];
    if (!text.contains(range.startContainer) || !text.contains(range.endContainer)) continue;
    const before = document.createRange();
    before.selectNodeContents(text);
    before.setEnd(range.startContainer, range.startOffset);
    const words = range.toString();
    const from = before.toString().length + words.length - words.trimStart().length;
    const [start, end] = [from, from + words.trim().length].map((shown) => characters(raw, shown));
    if (end > start) mark([side, start, end]);
  }
}

function mark(words) {
  span = words;
  for (const side of turns.length ? SIDES : []) {
    const { text, raw } = turns.at(-1)[side];
    const all = [...raw];
    const [start, end] = words && words[0] === side ? words.slice(1) : [0, 0];
    const parts = [all.slice(0, start), all.slice(start, end), all.slice(end)].map((part) => visible(part.join("")));
    if (end) text.replaceChildren(parts[0], make("mark", "", parts[1]), parts[2]);
    else text.replaceChildren(parts[2]);
  }
  const decided = words ? `Decided by words of ${words[0].toUpperCase()}: ` + quoted(shorten(words)) : "";
  at(".span span").textContent = decided || "Select the words in A or B that decided it: they are marked, and kept with your vote.";
  at(".span button").hidden = !words;
}

function shorten([side, start, end]) {
  const words = [...turns.at(-1)[side].raw].slice(start, end).join("");
  return words.length > 80 ? words.slice(0, 60) + " … " + words.slice(-15) : words;
}

// The vote ------------------------------------------------------------------------------------------------------------

function cast(choice) {
  if (arena.dataset.state !== "ended") return;
  const pressed = [...at(".chips").querySelectorAll('[aria-pressed="true"]')];
  const reasons = pressed.map((chip) => chip.textContent);
  send({ battle, choice, reasons, comment: at(".why textarea").value, span });
}

// Until the server has it, the vote stays here, and is sent again after pauses that grow.
async function send(vote, retried = false) {
  battle = vote.battle;
  sessionStorage.setItem(KEPT_VOTE, JSON.stringify(vote));
  be("sending", "Saving your vote…");
  for (let tries = 0; ; tries++) {
    const answer = await ask("vote", { ...vote, retried: retried || tries > 0 });
    if (!answer.error) break;
    if (!answer.again) {
      sessionStorage.removeItem(KEPT_VOTE);
      return turns.length ? be("ended", answer.error) : reset(answer.error);
    }
    const seconds = PAUSES_S[Math.min(tries, PAUSES_S.length - 1)];
    be("kept");
    say(
      make("b", "", `Your vote (${BETTER[vote.choice]}) is not saved yet. It is kept on this page.`),
      make("span", "", ` ${answer.error} Trying again in ${seconds} s. `),
      button("plain", "Try now", () => wake())
    );
    await pause(1000 * seconds);
  }
  sessionStorage.removeItem(KEPT_VOTE);
  reveal(vote);
}

// What was hidden -----------------------------------------------------------------------------------------------------

async function reveal(vote) {
  say(vote ? "Saved. Lifting the curtain…" : "Lifting the curtain…");
  const answer = await ask("reveal");
  if (answer.error) return fail((vote ? "Your vote is saved. " : "") + answer.error);
  told = answer;
  at(".revealed").replaceChildren(...card(vote));
  be("revealed");
  showTurn(told.turns.length - 1);
  at(".revealed h2").focus();
}

function card(vote) {
  const verdict = {
    a: "You found A better",
    b: "You found B better",
    tie: "You called it a tie",
    both_bad: "You found both bad",
  };
  const title = make("h2", "", vote ? verdict[vote.choice] : "Revealed, without a vote");
  title.tabIndex = -1;
  const sides = make("div", "who");
  sides.dataset.choice = vote?.choice ?? "";
  const parting = make("p", "parting");
  const again = make("div", "acts");
  const result = make("span", "result");
  result.setAttribute("role", "status");
  const replay = button("plain", "Replay this battle exactly", () => runAgain(replay, result));
  again.append(button("go", "New battle", () => { reset(); at(".prompt textarea").focus(); }), replay, result);
  const decided = vote?.span && turns.length ? [make("p", "kind", `Decided by words of ${vote.span[0].toUpperCase()}: ${quoted(shorten(vote.span))}.`)] : [];
  return [title, sides, make("p", "kind", told.words), ...decided, parting, again];
}

// Who stood on a side, and how it went in one turn.
function identity(facts, won) {
  const side = facts.name;
  const box = make("article", won ? "won" : "");
  const head = make("header");
  head.append(make("span", "letter", side.toUpperCase()), make("h3", "", facts.title), make("small", "", facts.detail));
  if (won) head.append(make("em", "", "your choice"));
  const list = make("dl");
  const lines = [["length", `${facts.tokens} tokens, ${facts.done}`], ["seed", String(facts.seed)]];
  if (facts.aligned)
    lines.unshift(
      ["mean KL from the base", `${facts.kl.toFixed(2)} nats`],
      ["gated", `${Math.round(100 * facts.gated)}% of tokens`]
    );
  else lines.unshift(["the proposal", told.proposal], ["weighed by", "nothing"]);
  for (const [name, value] of lines) list.append(make("dt", "", name), make("dd", "", value));
  box.append(head, list);
  return box;
}

function showTurn(n) {
  const turn = told.turns[n];
  const who = at(".revealed .who");
  who.replaceChildren(...turn.lanes.map((facts) => identity(facts, facts.name === who.dataset.choice)));
  const line = at(".revealed .parting");
  const prompt = turn.prompt.length > 100 ? turn.prompt.slice(0, 99) + "…" : turn.prompt;
  const asked = make("span", "", `To “${visible(prompt)}” `);
  const { parting } = turn;
  if (parting)
    line.replaceChildren(
      asked, `they part at token ${parting.at}: A says `, make("b", "", said(parting.a)), ", B says ", make("b", "", said(parting.b)), "."
    );
  else line.replaceChildren(asked, "they never part: to its end, one says what the other says.");
  const tabs = told.turns.map((_, other) => {
    const tab = button("plain", `Turn ${other + 1}`, () => showTurn(other));
    tab.setAttribute("aria-pressed", String(other === n));
    return tab;
  });
  at(".tabs").replaceChildren(...(tabs.length > 1 ? tabs : []));
  stageProps.value = JSON.stringify({ run: `${battle}:${n}` });
  showRun();
}

async function runAgain(pressed, result) {
  const id = battle;
  pressed.disabled = true;
  const bar = make("progress");
  result.replaceChildren("Running it again… ", bar);
  for (let state = {}; battle === id && !state.over; ) {
    state = await ask("replay");
    if (battle !== id) return;
    if (state.error) {
      pressed.disabled = !state.again;
      return result.replaceChildren(state.error);
    }
    bar.max = state.of;
    bar.value = state.done;
    if (state.over) {
      result.replaceChildren(state.words);
      result.dataset.same = state.same;
    } else await pause(ASK_MS);
  }
}

// Wiring --------------------------------------------------------------------------------------------------------------

for (const reason of given.reasons) {
  const chip = button("chip", reason, () =>
    chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"))
  );
  chip.setAttribute("aria-pressed", "false");
  at(".chips").append(chip);
}
for (const example of given.examples) {
  at(".examples").append(
    button("chip", example, () => {
      at(".prompt textarea").value = example;
      at(".prompt textarea").focus();
    })
  );
}
at(".why textarea").maxLength = given.longest;
at(".choices").addEventListener("click", (event) => {
  const choice = event.target.closest("button")?.dataset.choice;
  if (choice) cast(choice);
});
at(".prompt").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!at(".prompt .go").disabled) go(at(".prompt textarea").value);
});
at(".prompt textarea").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  at(".prompt").requestSubmit();
});
at(".prompt .halt").onclick = () => ask("stop");
at(".skip button").onclick = () => reveal(null);
at(".span button").onclick = () => mark(null);
for (const event of ["mouseup", "keyup", "touchend"]) at(".talk").addEventListener(event, () => setTimeout(selected));

const KEYS = { 1: "a", 2: "b", 3: "tie", 4: "both_bad", ArrowLeft: "a", ArrowRight: "b", ArrowUp: "tie", ArrowDown: "both_bad" };
document.addEventListener("keydown", (event) => {
  const choice = KEYS[event.key];
  const elsewhere = event.target.closest?.("textarea, input, select, [contenteditable], [role=tab]");
  if (!choice || elsewhere || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (!arena.isConnected || !arena.offsetParent || arena.dataset.state !== "ended") return;
  // Arrows scroll the page, unless one is at the buttons.
  if (event.key.startsWith("Arrow") && !event.target.closest(".choices")) return;
  event.preventDefault();
  cast(choice);
});

openStage({ whats_new: async ({ run }) => ({ ...told.turns[Number(run.split(":")[1])] }) }, stageProps, (_, again) => (showRun = again));
reset();
const unsaved = sessionStorage.getItem(KEPT_VOTE);
if (unsaved) send(JSON.parse(unsaved), true);
