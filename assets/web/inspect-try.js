// What if: strengths, gate and mode of one lane, turned by hand, and at once which tokens they would decide otherwise.
// `whatif.js` decides; this strip asks it, and says in words what came out. A lane's `tries` are the settings in place.

const STRONGEST_ASKED = 3; // of the strength's slider, or twice the lane's own

// Before it is shown: what a lane tries (its own settings), and what its gates do under them. tries: null if it cannot.
function settle(lane) {
  const { trace } = lane;
  const { mode, strengths, taus } = trace.own;
  const by = (values) => Object.fromEntries(trace.aligners.map((name, k) => [name, values[k]]));
  lane.whyNot = lane.aligned ? canRecut(trace) : "";
  lane.tries = lane.aligned && !lane.whyNot ? { mode, strengths: by(strengths), taus: by(taus) } : null;
  lane.asIs = JSON.stringify(lane.tries);
  lane.now = { taus: by(taus), gated: trace.steps.map((step) => step.gated) };
  lane.result = null;
}
const differs = (lane) => Boolean(lane.tries) && JSON.stringify(lane.tries) !== lane.asIs;

function whatIf(place, { changed, goOn, look }) {
  let lane = null;
  let controls = []; // of each: a call that shows the lane's tries
  let waits = false;
  const said = make("p", "said");
  said.setAttribute("role", "status");

  function show(other) {
    place.hidden = !other;
    if (!other || (other === lane && place.firstChild)) return;
    lane = other;
    controls = [];
    const title = make("h3", "", "What if");
    const whose = make("small", "", `${LETTERS[lane.at]}, ${visible(lane.title)}, had been decided otherwise?`);
    if (!lane.tries) return place.replaceChildren(title, make("p", "said", lane.whyNot));
    const { trace } = lane;
    const knobs = make("div", "knobs-row");
    trace.aligners.forEach((name, k) => knobs.append(strength(name, trace.own.strengths[k], trace.aligners.length > 1)));
    knobs.append(gate(), mode(), button("plain reset", "Reset", () => set(JSON.parse(lane.asIs))));
    place.replaceChildren(title, whose, knobs, said);
    tell();
  }

  // A slider and the number beside it.
  function pair(words, top, step, read, write) {
    const label = make("label", "knob");
    const range = Object.assign(make("input"), { type: "range", min: 0, max: top, step });
    const number = Object.assign(make("input"), { type: "number", min: 0, step: "any" });
    number.setAttribute("aria-label", words + ", as a number");
    range.setAttribute("aria-label", words);
    range.oninput = () => write(Number(range.value));
    number.onchange = () => Number.isFinite(number.valueAsNumber) && number.valueAsNumber >= 0 && write(number.valueAsNumber);
    controls.push(() => {
      const value = read();
      range.disabled = number.disabled = value === null;
      if (value === null) return;
      range.value = value;
      if (document.activeElement !== number) number.value = +value.toFixed(3);
    });
    label.append(make("span", "", words), range, number);
    return label;
  }

  const strength = (name, own, several) =>
    pair(several ? `Strength of ${visible(name)}` : "Strength", Math.max(STRONGEST_ASKED, 2 * own), 0.05,
      () => lane.tries.strengths[name], (value) => set({ ...lane.tries, strengths: { ...lane.tries.strengths, [name]: value } }));

  function gate() {
    const top = Math.max(0.5, ...lane.trace.steps.flatMap((step) => step.monitors.map(({ kl }) => kl)));
    const taus = () => Object.values(lane.tries.taus);
    const box = make("div", "gate");
    const label = make("label", "switch");
    const on = Object.assign(make("input"), { type: "checkbox" });
    // Switched on it gates the half of the tokens that differ most: a place to start dragging from.
    const kls = lane.trace.steps.map((step) => step.kl).sort((a, b) => a - b);
    on.onchange = () => setGate(on.checked ? +(kls[kls.length >> 1] ?? 1).toFixed(2) : null);
    label.append(on, make("span", "", "Gate"));
    controls.push(() => (on.checked = taus().some((tau) => tau !== null)));
    box.append(label, pair("KL above", +(1.05 * top).toFixed(2), +(top / 400).toPrecision(1), () => taus().find((tau) => tau !== null) ?? null, setGate));
    return box;
  }

  const setGate = (tau) => set({ ...lane.tries, taus: Object.fromEntries(lane.trace.aligners.map((name) => [name, tau])) });

  function mode() {
    const label = make("label", "knob");
    const choice = make("select");
    for (const name of FOUR_MODES) {
      const lack = canRecut(lane.trace, { mode: name });
      choice.append(Object.assign(make("option", "", name), { value: name, disabled: Boolean(lack), title: lack }));
    }
    choice.onchange = () => set({ ...lane.tries, mode: choice.value });
    controls.push(() => (choice.value = lane.tries.mode));
    label.append(make("span", "", "Mode"), choice);
    return label;
  }

  // Many moves of a slider within one frame are one recut.
  function set(tries) {
    lane.tries = tries;
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      again();
    });
  }

  function again() {
    const lack = canRecut(lane.trace, lane.tries);
    lane.result = differs(lane) && !lack ? recut(lane.trace, lane.tries) : null;
    lane.now = { taus: lane.tries.taus, gated: lane.result?.gated ?? lane.trace.steps.map((step) => step.gated) };
    tell(lack);
    changed(lane);
  }

  function tell(lack = "") {
    controls.forEach((control) => control());
    place.querySelector(".reset").disabled = !differs(lane);
    if (lack) return said.replaceChildren(lack);
    if (!lane.result) return said.replaceChildren("As it was decided. Turn a knob, or drag the gate's threshold below, to see which tokens would be others; nothing is generated.");
    const { count, first } = lane.result;
    const of = lane.trace.steps.length;
    if (!count) return said.replaceChildren(`All ${of} tokens would be the same.`);
    const i = lane.trace.first + first;
    const jump = button("", `token ${i + 1}`, () => look(lane, i));
    const parts = [`${count} of ${of} tokens would be decided otherwise; the first is `, jump, `: ${wouldBe(lane, i)} instead of ${saidAt(lane, i)}. `];
    if (count > 1 || i + 1 < lengthOf(lane)) parts.push("After it the words before would be others, so what is ringed further on is what would be chosen in this context. ");
    if (goOn) parts.push(button("go", "Continue from here", () => goOn(lane, i)));
    said.replaceChildren(...parts);
  }

  return { show, setGate: (other, tau) => (show(other), setGate(+tau.toFixed(3))) };
}

const wouldBe = (lane, i) => wordFor(lane, lane.result.tokens[i - lane.trace.first]);

// Token -> what it would be, in quotes, of all that would change.
function changesOf(lane) {
  const would = new Map();
  if (lane.result) lane.result.changed.forEach((is, k) => is && would.set(lane.trace.first + k, wouldBe(lane, lane.trace.first + k)));
  return would;
}
