// The board of training runs: asks for what is new, draws the two curves, says how far it is and how long it may take.
// The value is {run: name} as text: which run is looked at, for the buttons below. Texts enter through textContent alone.

const board = element.querySelector(".board");
const part = (name) => board.querySelector("." + name);
const ASK_MS = 1000;
const WORDS = { running: "▶ training", stopping: "◼ stopping", queued: "… waiting its turn", done: "✓ done", stopped: "◼ stopped", failed: "✕ failed", interrupted: "! interrupted" };
const STAGES = { load: "loading the model", synthesize: "the proposal answers the prompts", "warm-up": "warming up a new proposal", contrast: "turning the adapter away from the anchors", look: "scoring what is held out", cost: "timing a full fine-tune, to compare", calibrate: "calibrating strength and gate" };
const CAN = { "stop-run": ["running", "queued"], "resume-run": ["stopped", "failed", "interrupted"], "delete-run": ["done", "stopped", "failed", "interrupted"] };

let run = "";
let heard = 0;
let steps = new Map(); // step -> loss: a run that was resumed tells some of them again
let looks = new Map(); // step -> {loss, accuracy, nats_a_token}
let last = {}; // kind -> newest event of that kind
let seen = -1; // checkpoints whose samples are shown
let kept = null; // step of the checkpoint that did best on held-out examples
let began = null; // {at, step}: since when, and from which step, this process trains

const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
const time = (s) => (s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`);

function forget() {
  [steps, looks, last, kept, began, heard, seen] = [new Map(), new Map(), {}, null, null, 0, -1];
}

function hear(event) {
  last[event.kind] = event;
  if (event.kind === "started") began = null;
  if (event.kind === "stage") last.doing = event;
  if (["step", "held_out"].includes(event.kind)) last.doing = null;
  if (event.kind === "held_out") looks.set(event.step, event);
  if (event.kind === "checkpoint" && event.best) kept = event.step;
  if (event.kind === "step") {
    began = began || { at: event.at, step: event.step };
    steps.set(event.step, event.loss);
  }
}

function curves() {
  const place = part("curves");
  if (!steps.size) return place.replaceChildren();
  const width = place.clientWidth || 600;
  const height = 230;
  const edge = { left: 48, right: 14, top: 12, bottom: 26 };
  const total = last.step.total;
  const held = [...looks.values()].sort((a, b) => a.step - b.step);
  const losses = [...steps.entries()].sort((a, b) => a[0] - b[0]);
  const smooth = [];
  losses.forEach(([, loss], i) => smooth.push(i ? 0.85 * smooth[i - 1] + 0.15 * loss : loss));
  const all = [...losses.map((p) => p[1]), ...held.map((p) => p.loss)].filter(Number.isFinite);
  const highest = 1.03 * Math.max(...all, 1e-6);
  const lowest = Math.min(...all) > 0.3 * highest ? 0.95 * Math.min(...all) : 0;
  const x = (step) => edge.left + ((width - edge.left - edge.right) * step) / total;
  const y = (loss) => height - edge.bottom - ((height - edge.top - edge.bottom) * Math.max(0, loss - lowest)) / (highest - lowest);
  const words = `Loss at step ${last.step.step} of ${total}: ${last.step.loss.toFixed(2)}` + (held.length ? `; held out: ${held.at(-1).loss.toFixed(2)}` : "");
  const plot = draw("svg", { width, height, role: "img", "aria-label": words });
  grid(plot, width, y, lowest, highest, edge);
  countAlong(plot, width, x, total, height);
  const line = (points, attributes) =>
    plot.append(draw("polyline", { points: points.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" "), fill: "none", "stroke-linejoin": "round", ...attributes }));
  line(losses, { stroke: COLOURS[0], "stroke-width": 1, opacity: 0.35 });
  line(losses.map(([step], i) => [step, smooth[i]]), { stroke: COLOURS[0], "stroke-width": 2 });
  line(held.map((p) => [p.step, p.loss]), { stroke: COLOURS[1], "stroke-width": 2, "stroke-dasharray": "6 3" });
  const best = held.find((p) => p.step === kept);
  held.forEach((p) => plot.append(draw("circle", { cx: x(p.step), cy: y(p.loss), r: p === best ? 5 : 3, fill: COLOURS[1] })));
  const key = make("p", "key-row");
  key.append(make("b", "", "Loss, mean of an answer, by step"));
  [["training" + (last.data?.anchors ? ", anchors too" : ""), 0], ["held out" + (best ? `, best ${best.loss.toFixed(2)} at step ${best.step}` : ""), 1]].forEach(([name, i]) => {
    const item = make("span", "line-key", name);
    item.style.setProperty("--line", COLOURS[i]);
    key.append(item);
  });
  place.replaceChildren(key, plot);
}

function now(job) {
  const place = part("now");
  if (!job) return place.replaceChildren();
  let words = WORDS[job.state] || job.state;
  if (["running", "stopping"].includes(job.state) && last.doing) {
    const { stage, done, total } = last.doing;
    words += `: ${STAGES[stage]}` + (stage === "calibrate" ? `, ${done}%` : total > 1 ? `, ${done} of ${total}` : "");
  } else if (job.state === "running" && last.step && began) {
    const taken = last.step.step - began.step;
    const left = last.step.total - last.step.step;
    const each = taken ? (last.step.at - began.at) / taken : null;
    words += `, step ${last.step.step} of ${last.step.total}`;
    if (each !== null && left) words += `, about ${time(each * left)} to go, then calibration`;
  }
  if (job.note) words += `: ${job.note}`;
  const bar = make("progress");
  if (last.doing) Object.assign(bar, { max: last.doing.total, value: last.doing.done });
  else if (last.step) Object.assign(bar, { max: last.step.total, value: last.step.step });
  place.replaceChildren(make("span", "", words), ...(["running", "stopping"].includes(job.state) ? [bar] : []));
  place.dataset.state = job.state;
}

function told() {
  const lines = [];
  const { data, cost } = last;
  if (data) lines.push(`${data.training} examples to learn from, ${data.held_out} held out` + (data.anchors ? `, ${data.anchors} anchors, where it is to change nothing` : "") + `; ${data.form}` + (data.duplicates ? `; ${data.duplicates} repeated` : "") + (data.leaks ? `; ${data.leaks} held-out answers are also learnt` : ""));
  const look = last.held_out;
  if (look) lines.push(`held out: ${look.nats_a_token.toFixed(2)} nats a token` + (look.accuracy === null ? "" : `, the wanted answer likelier in ${(100 * look.accuracy).toFixed(0)}%`));
  if (cost) lines.push(`${time(cost.seconds)} of steps, ${cost.tokens_per_s.toFixed(0)} tokens/s, ${(cost.peak_memory / 2 ** 30).toFixed(1)} GB at most, ${((100 * cost.trainable) / cost.parameters).toFixed(1)}% of the weights trained`);
  const { coverage, full, proposal, calibration } = last;
  if (coverage) lines.push(`the proposal's own answers: distinct-1 ${coverage.distinct_1.toFixed(2)}, distinct-2 ${coverage.distinct_2.toFixed(2)}, Self-BLEU ${coverage.self_bleu.toFixed(0)}`);
  if (cost && full) lines.push(`a full fine-tune of the same ${last.step.step} steps would take about ${time(full.seconds_a_step * last.step.step)} here (${full.seconds_a_step.toFixed(1)} s a step, measured; this run ${(cost.seconds / last.step.step).toFixed(1)} s)`);
  if (proposal) lines.push(`the new proposal lies in ${proposal.path}: start the demo with RAM_DEMO_MODEL naming it`);
  if (calibration) lines.push(`calibrated on ${calibration.examples} held-out examples: strength ${calibration.beta}, gate ${calibration.tau === null ? "off" : calibration.tau}`);
  part("told").replaceChildren(...lines.map((line) => make("li", "", line)));
}

