// The stage: panes that grow as tokens come, KL along them, and the candidates behind the token one looks at.
// It is told which run to show, asks for what it lacks (tokens.py says in which form) and appends it.
// Text from a model enters the page through textContent alone.

const stage = element.querySelector(".stage");
const part = (name) => stage.querySelector("." + name);

const ASK_MS = 250; // between two askings while tokens come
const WAIT_MS = 400; // and while they do not yet
const DRAW_MS = 500; // between two drawings of the timeline: a laptop draws on the cores that decode

let run = null; // id of the run on the stage
let lanes = new Map(); // lane name -> {steps, pane, text, stats, end}
let pinned = null; // the token that was clicked
let parted = new Set(); // lanes that have said something else than the base
let looked = null; // the token whose candidates are shown
let quantity = "push"; // that the colours show
let drawn = 0; // when the timeline was drawn last

function clear() {
  lanes = new Map();
  pinned = null;
  parted = new Set();
  looked = null;
  for (const name of ["part", "detail", "panes", "timeline"]) part(name).replaceChildren();
  part("legend").hidden = true;
}

function lay(heads) {
  part("legend").hidden = !heads.length;
  let hue = 0;
  part("panes").replaceChildren(
    ...heads.map((lane, at) => {
      const pane = make("section", "pane");
      const head = make("header");
      head.append(make("span", "letter", LETTERS[at]), make("h3", "", lane.title));
      if (lane.detail) head.append(make("small", "", lane.detail));
      const text = make("div", "text");
      text.dir = "auto";
      text.setAttribute("role", "group");
      text.setAttribute("aria-label", "Answer " + LETTERS[at] + ", " + lane.title);
      const stats = make("footer", "", "");
      pane.append(head, text, stats);
      lanes.set(lane.name, { ...lane, at, hue: lane.aligned ? hue++ : 0, steps: [], gated: 0, text, stats, ended: null });
      return pane;
    })
  );
}

function colour(step) {
  const { of } = QUANTITIES[quantity];
  step.node.style.backgroundColor = shade(quantity, of(step));
}

function chooseColour(chosen) {
  quantity = chosen;
  part("scale-place").replaceChildren(legend(quantity));
  for (const lane of lanes.values()) lane.steps.forEach(colour);
}

function append(lane, news) {
  if (news.i !== lane.steps.length) return; // seen before, or one is missing
  const [rankP, rank] = news.ranks;
  const step = { ...news, rankP, rank, weight: news.candidates.map((candidate) => candidate[3]) };
  lane.steps.push(step);
  lane.gated += step.gated;
  const token = make("span", "token");
  token.dataset.i = step.i;
  token.tabIndex = step.i ? -1 : 0;
  spell(token, step.text, false);
  if (step.gated) token.classList.add("gated");
  if (step.other) token.classList.add("other");
  token.setAttribute("aria-label", quoted(step.text) + (step.gated ? ", gated" : step.other ? ", changed" : ""));
  lane.text.append(token);
  step.node = token;
  colour(step);
  compare(lane, step.i);
}

// Where a lane first says something else than the first one, which is the base if that was asked for.
function compare(lane, i) {
  const base = lanes.values().next().value;
  for (const other of lane === base ? lanes.values() : [lane]) {
    if (other === base || parted.has(other.name)) continue;
    const [ours, theirs] = [base.steps[i], other.steps[i]];
    if (!ours || !theirs || ours.token === theirs.token) continue;
    parted.add(other.name);
    theirs.node.classList.add("parting");
    ours.node.classList.add("parting");
    const line = make("p");
    const jump = make("button", "", quoted(theirs.text));
    jump.onclick = () => choose(other, i, true);
    line.append(
      make("b", "", other.title), ` parts from ${base.aligned ? "A" : "the base"} at token ${i + 1}: `, make("span", "", quoted(ours.text)), " → ", jump
    );
    part("part").append(line);
  }
}

function tell(lane, facts) {
  lane.stats.replaceChildren(...facts.map((fact) => make("span", "", fact)));
}

function close(summary) {
  const lane = lanes.get(summary.lane);
  if (!lane || lane.ended) return;
  lane.ended = summary;
  const last = lane.steps.at(-1);
  if (summary.done === "eos" && last && !last.text) {
    spell(last.node, "", true);
    last.node.setAttribute("aria-label", "end of the answer");
  }
  const facts = [
    `${summary.tokens} tokens`,
    `${summary.tokens_per_s.toFixed(0)}/s`,
    ENDED[summary.done],
    `first after ${duration(summary.first_token_ms)}`,
  ];
  if (lane.aligned) facts.push(`gated ${Math.round(100 * summary.gated_share)}%`, `mean KL ${summary.mean_kl.toFixed(2)}`);
  tell(lane, facts);
}

function progress(lane) {
  if (lane.ended) return;
  const now = performance.now();
  lane.began ??= now;
  const rate = lane.steps.length > 1 ? ((lane.steps.length - 1) / (now - lane.began)) * 1000 : 0;
  const facts = [`${lane.steps.length} tokens`, ...(rate ? [`${rate.toFixed(0)}/s`] : [])];
  if (lane.aligned) facts.push(`gated ${Math.round((100 * lane.gated) / lane.steps.length)}%`);
  tell(lane, facts);
}

