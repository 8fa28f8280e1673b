// Decodes a lane's trace, version 1 (`decoding/record.py` makes it), into columns and steps that a page reads at once.
// Knows nothing of pages, nor of what is asked of a lane: `whatif.js` asks. Stands before the scripts that use it.
// Whatever is not as the version says throws an Error with one sentence, and leaves the lane as it was.

const TRACE_NUMBERS = {
  token: "token",
  base_token: "baseToken",
  kl: "kl",
  gated: "gated",
  nucleus: "nucleus",
  support: "support",
  entropy: "entropy",
  push: "push",
  ms: "ms",
  rank_p: "rankP",
  rank: "rank",
  mass: "mass",
  compose: "compose",
}; // a step's numbers: name in the record -> name here

// A whole record. Returns the lane; see `openTrace`.
function decodeTrace(record) {
  if (record?.version !== 1) throw traceError(`its version is ${record?.version}, and this page reads version 1`);
  const lane = openTrace(record);
  appendSteps(lane, record);
  return lane;
}

// A lane without steps, from a record's `lane` and `settings`; the rest of its head may follow at the end.
function openTrace(head) {
  const settings = head.settings;
  const weighers = traceOwn(settings?.lanes, head.lane);
  if (!Array.isArray(weighers)) throw traceError("its settings do not name its lane's aligners");
  const mode = traceOwn(settings.modes, head.lane);
  if (typeof mode !== "string" || !(settings.temperature >= 0))
    throw traceError("its settings lack the mode or the temperature");
  for (const { name, beta, tau } of weighers)
    if (typeof name !== "string" || !(beta >= 0) || !(tau === null || Number.isFinite(tau)))
      throw traceError("its settings lack an aligner's name, strength or gate");
  const aligners = weighers.map((weigher) => weigher.name);
  const [strengths, taus] = [weighers.map((weigher) => weigher.beta), weighers.map((weigher) => weigher.tau)];
  return {
    name: head.lane,
    head, // as it was told: done, text, tokens and so on
    settings,
    aligners, // names; none for the base
    own: { mode, temperature: settings.temperature, strengths, taus },
    voices: aligners.length ? aligners : ["base"], // whose log Q was kept
    first: 0, // tokens that were forced before the first step
    steps: [], // TraceSteps
    words: new Map(), // token -> its text
    kept: null, // the candidates of all steps, one after the other: typed arrays that may be longer than `length`
  };
}

// The end of a lane whose steps came in parts: the rest of its head.
function endTrace(lane, head) {
  if (head.lane !== lane.name) throw traceError(`${head.lane} ended, and this is ${lane.name}`);
  lane.head = head;
}

// Further steps of a lane: `steps`, `candidates` and `words` as in a record.
function appendSteps(lane, part) {
  const { steps, candidates, words } = part;
  for (const each of [steps, candidates, words])
    if (!each || typeof each !== "object") throw traceError("steps, candidates or words are missing");
  const size = steps.token?.length;
  const numbers = {};
  for (const name in TRACE_NUMBERS) numbers[name] = traceNumbers(steps, name, size);
  numbers.kl = numbers.kl.map(Math.fround);
  const texts = traceList(steps, "text", size, (text) => typeof text === "string");
  const monitors = traceMonitors(lane, steps, numbers, size);
  const counts = traceList(candidates, "count", size, Number.isInteger);
  const inside = traceList(candidates, "inside", size, Number.isInteger);
  const fresh = traceCandidates(lane, candidates, counts.reduce((sum, count) => sum + count, 0));
  const first = lane.steps.length ? lane.first : steps.first;
  if (!Number.isInteger(first) || steps.first !== first + lane.steps.length)
    throw traceError(`its steps begin at ${steps.first}, where ${first + lane.steps.length} comes next`);

  const known = new Map(Object.entries(words).map(([token, text]) => [Number(token), text]));
  for (const text of known.values()) if (typeof text !== "string") throw traceError("a word is not a text");
  for (const token of fresh.id)
    if (!known.has(token) && !lane.words.has(token)) throw traceError(`it has no word for token ${token}`);

  const before = lane.kept ? lane.kept.length : 0;
  let start = before;
  const added = texts.map((text, n) => {
    const own = { index: steps.first + n, text, monitors: monitors[n], start, count: counts[n], inside: inside[n] };
    for (const name in TRACE_NUMBERS) own[TRACE_NUMBERS[name]] = numbers[name][n];
    own.gated = Boolean(own.gated);
    if (!(own.inside >= 1 && own.inside <= own.count)) throw traceError(`step ${own.index + 1} keeps no candidates`);
    if (!(own.mass > 0)) throw traceError(`step ${own.index + 1} has a nucleus without mass`);
    own.chosen = traceFind(fresh.id, start - before, own.inside, own.token);
    own.base = traceFind(fresh.id, start - before, own.inside, own.baseToken);
    if (own.chosen < 0 || own.base < 0) throw traceError(`step ${own.index + 1} lacks the candidate that was drawn`);
    start += own.count;
    return new TraceStep(lane, own);
  });

  lane.kept = lane.kept ? traceJoin(lane.kept, fresh) : fresh;
  lane.first = first;
  for (const [token, text] of known) lane.words.set(token, text);
  for (const step of added) lane.steps.push(step);
}

// One token with everything that decided it. Of its candidates the first `inside` of `count` are in N. Its arrays are
// views that hold until further steps are appended: ask anew each time.
class TraceStep {
  #lane;