// The same prompts at each checkpoint; a slider goes back through them.
function samples(all) {
  const place = part("samples");
  if (!all.length) return place.replaceChildren();
  const kept = place.querySelector("input");
  const wasLast = !kept || kept.value === kept.max;
  const head = make("p", "key-row");
  const title = make("b");
  const slider = Object.assign(make("input"), { type: "range", min: 0, max: all.length - 1, value: wasLast ? all.length - 1 : kept.value });
  slider.setAttribute("aria-label", "checkpoint");
  const body = make("div");
  const show = () => {
    const { step, answers } = all[slider.value];
    title.textContent = `Answers at step ${step}`;
    slider.setAttribute("aria-valuetext", `step ${step}`);
    body.replaceChildren(
      ...answers.map((a) => {
        const row = make("div", "sample");
        const side = (name, text, small) => {
          const cell = make("div");
          cell.append(make("b", "", name), make("p", "", text || "(nothing)"), make("small", "", small));
          return cell;
        };
        const aligned = side("aligned", a.aligned, `${a.done === "eos" ? "ended by itself" : "cut off"}, KL ${a.kl.toFixed(2)}, support ${(100 * a.support).toFixed(0)}%` + (a.gated_share ? `, gated ${(100 * a.gated_share).toFixed(0)}%` : ""));
        aligned.append(...(a.health || []).map(finding)); // runs made before these checks have none
        row.append(make("p", "asked", a.prompt), side("base", a.base, ""), aligned);
        return row;
      })
    );
  };
  slider.oninput = show;
  head.append(title, ...(all.length > 1 ? [slider] : []));
  place.replaceChildren(head, body);
  show();
}

function finding({ kind, says, advice, level }) {
  const item = make("div", "finding");
  item.dataset.level = level;
  item.append(make("b", "", `${kind}: `), `${says} `, make("i", "", advice));
  return item;
}

