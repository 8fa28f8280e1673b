// What if: a decoded lane (`trace.js`) decided again under another mode, other strengths or other gates, with the same
// candidates and the same noise; and in words, why each token was drawn. Pure; knows nothing of pages. Numbers in
// brackets are design's formulas, here in float64 over the candidates that were kept: every possible winner is there.
//
// settings, everywhere: {mode, strengths: {aligner: beta}, taus: {aligner: threshold, null for none}}; what is left out
// is the lane's own. The final temperature stays: candidates were kept that can win at it. Each context is the recorded
// one, so a recut is exact up to and including the first token that changes. i: an index of lane.steps.

const FOUR_MODES = ["product", "sis", "par", "ratio"];
const TIED = 1e-6; // scores this near are equal, and the recorded token stays
const TIED_AS_IT_WAS = 1e-4; // where nothing is changed: the run decided in float32

// "" if the lane can be decided again under these settings, else a sentence that says why not.
function canRecut(lane, settings = {}) {
  const asked = whatAsked(lane, settings);
  for (const step of lane.steps) {
    if (Number.isNaN(lane.kept.noise[step.start + step.chosen]))
      return "This answer was made before traces kept what a recut needs.";
    const lack = whatLacks(lane, step, asked.mode, whatWeighs(step, asked));
    if (lack) return lack;
  }
  return "";
}

// Decides every step again. Returns, by step: the ids decided (`tokens`), whether each is another one than was drawn
// (`changed`), whether all aligners are gated (`gated`), and whether each is (`gates`, in the order of lane.aligners);
// and over all: the first step that changes (`first`, -1 for none), and how many do (`count`).
function recut(lane, settings = {}) {
  const lack = canRecut(lane, settings);
  if (lack) throw new Error(lack);
  const asked = whatAsked(lane, settings);
  const size = lane.steps.length;
  const [tokens, changed, gated] = [new Int32Array(size), new Uint8Array(size), new Uint8Array(size)];
  const gates = lane.aligners.map(() => new Uint8Array(size));
  let [first, count] = [-1, 0];
  for (let i = 0; i < size; i++) {
    const step = lane.steps[i];
    const betas = whatWeighs(step, asked);
    let closed = 0;
    for (let k = 0; k < gates.length; k++) closed += gates[k][i] = whatGated(step, asked, k);
    gated[i] = closed && closed === gates.length;
    tokens[i] = lane.kept.id[step.start + whatDrawn(lane, step, asked, betas)];
    if (tokens[i] === step.token) continue;
    changed[i] = 1;
    if (!count++) first = i;
  }
  return { tokens, changed, gated, gates, first, count };
}

// pi over the step's kept candidates, 0 outside N: pi ∝ w^(1/T), and Pt^(1/T) where nothing weighs (2)-(7).
function weights(lane, i, settings = {}) {
  const { step, asked, betas } = whatAt(lane, i, settings);
  const pi = new Float64Array(step.count);
  if (asked.temperature < 1e-6) {
    pi[whatDrawn(lane, step, asked, betas)] = 1;
    return pi;
  }
  const log = whatLogWeights(lane, step, asked.mode, betas).map((w) => w / asked.temperature);
  const whole = whatLogSum(log);
  for (let j = 0; j < step.inside; j++) pi[j] = Math.exp(log[j] - whole);
  return pi;
}

// The same step under each mode: [{mode, lack, weights, token}]. Where a mode cannot be had, `lack` says why and the
// rest is null; where only the noise was not kept, the token alone is null.
function modes(lane, i, settings = {}) {
  return FOUR_MODES.map((mode) => {
    const asked = whatAsked(lane, { ...settings, mode });
    const step = lane.steps[i];
    const betas = whatWeighs(step, asked);
    const lack = whatLacks(lane, step, mode, betas);
    if (lack) return { mode, lack, weights: null, token: null };
    const token = Number.isNaN(step.noise[step.chosen]) ? null : step.ids[whatDrawn(lane, step, asked, betas)];
    return { mode, lack, weights: weights(lane, i, { ...settings, mode }), token };
  });
}

