// The Inspector: what is open, which token is looked at, and who is told of it. The parts of the page draw and decide;
// this wires them to one selection, the keys, and the server. Text from a model or a person enters through textContent.

const root = element.querySelector(".inspector");
// {asks: does the owner need a token, owner: may there be one, largest: file, in bytes; data: of a saved page}
const given = JSON.parse(props.value);
const at = (selector) => root.querySelector(selector);
const isSaved = !server;
const session = isSaved ? "" : ownSession();
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const LAST = "ram-demo-inspected"; // what was opened last, in this window
const REDRAW_MS = 500; // between two drawings of the line while a branch grows

let view = null; // what was opened: its title and where it is from; the answers stand in the tree
let lanes = []; // of the node that is shown
let looked = null; // {lane, i}: the selection
let quantity = "push";
let drawn = 0; // when the line was drawn last
let token = ""; // the owner's, once typed here

// Ask the server: an answer, {error, again}, or, where it did not answer at all, an error that may be asked again.
async function ask(question, more = {}) {
  try {
    return (await server[question]({ session, ...more })) ?? { error: "The server did not answer.", again: true };
  } catch {
    return { error: "The server did not answer.", again: true };
  }
}

function say(words = "", isWrong = false) {
  at(".note").replaceChildren(words);
  at(".note").dataset.wrong = isWrong;
}

function result(...parts) {
  delete at(".result").dataset.same;
  at(".result").replaceChildren(...parts);
}

// The parts -----------------------------------------------------------------------------------------------------------

const texts = answerTexts(at(".panes"), { choose, about });
const steps = stepView(at(".step"), { branch: fork, move, leave, mayBranch: () => !isSaved });
const line = timeline(at(".timeline"), { choose, drag: (lane, tau) => strip.setGate(lane, tau) });
const table = tokenTable(at(".table"), { choose });
const strip = whatIf(at(".whatif"), { changed, goOn: isSaved ? null : goOn, look: (lane, i) => choose(lane, i, true) });
const tree = branches(at(".tree"), at(".ballot"), { ask, shown, grew, say });
const share = sharing({ root, ask, view: () => ({ ...view, ...tree.saved() }), looked: whereabouts, say, result, open });
const votes = pastVotes(at(".votes"), {
  ask, asks: given.asks, token: (typed) => (token = typed), open: (battle) => fetchView({ battle, token }),
});

colourChoice(at(".colour-place"), quantity, recolour);

function recolour(chosen) {
  quantity = chosen;
  at(".scale-place").replaceChildren(legend(quantity));
  texts.colour(quantity);
}

// Opening -------------------------------------------------------------------------------------------------------------

async function fetchView(asked) {
  say("Opening…");
  const answer = await ask("open", asked);
  if (answer.error) return say(answer.error, true);
  open(answer.view, asked.turn ?? 0);
}

function open(found, turn = 0) {
  share.forget();
  try {
    tree.open(found);
  } catch (error) {
    return say(error.message, true);
  }
  view = { version: found.version, title: found.title, source: found.source };
  root.dataset.state = "open";
  say();
  result();
  at(".votes").hidden = true;
  at(".what h2").textContent = visible(view.title);
  at(".what small").textContent = origin(view.source);
  tree.turn(Math.min(turn, tree.turns.length - 1));
  at(".what h2").focus({ preventScroll: true });
  if (root.getBoundingClientRect().top < 0) root.scrollIntoView();
}

function origin({ run, battle, file }) {
  if (run) return "a comparison made here";
  if (battle) return "a battle that was voted on or revealed";
  return file ? `from ${visible(file)}` : "";
}

async function readFile(file) {
  if (!file) return;
  if (file.size > given.largest) return say(`${visible(file.name)} is too large to be a trace.`, true);
  say(`Reading ${visible(file.name)}…`);
  const answer = await ask("open", { name: file.name, text: await file.text() });
  if (answer.error) return say(answer.error, true);
  open(answer.view);
}

// Showing a node ------------------------------------------------------------------------------------------------------