// Share gated (bars) and log-likelihood of the held-out answers (line), by gate, at the strength that was found.
function calibrated(found) {
  const place = part("calibration");
  if (!found) return place.replaceChildren();
  const points = found.points.filter((p) => p.beta === found.beta).sort((a, b) => (a.tau ?? Infinity) - (b.tau ?? Infinity));
  const width = Math.min(place.clientWidth - 26 || 560, 640);
  const height = 150;
  const edge = { left: 44, right: 48, top: 12, bottom: 26 };
  const each = (width - edge.left - edge.right) / points.length;
  const middle = (i) => edge.left + each * (i + 0.5);
  const y = (share) => height - edge.bottom - (height - edge.top - edge.bottom) * share;
  const plot = draw("svg", { width, height, role: "img", "aria-label": `Share gated and log-likelihood at ${points.length} gates` });
  [0, 0.5, 1].forEach((share) => plot.append(draw("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(share), y2: y(share) }), draw("text", { x: edge.left - 6, y: y(share) + 4, "text-anchor": "end" }, `${100 * share}%`)));
  const chosen = points.findIndex((p) => p.tau === found.tau);
  points.forEach((p, i) => {
    const share = p.gated_there ?? p.gated_share;
    plot.append(draw("rect", { x: middle(i) - each * 0.3, y: y(share), width: each * 0.6, height: Math.max(1, y(0) - y(share)), fill: COLOURS[0], opacity: i === chosen ? 1 : 0.45 }));
    plot.append(draw("text", { x: middle(i), y: height - 8, "text-anchor": "middle", "font-weight": i === chosen ? 700 : 400 }, p.tau === null ? "off" : String(p.tau)));
  });
  const key = make("p", "key-row");
  key.append(make("b", "", `Gate, at strength ${found.beta}`));
  const label = (name, i) => {
    const item = make("span", "line-key", name);
    item.style.setProperty("--line", COLOURS[i]);
    key.append(item);
  };
  label("share gated", 0);
  if (points.every((p) => p.log_likelihood !== null)) {
    const values = points.map((p) => p.log_likelihood);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const at = (v) => y(0.1 + (0.8 * (v - low)) / (high - low || 1));
    plot.append(draw("polyline", { points: values.map((v, i) => `${middle(i)},${at(v)}`).join(" "), fill: "none", stroke: COLOURS[1], "stroke-width": 2 }));
    values.forEach((v, i) => plot.append(draw("circle", { cx: middle(i), cy: at(v), r: i === chosen ? 5 : 3, fill: COLOURS[1] })));
    [low, high].forEach((v) => plot.append(draw("text", { x: width - edge.right + 6, y: at(v) + 4 }, v.toFixed(2))));
    label("log-likelihood of held-out answers, nats a token", 1);
  }
  place.replaceChildren(key, plot);
}

// The buttons below stand outside this part of the page: each works in some states only.
function buttons(job) {
  for (const [id, states] of Object.entries(CAN)) {
    const button = document.getElementById(id);
    if (button) button.disabled = !job || !states.includes(job.state);
  }
  const use = document.getElementById("use-run");
  if (use) use.disabled = !job || !job.usable;
}

function tabs(runs) {
  part("runs").replaceChildren(
    ...runs.map((job) => {
      const tab = make("button", job.name === run ? "on" : "");
      tab.append(make("b", "", job.name), make("small", "", WORDS[job.state] || job.state));
      tab.type = "button";
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-selected", String(job.name === run));
      tab.onclick = () => {
        look(job.name);
        ask();
      };
      return tab;
    })
  );
}

function look(name) {
  if (name === run) return;
  run = name;
  forget();
  props.value = JSON.stringify({ run });
}

async function ask() {
  const news = await server.board({ run, heard, seen });
  if (!news) return;
  if (news.run !== run) look(news.run);
  if (news.from === 0) forget();
  if (news.from !== heard && news.from !== 0) return;
  news.events.forEach(hear);
  heard = news.heard;
  board.dataset.state = news.runs.length ? "some" : "empty";
  tabs(news.runs);
  const job = news.runs.find((one) => one.name === run);
  now(job);
  buttons(job);
  part("advice").replaceChildren(...news.advice.map(finding));
  part("recipe").hidden = !news.runs.length;
  if (news.recipe) part("recipe pre").textContent = news.recipe;
  if (news.samples) {
    samples(news.samples);
    seen = news.samples.length;
  }
  if (news.events.length || !news.runs.length) {
    curves();
    calibrated(last.calibration);
  }
  told();
}

async function follow() {
  while (element.isConnected) {
    if (board.offsetParent !== null) {
      try {
        await ask();
      } catch {
        part("now").textContent = "The server does not answer; runs go on without it.";
      }
    }
    await new Promise((done) => setTimeout(done, ASK_MS));
  }
}

watch("value", () => {
  const named = JSON.parse(props.value).run;
  if (named && named !== run) {
    run = named;
    forget();
    ask();
  }
});
new ResizeObserver(() => curves()).observe(part("curves"));
follow();