// What moved each kept candidate, in nats, before the final temperature. For each one in N (outside it all are NaN)
//     start + the aligners' pushes + norm = total = log pi at T = 1.
// start: log Pt; for `par` 0, for `sis` log of how often it was drawn; `of` names it. An aligner's push is
// beta_i (log Q_i - c_i), for `ratio` with log Q_i - log Q0_i; c_i is the mean under Pt: what all get alike is no push.
function pushes(lane, i, settings = {}) {
  const { step, asked, betas } = whatAt(lane, i, settings);
  const none = () => new Float64Array(step.count).fill(NaN, step.inside);
  const logPt = step.logPt;
  const mean = (values) => {
    let [sum, mass] = [0, 0];
    for (let j = 0; j < step.inside; j++) {
      if (values[j] === -Infinity) continue; // ruled out
      sum += Math.exp(logPt[j]) * values[j];
      mass += Math.exp(logPt[j]);
    }
    return sum / mass;
  };
  const total = whatLogWeights(lane, step, asked.mode, betas);
  const whole = whatLogSum(total);
  let norm = -whole;
  const aligners = lane.aligners.map((name, k) => {
    const push = none();
    if (betas[k]) {
      for (let j = 0; j < step.inside; j++) push[j] = betas[k] * whatVoice(lane, asked.mode, k, step.start + j);
      const usual = mean(push);
      for (let j = 0; j < step.inside; j++) push[j] -= usual;
      norm += usual;
    }
    return { name, push };
  });
  const of = (betas.some((beta) => beta) && { par: "0", sis: "log draws" }[asked.mode]) || "log Pt";
  const start = none();
  for (let j = 0; j < step.inside; j++) {
    if (of === "log Pt") start[j] = logPt[j];
    else if (of === "log draws") start[j] = Math.log(step.draws[j]);
    total[j] -= whole;
  }
  return { of, start, aligners, norm, total: total.fill(NaN, step.inside) };
}

// Why this token was drawn, in sentences. quoted: how a token's text is put into one.
function why(lane, i, quoted = (text) => `“${text}”`) {
  const step = lane.steps[i];
  const asked = whatAsked(lane, {});
  const betas = whatWeighs(step, asked);
  const lack = whatLacks(lane, step, asked.mode, betas); // records made before keep less
  const said = quoted(lane.words.get(step.baseToken));
  const several = lane.aligners.length > 1;
  const sentences = lane.aligners.flatMap((name, k) => {
    if (!asked.strengths[k]) return [several ? `${name} has strength 0.` : "The aligner's strength is 0."];
    if (betas[k]) return [];
    const kl = +step.monitors[k].kl.toPrecision(4);
    return [`${several ? name : "The aligner"} is gated: its KL of ${kl} is above the threshold ${asked.taus[k]}.`];
  });
  const weighing = lane.aligners.filter((_, k) => betas[k]);
  const whose = { 1: several ? `${weighing[0]}'s` : "the aligner's" }[weighing.length] ?? "the aligners'";
  if (!lane.aligners.length) sentences.push("Drawn by the base.");
  else if (!weighing.length) sentences.push("So this was drawn as the base draws.");
  else if (step.token === step.baseToken) sentences.push("The base would have said the same.");
  else if (asked.mode === "sis" && !lack && !step.draws[step.base])
    sentences.push(`The base would have said ${said} here, which is not among the tokens drawn for ${whose} choice.`);
  else sentences.push(`The base would have said ${said} here; ${whose} weights decided otherwise.`);
  sentences.push(whatLuck(step, asked.temperature));
  if (!lack && step.token !== step.baseToken)
    lane.aligners.forEach((name, k) => {
      if (!betas[k]) return;
      const [token, base] = [step.chosen, step.base].map((j) => whatVoice(lane, asked.mode, k, step.start + j));
      const ratio = asked.mode === "ratio" ? ", against what it was tuned from," : "";
      const who = name + (betas[k] === 1 ? "" : ` at strength ${+betas[k].toFixed(2)}`) + ratio;
      sentences.push(whatFavour(who, betas[k] * (token - base), said));
    });
  return sentences;
}

// Which place the token has by its weight, and whether that or the noise made it win (9).
function whatLuck(step, temperature) {
  if (step.nucleus === 1) return "It was the only candidate.";
  if (temperature < 1e-6) return "It has the largest weight, and at temperature 0 that one is taken.";
  const weight = step.weight[step.chosen];
  const share = weight < 0.0005 ? "below 0.1%" : `${+(100 * weight).toFixed(weight < 0.0995 ? 1 : 0)}%`;
  if (step.rank === 1) return `It has the largest weight, ${share}.`;
  const last = step.rank % 100 > 10 && step.rank % 100 < 14 ? 0 : step.rank % 10;
  const place = step.rank + (["th", "st", "nd", "rd"][last] ?? "th");
  return `It has only the ${place} largest weight, ${share}, and the shared draw fell on it.`;
}

// odds: log of how many times an aligner multiplies those of the token against what the base would have said.
function whatFavour(who, odds, said) {
  const times = Math.exp(Math.abs(odds));
  if (times < 1.05) return `${who} favours neither it nor ${said}.`;
  const about = times < 9.95 ? times.toFixed(1) : Math.round(times).toLocaleString("en");
  const often = times < 10000 ? about : "more than 10,000";
  return odds > 0 ? `${who} favours it ${often} times over ${said}.` : `${who} favours ${said} ${often} times over it.`;
}