// at: the token to look at then, [lane's name, i], "keep" for the one looked at now, or null for where the lanes part.
function shown(node, all, where) {
  const was = looked && [looked.lane.name, looked.i];
  lanes = all;
  looked = null;
  about(null);
  texts.lay(lanes);
  recolour(quantity);
  at(".asked").textContent = visible(node.prompt);
  at(".asked").hidden = node.prompt === view.title; // which stands above already
  history(lanes[0]?.history ?? []);
  at(".turns").replaceChildren(...turnTabs(node.turn));
  tell(node);
  const parted = mark();
  const own = node.lanes.at(-1);
  const [name, i] = (where === "keep" ? was : where) ?? parted ?? [own?.name, node.at ?? 0];
  line.show(lanes);
  lanes.forEach((lane) => {
    lane.shownGated = null; // as it was recorded
    if (lane.tries) changed(lane);
  });
  const lane = lanes.find((each) => each.name === name) ?? own;
  const last = lane ? lengthOf(lane) - 1 : -1;
  // What a branch begins with is known before its first own token is.
  if (last >= 0 && (i <= last || root.dataset.grows !== "true")) choose(lane, Math.min(i, last), false);
  else {
    steps.clear();
    strip.show(null);
  }
  if (where !== "keep") delete root.dataset.looks; // on a phone it would cover what one came to read
}

function tell(node) {
  const grows = ["opening", "waiting", "running"].includes(node.state);
  root.dataset.grows = grows;
  if (node.state === "failed") return say(node.note, true);
  if (!grows) return say();
  say(node.note || (node.state === "running" ? "The branch grows under both policies. " : "Getting ready… "));
  at(".note").append(button("plain", "Stop", () => ask("stop")));
}

// A branch has grown: only what is new is drawn, the line now and then.
function grew(node) {
  tell(node);
  lanes.forEach((lane) => texts.append(lane));
  if (performance.now() - drawn < REDRAW_MS) return;
  drawn = performance.now();
  lanes.forEach((lane) => (lane.now.gated = lane.trace.steps.map((step) => step.gated)));
  line.show(lanes);
  mark();
  if (looked) line.look(looked.lane, looked.i);
  else if (node.lanes.length && lengthOf(node.lanes.at(-1)) > node.at) choose(node.lanes.at(-1), node.at, false);
}

function history(entries) {
  at(".history").hidden = !entries.length;
  at(".history summary").textContent = `What was said before (${entries.length} message${entries.length === 1 ? "" : "s"})`;
  at(".history div").replaceChildren(
    ...entries.map(([role, said]) => {
      const words = make("p", role === "user" ? "asked" : "said", visible(said));
      words.dir = "auto";
      return words;
    })
  );
}

function turnTabs(now) {
  if (tree.turns.length < 2) return [];
  return tree.turns.map((_, n) => {
    const tab = button("plain", `Turn ${n + 1}`, () => tree.turn(n));
    tab.setAttribute("aria-pressed", String(n === now));
    return tab;
  });
}

// Where the lanes part, in the texts and in words. Returns the first of these places.
function mark() {
  const found = partings(lanes);
  texts.part(found.flatMap(([lane, i]) => [[lane, i], [lanes[0], i]]));
  const first = lanes[0];
  at(".part").replaceChildren(
    ...found.map(([lane, i]) => {
      const words = make("p");
      const jump = button("", `token ${i + 1}`, () => choose(lane, i, true));
      const says = (each) => [make("b", "", `${LETTERS[each.at]}, ${visible(each.title)},`), ` says ${saidAt(each, i)}`];
      words.append("They part at ", jump, ": ", ...says(first), ", ", ...says(lane), ".");
      return words;
    })
  );
  if (!found.length && lanes.length > 1 && root.dataset.grows !== "true") at(".part").append(make("p", "", "They never part: to its end, one says what the other says."));
  return found.length ? [found[0][0].name, found[0][1]] : null;
}

// The selection -------------------------------------------------------------------------------------------------------

function choose(lane, i, focus) {
  const found = tokenAt(lane, i);
  if (!found?.step) return;
  looked = { lane, i };
  root.dataset.looks = true;
  texts.look(lane, i, focus);
  line.look(lane, i);
  table.show(lane);
  table.look(i);
  show(lane);
  const words = glass();
  if (focus) at(".heard").textContent = words;
  const grows = root.dataset.grows === "true";
  const turned = lane.aligned ? lane : lanes.find((each) => each.aligned);
  strip.show(grows ? null : (turned ?? null));
}

function glass() {
  const { lane, i } = looked;
  const own = i >= lane.trace.first && lane.result;
  return steps.show(lane, i, own ? { settings: lane.tries, token: lane.result.tokens[i - lane.trace.first] } : null);
}

function leave() {
  about(null);
  delete root.dataset.looks;
  looked?.lane.nodes[looked.i].focus();
}

function move(by) {
  if (!looked) return;
  const i = looked.i + by;
  if (i >= 0 && i < lengthOf(looked.lane)) choose(looked.lane, i, true);
}