// The candidates of one token, as bars on one axis.
function show(lane, i) {
  const step = lane.steps[i];
  const head = make("header");
  head.append(make("span", "letter", LETTERS[lane.at]), make("h3", "", quoted(step.text)), make("small", "", `token ${i + 1}`));
  const said = step.candidates[step.base];
  let why = "Drawn by the base.";
  if (lane.aligned) {
    if (step.gated) why = "Gated: KL is above the threshold, so this was drawn as the base draws.";
    else if (step.other) why = `The base would have said ${quoted(said[0])} here; the aligner's weights decided otherwise.`;
    else why = "The base would have said the same.";
  }
  const facts = make("p", "facts");
  const items = [`nucleus ${step.nucleus} tokens`, `entropy ${step.entropy.toFixed(2)}`];
  if (lane.aligned) items.unshift(`KL ${step.kl.toFixed(2)}`, `support ${percent(step.support)}`, `push ${signed(step.push)}`);
  items.forEach((item) => facts.append(make("span", "", item)));
  const table = make("div", "bars");
  table.setAttribute("role", "table");
  const top = Math.max(...step.candidates.flatMap((c) => (lane.aligned ? c.slice(1) : [c[1], c[3]])), 0.01);
  const key = make("p", "key-row");
  key.append(make("span", "swatch p", "P, the proposal"));
  if (lane.aligned) key.append(make("span", "swatch q", "Q, the aligner"));
  key.append(make("span", "swatch w", lane.aligned ? "weight, what is drawn from" : "what is drawn from (P sharpened by T)"));
  step.candidates.forEach((candidate, n) => {
    const row = make("div", "row" + (n === step.chosen ? " chosen" : ""));
    row.setAttribute("role", "row");
    const name = make("span", "name", quoted(candidate[0]));
    name.setAttribute("role", "cell");
    if (n === step.chosen) name.append(make("em", "", "drawn"));
    if (n === step.base && lane.aligned) name.append(make("em", "", "base"));
    const bars = make("span", "set");
    bars.setAttribute("role", "cell");
    ["p", "q", "w"].forEach((kind, k) => {
      if (kind === "q" && !lane.aligned) return;
      const line = make("span", "line");
      const bar = make("b", "bar " + kind);
      bar.style.width = Math.max(0.4, (100 * candidate[k + 1]) / top) + "%";
      const track = make("span", "track");
      track.append(bar);
      line.append(track, make("span", "value", percent(candidate[k + 1])));
      bars.append(line);
    });
    row.append(name, bars);
    table.append(row);
  });
  part("detail").replaceChildren(head, make("p", "why", why), facts, key, table);
}

function choose(lane, i, pin) {
  looked?.classList.remove("looked");
  looked = lane.steps[i].node;
  looked.classList.add("looked");
  if (pin) {
    pinned = { lane, i };
    lane.text.querySelectorAll('.token[tabindex="0"]').forEach((node) => (node.tabIndex = -1));
    lane.steps[i].node.tabIndex = 0;
    lane.steps[i].node.focus({ preventScroll: false });
  }
  show(lane, i);
}

function found(target) {
  const node = target.closest?.(".token");
  if (!node) return null;
  const lane = [...lanes.values()].find((l) => l.text.contains(node));
  return lane && { lane, i: Number(node.dataset.i) };
}

element.addEventListener("click", (event) => {
  const at = found(event.target);
  if (at) choose(at.lane, at.i, true);
});
element.addEventListener("mouseover", (event) => {
  const at = pinned ? null : found(event.target);
  if (at) choose(at.lane, at.i, false);
});
element.addEventListener("keydown", (event) => {
  const at = found(event.target);
  if (!at) return;
  const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (move) {
    const next = at.i + move;
    if (at.lane.steps[next]) choose(at.lane, next, true);
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const all = [...lanes.values()];
    const lane = all[(at.lane.at + (event.key === "ArrowDown" ? 1 : all.length - 1)) % all.length];
    if (lane.steps.length) choose(lane, Math.min(at.i, lane.steps.length - 1), true);
  } else if (event.key === "Enter" || event.key === " ") choose(at.lane, at.i, true);
  else if (event.key === "Escape") pinned = null;
  else return;
  event.preventDefault();
});

