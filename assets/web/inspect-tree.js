// The branches of what is open: a small tree whose root is a turn's answers. Each node has lanes, as a turn has; what was
// given to a branch to begin with is looked up in its parent. Knows decoded lanes; asks the server to begin and to vote.

const VOTES = [["a", "better"], ["b", "better"], ["tie", "Tie"], ["both_bad", "Both bad"]];
const ASK_MS = 250; // between two askings while a branch grows
const PATIENCE = 20; // askings without an answer, one after the other

// A node's lanes, ready to be shown, from those of a view. at: the token of the parent's lane that it hangs on.
function openLanes(lanes, parent = null, laneName = "", at = 0) {
  const stem = parent?.lanes.find((lane) => lane.name === laneName);
  const ends = new Set(stem?.ends); // the tokens that were seen to end an answer
  return lanes.map((lane, n) => {
    const trace = lane.trace.steps ? decodeTrace(lane.trace) : openTrace(lane.trace);
    const opened = { ...lane, record: lane.trace, trace, at: n };
    if (trace.head.done === "eos" && trace.steps.length) ends.add(trace.steps.at(-1).token);
    opened.ends = ends;
    opened.prefix = stem ? overgrown(trace, stem, at) : rootless(trace);
    return opened;
  });
}

// What the parent said up to there, and there what was said instead.
function overgrown(trace, stem, at) {
  const forced = trace.settings.forced ?? [];
  return forced.map((token, i) => {
    const was = tokenAt(stem, i);
    if (i < at || was.token === token) return was;
    return { token, text: was.lane.trace.words.get(token) ?? "", step: was.step, lane: was.lane, forced: true };
  });
}

// A beginning whose parent is not here: its text is what the steps leave of the answer.
function rootless(trace) {
  const forced = trace.settings.forced ?? [];
  const own = trace.steps.map((step) => step.text).join("");
  const text = (trace.head.text ?? "").slice(0, Math.max(0, (trace.head.text ?? "").length - own.length));
  return forced.map((token, i) => ({ token, text: i ? null : text, step: null, lane: null, forced: true }));
}