// The next token that the aligner changed, or that what is tried would change.
function seek(by) {
  const { lane } = looked;
  for (let i = looked.i + by; i >= lane.trace.first && i < lengthOf(lane); i += by) {
    const { step } = tokenAt(lane, i);
    if (step.token !== step.baseToken || lane.ringed.has(i)) return choose(lane, i, true);
  }
}

function about(lane, first, count) {
  texts.mark(lane, first, count);
  if (lane) choose(lane, first, true);
}

function whereabouts() {
  return looked && { node: tree.nodes.indexOf(tree.now), lane: looked.lane.name, i: looked.i, quantity };
}

// What if, and branches -----------------------------------------------------------------------------------------------

// What a lane's tries would change is ringed; only tokens whose state changes are touched.
function changed(lane) {
  const was = lane.shownGated ?? lane.trace.steps.map((step) => step.gated);
  const { gated } = lane.now;
  for (let k = 0; k < gated.length; k++) if (Boolean(gated[k]) !== Boolean(was[k])) texts.gate(lane, lane.trace.first + k, Boolean(gated[k]));
  lane.shownGated = gated;
  show(lane);
  line.gate();
  if (looked?.lane === lane) glass();
}

function show(lane) {
  const would = changesOf(lane);
  if (!would.size && !lane.ringed.size) return;
  texts.ring(lane, would, lane.result ? lane.trace.first + lane.result.first : -1);
}

function fork(i, id) {
  tree.grow(looked.lane, i, id);
}

function goOn(lane, i) {
  tree.grow(lane, i, null, lane.tries);
}

// Keys ----------------------------------------------------------------------------------------------------------------

at(".panes").addEventListener("keydown", (event) => {
  const found = texts.found(event.target);
  if (!found || event.ctrlKey || event.metaKey || event.altKey) return;
  const [lane, i] = found;
  const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: lengthOf(lane) - 1 }[event.key];
  const aside = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const next = { n: 1, p: -1 }[event.key];
  if (looked?.lane !== lane || looked.i !== i) choose(lane, i, true);
  if (to !== undefined) to >= 0 && to < lengthOf(lane) && choose(lane, to, true);
  else if (aside) {
    const other = lanes[(lane.at + aside + lanes.length) % lanes.length];
    if (lengthOf(other)) choose(other, Math.min(i, lengthOf(other) - 1), true);
  } else if (next) seek(next);
  else if (event.key === "Enter" || event.key === "b") steps.enter();
  else if (event.key === "Escape") leave();
  else if (event.key !== " ") return;
  event.preventDefault();
});

// Doors ---------------------------------------------------------------------------------------------------------------

function doors() {
  at(".open-file").onclick = () => at("input[type=file]").click();
  at("input[type=file]").onchange = (event) => {
    readFile(event.target.files[0]);
    event.target.value = "";
  };
  at(".open-votes").hidden = !given.owner;
  at(".open-votes").onclick = () => votes.show();
  at(".to-compare").onclick = () => showTab("Compare");
  const isFile = (event) => event.dataTransfer?.types.includes("Files");
  root.addEventListener("dragover", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    root.dataset.drops = true;
  });
  root.addEventListener("dragleave", (event) => root.contains(event.relatedTarget) || delete root.dataset.drops);
  root.addEventListener("drop", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    delete root.dataset.drops;
    readFile(event.dataTransfer.files[0]);
  });
  window.addEventListener("ram-inspect", ({ detail }) => root.isConnected && enter(detail));
  window.addEventListener("hashchange", () => root.isConnected && linked() && share.follow(linked()));
  if (window.ramInspect) enter(window.ramInspect);
  else if (linked()) share.follow(linked());
  else enter(JSON.parse(sessionStorage.getItem(LAST)), true);
}

// What was open stays open through a reload, unless the server has let go of it meanwhile.
async function enter(detail, isOld = false) {
  if (!detail) return;
  await fetchView(detail);
  if (isOld && root.dataset.state === "empty") say();
  if (detail.token === undefined) sessionStorage.setItem(LAST, JSON.stringify(detail));
}

new ResizeObserver(() => {
  line.show(lanes);
  if (looked) line.look(looked.lane, looked.i);
}).observe(at(".timeline"));

if (isSaved) {
  root.classList.add("saved");
  open(given.data.view);
  const { node, lane, i, quantity: chosen } = given.data.looked ?? {};
  if (tree.nodes[node]) tree.go(tree.nodes[node], [lane, i]);
  if (chosen) at(`input[value="${chosen}"]`).click();
} else doors();