  // own: index (in the whole answer), text, the numbers above, monitors [{name, kl, gated, support}] by aligner; start,
  // count and inside of its candidates; chosen and base: which of them was drawn, and which the base would have drawn
  constructor(lane, own) {
    this.#lane = lane;
    Object.assign(this, own);
  }
  #of(column) {
    return column && column.subarray(this.start, this.start + this.count);
  }
  #voice(name) {
    return this.#lane.voices.indexOf(name);
  }

  get ids() {
    return this.#of(this.#lane.kept.id);
  }
  get texts() {
    return Array.from(this.ids, (token) => this.#lane.words.get(token));
  }
  // log softmax(l_P / T_P) over V; and log Pt, which is the same over N's mass (1)
  get logP() {
    return this.#of(this.#lane.kept.logP);
  }
  get logPt() {
    const log = Math.log(this.mass);
    return Float64Array.from(this.logP, (p) => p - log);
  }
  // log Q_i and log Q0_i of one aligner; null where they were not kept
  logQOf(name) {
    return this.#of(this.#lane.kept.logQ[this.#voice(name)]) ?? null;
  }
  logQ0Of(name) {
    return this.#of(this.#lane.kept.logQ0[this.#voice(name)]) ?? null;
  }
  // log of the product of all Q_i, normalised over V (6)
  get logQ() {
    const all = this.#lane.kept.logQ.map((column) => this.#of(column));
    return Float64Array.from(all[0], (_, j) => all.reduce((sum, q) => sum + q[j], -this.compose));
  }
  // G of (9), NaN where it was not kept
  get noise() {
    return this.#of(this.#lane.kept.noise);
  }
  // how often `sis` drew each (3)
  get draws() {
    return this.#of(this.#lane.kept.draws);
  }
  // pi, 0 outside N
  get weight() {
    return this.#of(this.#lane.kept.weight);
  }
}

function traceError(what) {
  return new Error(`This trace cannot be read: ${what}.`);
}

function traceMissing(column) {
  return traceError(`the column ${column} is missing or of another length`);
}

// Names come from people, and one may be called as something that every object has.
function traceOwn(object, name) {
  return object && Object.hasOwn(object, name) ? object[name] : undefined;
}

function traceList(columns, name, size, good) {
  const list = columns[name];
  if (!Array.isArray(list) || list.length !== size) throw traceMissing(name);
  if (!list.every(good)) throw traceError(`the column ${name} holds something else than it should`);
  return list;
}

function traceNumbers(columns, name, size) {
  return traceList(columns, name, size, Number.isFinite);
}

// Of each step, what each aligner's own gate saw (7). Where there is one aligner, the step's numbers are its own. KL is
// written in the fewest digits that tell its float32; as that it is compared with thresholds, as in the run.
function traceMonitors(lane, steps, numbers, size) {
  const keys = ["kl", "gated", "support"];
  const columns = lane.aligners.map((name) => {
    if (lane.aligners.length === 1) return { name, kl: numbers.kl, gated: numbers.gated, support: numbers.support };
    const own = traceOwn(steps.monitors, name);
    if (!own) throw traceError(`it has no monitor of ${name}`);
    const { kl, ...others } = Object.fromEntries(keys.map((key) => [key, traceNumbers(own, key, size)]));
    return { name, kl: kl.map(Math.fround), ...others };
  });
  return Array.from({ length: size }, (_, n) =>
    columns.map(({ name, kl, gated, support }) => ({ name, kl: kl[n], gated: Boolean(gated[n]), support: support[n] }))
  );
}

function traceCandidates(lane, candidates, length) {
  const column = (name, Kind) => tracePacked(candidates[name], name, Kind, length);
  const logs = (text, name) => {
    const values = tracePacked(text, name, Float32Array, length);
    if (!values.every((value) => value < Infinity)) throw traceError(`${name} holds something that is not a number`);
    return values;
  };
  const kept = {
    length,
    id: column("id", Int32Array),
    logP: logs(candidates.log_p, "log_p"), // -Infinity where a token is ruled out
    noise: column("noise", Float32Array),
    draws: column("draws", Int32Array),
    weight: logs(candidates.weight, "weight"),
    logQ: lane.voices.map((name) => logs(traceOwn(candidates.log_q, name), `log_q of ${name}`)),
    logQ0: lane.voices.map((name) => {
      const text = traceOwn(candidates.log_q0, name);
      return text === undefined ? null : logs(text, `log_q0 of ${name}`);
    }),
  };
  if (lane.kept && kept.logQ0.some((column, k) => !column !== !lane.kept.logQ0[k]))
    throw traceError("log_q0 is kept of some steps and not of others");
  return kept;
}

// base64 of a little-endian array, which is how every machine that shows pages has them in memory.
function tracePacked(text, name, Kind, length) {
  let bytes = null;
  try {
    if (typeof text === "string") bytes = atob(text);
  } catch {
    // not base64: said below
  }
  if (bytes?.length !== length * Kind.BYTES_PER_ELEMENT) throw traceMissing(name);
  const packed = new Uint8Array(bytes.length);
  for (let i = 0; i < packed.length; i++) packed[i] = bytes.charCodeAt(i);
  return new Kind(packed.buffer);
}

function traceFind(ids, start, inside, token) {
  for (let j = 0; j < inside; j++) if (ids[start + j] === token) return j;
  return -1;
}

// The candidates of two parts as one. Room doubles, so that a streamed answer is copied a few times, not at each step.
function traceJoin(old, fresh) {
  const length = old.length + fresh.length;
  const join = (a, b) => {
    if (Array.isArray(a)) return a.map((each, k) => join(each, b[k]));
    if (a === null) return null;
    let joined = a;
    if (joined.length < length) {
      joined = new a.constructor(Math.max(length, 2 * a.length));
      joined.set(a.subarray(0, old.length));
    }
    joined.set(b, old.length);
    return joined;
  };
  const columns = Object.keys(old).filter((name) => name !== "length");
  return { length, ...Object.fromEntries(columns.map((name) => [name, join(old[name], fresh[name])])) };
}