function branches(place, ballot, { ask, shown, grew, say }) {
  let nodes = []; // of every turn the root, then the branches in the order in which they were made
  let now = null;
  let isBeside = false; // is the answer that a branch left shown beside it

  function open(view) {
    nodes.forEach((node) => (node.gone = true));
    nodes = view.turns.map((turn, n) => ({ parent: null, turn: n, prompt: turn.prompt, lanes: openLanes(turn.lanes) }));
    const roots = nodes.length;
    for (const { parent, turn, lane, at, lanes } of view.branches ?? []) {
      const stem = parent === null ? nodes[turn] : nodes[roots + parent];
      nodes.push({ parent: stem, turn, lane, at, prompt: stem.prompt, lanes: openLanes(lanes, stem, lane, at) });
    }
    nodes.forEach((node) => node.lanes.forEach(settle));
  }

  function go(node, at = null) {
    now = node;
    list();
    vote();
    shown(node, isBeside && node.parent ? [...node.lanes, before(node)] : node.lanes, at);
  }

  // The lane that a branch left, to stand as one more beside its own.
  function before(node) {
    const stem = node.parent.lanes.find((lane) => lane.name === node.lane);
    const lane = { ...stem, name: "before:", title: `before: ${stem.title}`, at: node.lanes.length, of: node.parent };
    settle(lane);
    return lane;
  }

  // Beginning one ----------------------------------------------------------------------------------------------------

  // From a lane's token on: with another token in its place, or, of null, with other settings from there.
  async function grow(lane, at, token, tries = null) {
    const forced = Array.from({ length: at }, (_, i) => tokenAt(lane, i).token);
    if (token !== null) forced.push(token);
    const parent = lane.of ?? now;
    const { settings, name } = lane.trace;
    say("Going back to that token…");
    const answer = await ask("begin", { prompt: parent.prompt, history: lane.history, settings, lane: name, forced, ...tries });
    if (answer.error) return say(answer.error, true);
    const node = { parent, turn: parent.turn, lane: parent === now ? lane.name : now.lane, at, token, prompt: parent.prompt, lanes: [], run: answer.run, state: "opening", tried: tries };
    node.text = token === null ? null : (lane.trace.words.get(token) ?? tokenAt(lane, at).lane.trace.words.get(token) ?? "");
    node.history = lane.history;
    nodes.push(node);
    go(node);
    follow(node);
  }

  // Until it has ended it is asked for what is new; then once for all of it, health included.
  async function follow(node) {
    let heard = 0;
    for (let failures = 0; !node.gone; ) {
      const news = await ask("part", { run: node.run, heard });
      if (node.gone) return;
      if (news.error && news.again && ++failures < PATIENCE) {
        await pause(2 * ASK_MS);
        continue;
      }
      if (news.error) return fail(node, news.error);
      failures = 0;
      heard = news.heard;
      try {
        take(node, news);
      } catch (error) {
        return fail(node, error.message);
      }
      if (news.state === "failed") return fail(node, news.note);
      if (node.state !== news.state) {
        node.state = news.state;
        list();
      }
      node.note = news.note;
      if (news.state === "ended") break;
      if (node === now) grew(node);
      await pause(ASK_MS);
    }
    const whole = node.lanes.some((lane) => lane.trace.steps.length) ? await ask("open", { run: node.run }) : { error: "It was stopped before it said anything." };
    if (node.gone) return;
    if (whole.error) return fail(node, whole.error);
    node.lanes = openLanes(whole.view.turns[0].lanes, node.parent, node.lane, node.at);
    node.lanes.forEach(settle);
    if (node === now) go(node, "keep");
    else list();
  }

  function take(node, news) {
    if (news.lanes.length && !node.lanes.length) {
      const heads = news.lanes.map(({ settings, ...head }) => ({ ...head, history: node.history, health: [], trace: { version: 1, lane: head.name, settings } }));
      node.lanes = openLanes(heads, node.parent, node.lane, node.at);
      node.lanes.forEach(({ trace }) => (trace.first = trace.settings.forced.length));
      node.lanes.forEach(settle);
      if (node === now) go(node);
    }
    for (const part of news.parts) appendSteps(node.lanes.find((lane) => lane.name === part.lane).trace, part);
    for (const head of news.ended) endTrace(node.lanes.find((lane) => lane.name === head.lane).trace, { version: 1, ...head });
  }

  // One that said nothing is taken back; what another one said stays, with the reason why it ended.
  function fail(node, note) {
    node.state = "failed";
    node.note = note;
    const isEmpty = !node.lanes.some((lane) => lane.trace.steps.length) && !nodes.some((other) => other.parent === node);
    if (isEmpty) nodes.splice(nodes.indexOf(node), 1);
    if (isEmpty && node === now) go(node.parent, [node.lane, node.at]);
    else list();
    if (node === now || isEmpty) say(note, true);
  }

  // The newest branch vanishes, stopped if it still grows.
  function undo() {
    const node = nodes.at(-1);
    if (!node?.parent) return;
    node.gone = true;
    nodes.pop();
    if (node.run && node.state !== "ended" && node.state !== "failed") ask("stop", {});
    if (node === now) go(node.parent, [node.lane, node.at]);
    else list();
  }

  // The list -----------------------------------------------------------------------------------------------------------

  function list() {
    place.hidden = !nodes.some((node) => node.parent && node.turn === now.turn);
    if (place.hidden) return place.replaceChildren();
    const under = (parent) => {
      const items = nodes.filter((node) => node.parent === parent);
      if (!items.length) return [];
      const box = make("ul");
      box.append(...items.map(item));
      return [box];
    };
    const item = (node) => {
      const line = make("li");
      const open = button("", undefined, () => go(node));
      open.append(...named(node));
      if (node === now) open.setAttribute("aria-current", "true");
      line.append(open, ...under(node));
      return line;
    };
    const roots = make("ul");
    roots.append(item(nodes[now.turn]));
    const acts = make("div", "acts");
    if (now.parent) {
      const aside = button("plain beside", "Beside what was said before", () => {
        isBeside = !isBeside;
        go(now, "keep");
      });
      aside.setAttribute("aria-pressed", String(isBeside));
      acts.append(aside);
    }
    acts.append(button("plain undo", "Undo the last branch", undo));
    place.replaceChildren(make("h3", "", "Branches"), roots, acts);
  }

  function named(node) {
    if (!node.parent) return [make("b", "", "The answer")];
    const stem = node.parent.lanes.find((lane) => lane.name === node.lane);
    const first = node.lanes[0]?.prefix[node.at];
    const said = first ? saidAt(node.lanes[0], node.at) : node.text ? quoted(node.text) : settingsOf(node);
    const state = { opening: "getting ready", waiting: "waiting", running: "growing", failed: "failed" }[node.state];
    const where = `from token ${node.at + 1} of ${stem ? LETTERS[stem.at] : "?"}`;
    return [make("b", "", said), make("small", "", [where, ...(state ? [state] : []), ...(node.voted ? [`voted: ${node.voted}`] : [])].join(", "))];
  }

  // What a branch that goes on under other settings was given.
  function settingsOf(node) {
    const lane = node.lanes.find((each) => each.aligned);
    if (!lane) return "other settings";
    return lane.detail + (typeof lane.tau === "number" ? `, gate at ${lane.tau}` : "");
  }

  // The vote -----------------------------------------------------------------------------------------------------------

  function vote() {
    ballot.hidden = !(now.run && now.state === "ended" && now.lanes.length > 1);
    if (ballot.hidden) return;
    const said = make("p", "", now.voted ? `Saved: ${now.voted}.` : "Which way of going on is better? Your vote is kept with the seed, the settings and every weight.");
    said.setAttribute("role", "status");
    const row = make("div");
    for (const [choice, words] of VOTES) {
      const title = words === "better" ? `${choice.toUpperCase()} better` : words;
      const press = button("plain", title, () => cast(now, choice, title, row, said));
      press.disabled = Boolean(now.voted);
      row.append(press);
    }
    ballot.replaceChildren(said, row);
  }

  async function cast(node, choice, title, row, said) {
    row.querySelectorAll("button").forEach((press) => (press.disabled = true));
    const answer = await ask("vote", { run: node.run, choice });
    if (!answer.error) node.voted = title;
    if (node !== now) return;
    list();
    if (node.voted) return vote();
    said.textContent = answer.error;
    row.querySelectorAll("button").forEach((press) => (press.disabled = !answer.again));
  }

  // All of it as a view keeps it; branches that still grow are left out, and what hangs on them.
  function saved() {
    const kept = nodes.filter((node) => node.parent && (!node.run || node.state === "ended"));
    const whole = kept.filter((node) => !node.parent.parent || kept.includes(node.parent));
    const number = (node) => (node.parent ? whole.indexOf(node) : null);
    return {
      turns: nodes.filter((node) => !node.parent).map((node) => ({ prompt: node.prompt, lanes: node.lanes.map(plainLane) })),
      branches: whole.map((node, id) => ({ id, parent: number(node.parent), turn: node.turn, lane: node.lane, at: node.at, lanes: node.lanes.map(plainLane) })),
    };
  }

  return { open, go, grow, undo, vote, saved, turn: (n) => go(nodes[n]), get now() { return now; }, get turns() { return nodes.filter((node) => !node.parent); }, get nodes() { return nodes; } };
}

const plainLane = ({ name, title, detail, tau, aligned, history, health, record }) => ({ name, title, detail, tau, aligned, history, health, trace: record });
