// The board of training runs: asks for what is new, draws the two curves, says how far it is and how long it may take.
// The value is {run: name} as text: which run is looked at, for the buttons below. Texts enter through textContent alone.

const board = element.querySelector(".board");
const part = (name) => board.querySelector("." + name);
const ASK_MS = 1000;
const WORDS = { running: "▶ training", stopping: "◼ stopping", queued: "… waiting its turn", done: "✓ done", stopped: "◼ stopped", failed: "✕ failed", interrupted: "! interrupted" };
const STAGES = { load: "loading the model", synthesize: "the proposal answers the prompts (y−)" };

let run = "";
let heard = 0;
let steps = new Map(); // step -> loss: a run that was resumed tells some of them again
let looks = new Map(); // step -> {loss, accuracy, nats_a_token}
let last = {}; // kind -> newest event of that kind
let began = null; // {at, step}: since when, and from which step, this process trains

const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
const time = (s) => (s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`);

function forget() {
  [steps, looks, last, began, heard] = [new Map(), new Map(), {}, null, 0];
}

function hear(event) {
  last[event.kind] = event;
  if (event.kind === "started") began = null;
  if (event.kind === "held_out") looks.set(event.step, event);
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
  const highest = 1.06 * Math.max(...all, 1e-6);
  const x = (step) => edge.left + ((width - edge.left - edge.right) * step) / total;
  const y = (loss) => height - edge.bottom - ((height - edge.top - edge.bottom) * Math.max(0, loss)) / highest;
  const words = `Loss at step ${last.step.step} of ${total}: ${last.step.loss.toFixed(2)}` + (held.length ? `; held out: ${held.at(-1).loss.toFixed(2)}` : "");
  const plot = draw("svg", { width, height, role: "img", "aria-label": words });
  const up = tick(highest, 4);
  for (let loss = 0; loss <= highest; loss += up)
    plot.append(
      draw("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(loss), y2: y(loss) }),
      draw("text", { x: edge.left - 6, y: y(loss) + 4, "text-anchor": "end" }, String(+loss.toFixed(6)))
    );
  const along = tick(total, Math.max(3, width / 110));
  for (let step = along; step <= total; step += along) plot.append(draw("text", { x: x(step), y: height - 8, "text-anchor": "middle" }, String(step)));
  const line = (points, attributes) =>
    plot.append(draw("polyline", { points: points.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" "), fill: "none", "stroke-linejoin": "round", ...attributes }));
  line(losses, { stroke: COLOURS[0], "stroke-width": 1, opacity: 0.35 });
  line(losses.map(([step], i) => [step, smooth[i]]), { stroke: COLOURS[0], "stroke-width": 2 });
  line(held.map((p) => [p.step, p.loss]), { stroke: COLOURS[1], "stroke-width": 2, "stroke-dasharray": "6 3" });
  const best = held.length ? held.reduce((a, b) => (b.loss < a.loss ? b : a)) : null;
  held.forEach((p) => plot.append(draw("circle", { cx: x(p.step), cy: y(p.loss), r: p === best ? 5 : 3, fill: COLOURS[1] })));
  const key = make("p", "key-row");
  key.append(make("b", "", "Loss, mean of an answer, by step"));
  [["training", 0], ["held out" + (best ? `, best ${best.loss.toFixed(2)} at step ${best.step}` : ""), 1]].forEach(([name, i]) => {
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
  if (job.state === "running" && last.step && began) {
    const taken = last.step.step - began.step;
    const left = last.step.total - last.step.step;
    const each = taken ? (last.step.at - began.at) / taken : null;
    words += `, step ${last.step.step} of ${last.step.total}`;
    if (each !== null && left) words += `, about ${time(each * left)} to go`;
  } else if (job.state === "running" && last.stage) {
    words += `: ${STAGES[last.stage.stage]}` + (last.stage.total > 1 ? `, ${last.stage.done} of ${last.stage.total}` : "");
  }
  if (job.note) words += `: ${job.note}`;
  const bar = make("progress");
  if (last.step) Object.assign(bar, { max: last.step.total, value: last.step.step });
  else if (last.stage && job.state === "running") Object.assign(bar, { max: last.stage.total, value: last.stage.done });
  place.replaceChildren(make("span", "", words), ...(["running", "stopping"].includes(job.state) ? [bar] : []));
  place.dataset.state = job.state;
}

function told() {
  const lines = [];
  const { data, cost } = last;
  if (data) lines.push(`${data.training} examples to learn from, ${data.held_out} held out; ${data.form}` + (data.duplicates ? `; ${data.duplicates} repeated` : "") + (data.leaks ? `; ${data.leaks} held-out answers are also learnt` : ""));
  const look = last.held_out;
  if (look) lines.push(`held out: ${look.nats_a_token.toFixed(2)} nats a token` + (look.accuracy === null ? "" : `, the wanted answer likelier in ${(100 * look.accuracy).toFixed(0)}%`));
  if (cost) lines.push(`${time(cost.seconds)} of steps, ${cost.tokens_per_s.toFixed(0)} tokens/s, ${(cost.peak_memory / 2 ** 30).toFixed(1)} GB at most, ${((100 * cost.trainable) / cost.parameters).toFixed(1)}% of the weights trained`);
  part("told").replaceChildren(...lines.map((line) => make("li", "", line)));
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
  const news = await server.board({ run, heard });
  if (!news) return;
  if (news.run !== run) look(news.run);
  if (news.from === 0) forget();
  if (news.from !== heard && news.from !== 0) return;
  news.events.forEach(hear);
  heard = news.heard;
  board.dataset.state = news.runs.length ? "some" : "empty";
  tabs(news.runs);
  now(news.runs.find((job) => job.name === run));
  if (news.events.length || !news.runs.length) curves();
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