// KL(P || Q) of the aligned lanes, token by token: drawn from what the panes hold.
function timeline() {
  const shown = [...lanes.values()].filter((lane) => lane.aligned && lane.steps.length);
  const place = part("timeline");
  if (!shown.length) return place.replaceChildren();
  const width = place.clientWidth || 600;
  const longest = Math.max(20, ...shown.map((lane) => lane.steps.length));
  const highest = 1.08 * Math.max(0.5, ...shown.flatMap((lane) => [lane.tau ?? 0, ...lane.steps.map((step) => step.kl)]));
  const x = (i) => EDGE.left + ((width - EDGE.left - EDGE.right) * (i + 0.5)) / longest;
  const y = (kl) => HEIGHT - EDGE.bottom - ((HEIGHT - EDGE.top - EDGE.bottom) * kl) / highest;
  const plot = draw("svg", { width, height: HEIGHT, role: "img", "aria-label": summary(shown) });
  grid(plot, width, y, 0, highest);
  countAlong(plot, width, (i) => x(i - 1), longest);
  for (const lane of shown) {
    const colour = COLOURS[lane.hue % COLOURS.length];
    if (lane.tau !== null)
      plot.append(draw("line", { stroke: colour, "stroke-dasharray": "5 4", x1: EDGE.left, x2: width - EDGE.right, y1: y(lane.tau), y2: y(lane.tau) }));
    const points = lane.steps.map((step) => `${x(step.i).toFixed(1)},${y(step.kl).toFixed(1)}`);
    plot.append(draw("polyline", { points: points.join(" "), fill: "none", stroke: colour, "stroke-width": 1.6, "stroke-linejoin": "round" }));
    const gated = lane.steps.filter((step) => step.gated).map((step) => `M${x(step.i).toFixed(1)} ${(y(step.kl) - 4).toFixed(1)}l4 4l-4 4l-4 -4z`);
    if (gated.length) plot.append(draw("path", { class: "diamonds", d: gated.join(""), stroke: colour }));
  }
  const mark = draw("line", { class: "cursor", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" });
  plot.append(mark);
  const at = (event) => {
    const i = Math.floor(((event.clientX - plot.getBoundingClientRect().left - EDGE.left) * longest) / (width - EDGE.left - EDGE.right));
    return shown.filter((lane) => lane.steps[i]).map((lane) => [lane, i])[0];
  };
  plot.addEventListener("pointermove", (event) => {
    const there = at(event);
    mark.setAttribute("visibility", there ? "visible" : "hidden");
    if (!there) return;
    mark.setAttribute("x1", x(there[1]));
    mark.setAttribute("x2", x(there[1]));
    if (!pinned) choose(...there, false);
  });
  plot.addEventListener("pointerleave", () => mark.setAttribute("visibility", "hidden"));
  plot.addEventListener("click", (event) => {
    const there = at(event);
    if (there) choose(...there, true);
  });
  const key = make("p", "key-row");
  key.append(make("b", "", "KL of proposal and aligner along the answer, in nats"));
  shown.forEach((lane) => {
    const name = make("span", "line-key", lane.title);
    name.style.setProperty("--line", COLOURS[lane.hue % COLOURS.length]);
    key.append(name);
  });
  if (shown.some((lane) => lane.gated)) key.append(make("span", "", "◇ gated"));
  if (shown.some((lane) => lane.tau !== null)) key.append(make("span", "", "┅ the gate's threshold"));
  place.replaceChildren(key, plot);
}

function summary(shown) {
  const each = shown.map((lane) => {
    const top = lane.steps.reduce((best, step) => (step.kl > best.kl ? step : best));
    return `${lane.title}: highest ${top.kl.toFixed(2)} at token ${top.i + 1} of ${lane.steps.length}`;
  });
  return "KL of proposal and aligner, token by token, in nats. " + each.join("; ");
}

function say(state, note) {
  stage.dataset.state = state;
  if (part("note").textContent !== note) part("note").textContent = note;
}

function hear(news) {
  say(news.state, news.note);
  if (news.lanes.length && !lanes.size) lay(news.lanes);
  news.steps.forEach((step) => append(lanes.get(step.lane), step));
  new Set(news.steps.map((step) => step.lane)).forEach((name) => progress(lanes.get(name)));
  news.traces.forEach(close);
  const over = news.state === "ended" || news.state === "failed";
  part("door").hidden = !(over && [...lanes.values()].some((lane) => lane.steps.length));
  if (lanes.size && (over || performance.now() - drawn > DRAW_MS)) {
    timeline();
    drawn = performance.now();
  }
}

// Ask for what is new until the run is over, or another one is on the stage.
async function follow(id) {
  let heard = 0;
  let failures = 0;
  while (run === id) {
    let news;
    try {
      news = await server.whats_new({ run: id, heard });
      if (!news) throw new Error("no answer");
      failures = 0;
    } catch (error) {
      if (++failures > 20) return say("failed", "The server does not answer; reload the page to go on.");
      await new Promise((done) => setTimeout(done, WAIT_MS));
      continue;
    }
    if (run !== id) return;
    hear(news);
    heard = news.heard;
    if (news.state === "ended" || news.state === "failed") return;
    await new Promise((done) => setTimeout(done, news.state === "running" ? ASK_MS : WAIT_MS));
  }
}

function update(value) {
  if (value.run === run) return;
  run = value.run;
  stage.dataset.run = run || "";
  part("door").hidden = true;
  clear();
  say(run ? "opening" : "empty", run ? "Getting ready…" : "");
  if (run) follow(run);
}

part("door").onclick = () => openInspector(props.door ? props.door(run) : { run });
colourChoice(part("colour-place"), quantity, chooseColour);
chooseColour(quantity);
new ResizeObserver(() => timeline()).observe(part("panes"));
watch("value", () => update(JSON.parse(props.value)));
update(JSON.parse(props.value));
if (!run) say("empty", "");