// The settings in full, by place in lane.aligners, and `betas`: room for what weighs at the step that is looked at.
function whatAsked(lane, { mode = lane.own.mode, strengths = {}, taus = {} }) {
  if (!FOUR_MODES.includes(mode)) throw new Error(`There is no mode ${mode}.`);
  const given = (asked, own) => lane.aligners.map((name, k) => (Object.hasOwn(asked, name) ? asked[name] : own[k]));
  return {
    mode,
    temperature: lane.own.temperature,
    strengths: given(strengths, lane.own.strengths),
    taus: given(taus, lane.own.taus).map((tau) => tau ?? Infinity),
    betas: new Float64Array(lane.aligners.length),
  };
}

// (7)
const whatGated = (step, asked, k) => (step.monitors[k].kl > asked.taus[k] ? 1 : 0);

// Each aligner's strength at this step, 0 where it is gated: asked.betas, filled anew.
function whatWeighs(step, asked) {
  for (let k = 0; k < asked.betas.length; k++) asked.betas[k] = whatGated(step, asked, k) ? 0 : asked.strengths[k];
  return asked.betas;
}

// "" or what the step lacks for this mode. Winners of `ratio` are kept only where every aligner's base is known.
function whatLacks(lane, step, mode, betas) {
  if (!betas.some((beta) => beta)) return "";
  const silent = betas.findIndex((beta, k) => beta && lane.kept.logQ[k][step.start + step.chosen] === -Infinity);
  if (silent >= 0) return `This trace does not hold what ${lane.aligners[silent]} said by itself.`;
  const rootless = mode === "ratio" ? lane.kept.logQ0.indexOf(null) : -1;
  if (rootless >= 0) return `This trace does not hold what ${lane.aligners[rootless]} was tuned from, and ratio needs it.`;
  if (mode !== "sis") return "";
  for (let j = step.start; j < step.start + step.inside; j++) if (lane.kept.draws[j]) return "";
  return "This trace does not hold the draws that sis chooses from.";
}

function whatAt(lane, i, settings) {
  const step = lane.steps[i];
  const asked = whatAsked(lane, settings);
  const betas = whatWeighs(step, asked);
  const lack = whatLacks(lane, step, asked.mode, betas);
  if (lack) throw new Error(lack);
  return { step, asked, betas };
}

// What the k-th aligner says of a candidate, given by its place among all: log Q_i, or log Q_i - log Q0_i for (5).
function whatVoice(lane, mode, k, at) {
  const { logQ, logQ0 } = lane.kept;
  return mode === "ratio" ? logQ[k][at] - logQ0[k][at] : logQ[k][at];
}

// log w of a candidate in N, before normalising and the final temperature; some beta is not 0. In product and ratio
// log P stands for log Pt: they differ by the same in every candidate (2)-(6).
function whatLogWeight(lane, mode, betas, at) {
  let log = mode === "par" ? 0 : mode === "sis" ? Math.log(lane.kept.draws[at]) : lane.kept.logP[at];
  for (let k = 0; k < betas.length; k++) if (betas[k]) log += betas[k] * whatVoice(lane, mode, k, at);
  return log;
}

// The same of all kept candidates of a step, -Infinity outside N; log Pt where nothing weighs. As `pushes` adds up.
function whatLogWeights(lane, step, mode, betas) {
  const weighed = betas.some((beta) => beta);
  const log = new Float64Array(step.count).fill(-Infinity);
  for (let j = 0; j < step.inside; j++)
    log[j] = weighed ? whatLogWeight(lane, mode, betas, step.start + j) : lane.kept.logP[step.start + j];
  const mass = weighed && (mode === "par" || mode === "sis") ? 1 : step.mass;
  return log.map((w) => w - Math.log(mass));
}

function whatLogSum(log) {
  const top = Math.max(...log);
  return top + Math.log(log.reduce((sum, w) => sum + Math.exp(w - top), 0));
}

// Which kept candidate is drawn (9): argmax of log w + T G, the base's own where nothing weighs.
function whatDrawn(lane, step, asked, betas) {
  const { mode, temperature } = asked;
  let weighed = false;
  let same = mode === lane.own.mode;
  for (let k = 0; k < betas.length; k++) {
    weighed ||= betas[k] > 0;
    same &&= betas[k] === (step.monitors[k].gated ? 0 : lane.own.strengths[k]);
  }
  if (!weighed) return step.base;
  let [best, top, own] = [step.chosen, -Infinity, -Infinity];
  for (let j = 0; j < step.inside; j++) {
    const log = whatLogWeight(lane, mode, betas, step.start + j);
    // Noise that was not kept is NaN, which is above nothing: such a candidate cannot win.
    const score = temperature < 1e-6 ? log : log + temperature * lane.kept.noise[step.start + j];
    if (score > top) [best, top] = [j, score];
    if (j === step.chosen) own = score;
  }
  return own >= top - (same ? TIED_AS_IT_WAS : TIED) ? step.chosen : best;
}
