// A quantity along the answers, with the gate's threshold and the tokens that it gated; and all tokens as a table.
// Drawn with plot.js. Knows lanes; a press says which token it was, a drag of the threshold how far.

const LINES = ["kl", "push", "weight", "support", "entropy", "rank"]; // of QUANTITIES, those that make a line

const HUES = ["var(--bar-w)", "var(--bar-q)", ...COLOURS.slice(2)]; // those of plot.js, lighter in the dark

function timeline(place, { choose, drag }) {
  let lanes = [];
  let quantity = "kl";
  let scale = null; // {x, y, at, width, longest}, of what is drawn
  let gates = null; // the group of thresholds and gated spans
  let cursor = null;

  const head = make("p", "key-row");
  const choice = make("select");
  choice.setAttribute("aria-label", "What the line shows");
  for (const key of LINES) choice.append(Object.assign(make("option", "", QUANTITIES[key].name), { value: key }));
  choice.onchange = () => {
    quantity = choice.value;
    show(lanes);
  };
  const names = make("span", "names");
  head.append(choice, make("b", "", "along the answer"), names);
  const canvas = make("div", "canvas");
  place.replaceChildren(head, canvas);

  // Aligned lanes; of what the base has too, every lane.
  const drawable = () => lanes.filter((lane) => lane.trace.steps.length && (lane.aligned || !["kl", "push", "rank"].includes(quantity)));
  const hue = (lane) => (lane.aligned ? HUES[lanes.filter((each) => each.aligned).indexOf(lane) % HUES.length] : "var(--bar-p)");
  const paint = (node, property, lane) => {
    node.style[property] = hue(lane); // not as an attribute: a saved page allows no style but its sheet's
    return node;
  };

  function show(all) {
    lanes = all;
    const shown = drawable();
    place.hidden = !lanes.some((lane) => lane.trace.steps.length);
    canvas.replaceChildren();
    names.replaceChildren();
    scale = gates = cursor = null;
    if (place.hidden) return;
    if (!shown.length) return canvas.append(make("p", "hint", "Only the base answered here: there is no aligner to differ from it."));
    const { of, signed: both, from, to } = QUANTITIES[quantity];
    const width = canvas.clientWidth || 600;
    const longest = Math.max(20, ...shown.map(lengthOf));
    const values = shown.map((lane) => lane.trace.steps.map((step) => of(step)));
    const reach = values.map((list) => list.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]));
    let high = Math.max(from > to ? from : 0.5, ...reach.map(([, top]) => top));
    let low = both ? Math.min(-0.5, ...reach.map(([bottom]) => bottom)) : 0;
    if (quantity === "kl") high = Math.max(high, ...shown.flatMap((lane) => thresholds(lane)).map((tau) => Math.min(tau, 2 * high)));
    [high, low] = [high + 0.06 * (high - low), low - (both ? 0.06 * (high - low) : 0)];
    const x = (i) => EDGE.left + ((width - EDGE.left - EDGE.right) * (i + 0.5)) / longest;
    const y = (value) => EDGE.top + ((HEIGHT - EDGE.top - EDGE.bottom) * (high - value)) / (high - low);
    const value = (pixels) => high - ((pixels - EDGE.top) * (high - low)) / (HEIGHT - EDGE.top - EDGE.bottom);
    scale = { x, y, value, width, longest, shown };
    const plot = draw("svg", { width, height: HEIGHT, role: "img", "aria-label": inWords(shown, values) });
    grid(plot, width, y, low, high);
    countAlong(plot, width, (i) => x(i - 1), longest);
    gates = draw("g", {});
    plot.append(gates);
    shown.forEach((lane, n) => {
      const points = values[n].map((v, k) => `${x(lane.trace.first + k).toFixed(1)},${y(v).toFixed(1)}`);
      plot.append(paint(draw("polyline", { points: points.join(" ") }), "stroke", lane));
      const name = make("span", "line-key", visible(lane.title));
      name.style.setProperty("--line", hue(lane));
      names.append(name);
    });
    cursor = draw("g", { class: "cursor", visibility: "hidden" }, draw("line", { y1: EDGE.top, y2: HEIGHT - EDGE.bottom }), draw("circle", { r: 4 }));
    plot.append(cursor);
    canvas.append(plot);
    gate();
    listen(plot);
  }

  const thresholds = (lane) => [...new Set(Object.values(lane.now.taus).filter((tau) => tau !== null))];

  // Thresholds and spans as they are, or as what is tried would have them: lane.now {taus, gated}.
  function gate() {
    if (!gates) return;
    const { x, y, width, shown } = scale;
    gates.replaceChildren();
    const half = (x(1) - x(0)) / 2;
    let any = false;
    for (const lane of shown.filter((each) => each.aligned)) {
      const spans = [];
      const { gated } = lane.now;
      for (let k = 0; k < gated.length; k++) {
        if (!gated[k]) continue;
        const from = k;
        while (k + 1 < gated.length && gated[k + 1]) k++;
        const [left, right] = [x(lane.trace.first + from) - half, x(lane.trace.first + k) + half];
        spans.push(`M${left.toFixed(1)} ${EDGE.top}H${right.toFixed(1)}V${HEIGHT - EDGE.bottom}H${left.toFixed(1)}z`);
      }
      any ||= spans.length > 0;
      if (spans.length) gates.append(paint(draw("path", { class: "span", d: spans.join("") }), "fill", lane));
      if (quantity !== "kl") continue;
      for (const tau of thresholds(lane)) {
        const at = Math.max(EDGE.top, y(tau));
        const ends = { x1: EDGE.left, x2: width - EDGE.right, y1: at, y2: at };
        gates.append(paint(draw("line", { class: "threshold", ...ends }), "stroke", lane));
        if (lane.tries) gates.append(draw("line", { class: "handle", "data-lane": lane.at, ...ends }));
      }
    }
    head.querySelectorAll(".gate-key").forEach((node) => node.remove());
    if (any) head.append(make("span", "gate-key", "▒ gated"));
    if (gates.querySelector(".threshold")) head.append(make("span", "gate-key", gates.querySelector(".handle") ? "┅ the gate's threshold: drag it" : "┅ the gate's threshold"));
  }

  function listen(plot) {
    const at = (event) => {
      const { x, longest, shown, width } = scale;
      const i = Math.floor(((event.clientX - plot.getBoundingClientRect().left - EDGE.left) * longest) / (width - EDGE.left - EDGE.right));
      const near = (lane) => i >= lane.trace.first && i < lengthOf(lane);
      // Of several lines the one that is nearest.
      const height = event.clientY - plot.getBoundingClientRect().top;
      const far = (lane) => Math.abs(scale.y(QUANTITIES[quantity].of(lane.trace.steps[i - lane.trace.first])) - height);
      return shown.filter(near).sort((a, b) => far(a) - far(b)).map((lane) => [lane, i])[0];
    };
    let dragged = null;
    plot.addEventListener("pointerdown", (event) => {
      if (!event.target.classList.contains("handle")) return;
      dragged = lanes[event.target.dataset.lane];
      plot.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    plot.addEventListener("pointermove", (event) => {
      if (dragged) drag(dragged, Math.max(0, scale.value(event.clientY - plot.getBoundingClientRect().top)));
    });
    plot.addEventListener("pointerup", () => setTimeout(() => (dragged = null)));
    plot.addEventListener("click", (event) => {
      const there = dragged ? null : at(event);
      if (there) choose(...there, false);
    });
  }

  function look(lane, i) {
    if (!cursor) return;
    const on = lane && i >= lane.trace.first;
    cursor.setAttribute("visibility", on ? "visible" : "hidden");
    if (!on) return;
    const [line, dot] = cursor.children;
    const step = lane.trace.steps[i - lane.trace.first];
    const at = scale.x(i);
    line.setAttribute("x1", at);
    line.setAttribute("x2", at);
    dot.setAttribute("cx", at);
    dot.setAttribute("cy", scale.y(QUANTITIES[quantity].of(step)));
    dot.setAttribute("visibility", scale.shown.includes(lane) ? "inherit" : "hidden");
  }

  function inWords(shown, values) {
    const { name } = QUANTITIES[quantity];
    const each = shown.map((lane, n) => {
      const top = values[n].reduce((best, value, k) => (value > values[n][best] ? k : best), 0);
      return `${visible(lane.title)}: highest ${amount(quantity, values[n][top])} at token ${lane.trace.first + top + 1} of ${lengthOf(lane)}`;
    });
    return `${name}, token by token. ${each.join("; ")}`;
  }

  return { show, gate, look };
}

const ROWS = 100; // of the table, made at once

// One row a token, all its numbers; made when it is opened, for the lane that is looked at.
function tokenTable(details, { choose }) {
  const place = details.querySelector("div");
  let lane = null;
  let made = null; // the lane whose rows stand there, and how many
  let lit = null;
  let looked = -1; // the token that has the cursor

  const COLUMNS = [
    ["", (step) => String(step.index + 1)],
    ["token", (step, of) => wordFor(of, step.token, step.text)],
    ["base says", (step, of) => (step.token === step.baseToken ? "the same" : wordFor(of, step.baseToken))],
    ["push", (step) => signed(step.push)],
    ["KL", (step) => step.kl.toFixed(3)],
    ["gated", (step) => (step.gated ? "yes" : "")],
    ["weight", (step) => percent(step.weight[step.chosen])],
    ["P rank", (step) => String(step.rankP)],
    ["rank", (step) => String(step.rank)],
    ["support", (step) => percent(step.support)],
    ["entropy", (step) => step.entropy.toFixed(2)],
    ["nucleus", (step) => String(step.nucleus)],
    ["ms", (step) => step.ms.toFixed(0)],
  ];

  function show(other) {
    lane = other;
    details.querySelector("summary").textContent = `All tokens of ${LETTERS[lane.at]}, ${visible(lane.title)}, as a table`;
    fill();
  }

  function fill() {
    if (!lane || !details.open || (made?.lane === lane && made.count === lane.trace.steps.length)) return;
    const table = make("table");
    const head = make("tr");
    for (const [name] of COLUMNS) {
      const cell = make("th", "", name);
      cell.scope = "col";
      head.append(cell);
    }
    table.createTHead().append(head);
    place.replaceChildren(table);
    made = { lane, count: lane.trace.steps.length };
    more(table.createTBody(), lane);
  }

  // A screenful at once, the rest frame by frame: nobody waits for the two thousandth row.
  function more(body, of) {
    for (const step of of.trace.steps.slice(body.rows.length, body.rows.length + ROWS)) {
      const row = make("tr");
      row.dataset.i = step.index;
      for (const [, cell] of COLUMNS) row.append(make("td", "", cell(step, of)));
      body.append(row);
    }
    look(looked);
    if (body.isConnected && body.rows.length < made.count) requestAnimationFrame(() => more(body, of));
  }

  function look(i) {
    looked = i;
    lit?.classList.remove("looked");
    lit = details.open ? (place.querySelector("tbody")?.rows[i - lane.trace.first] ?? null) : null;
    lit?.classList.add("looked");
  }

  details.addEventListener("toggle", () => {
    fill();
    lit?.scrollIntoView({ block: "nearest" });
  });
  place.addEventListener("click", (event) => {
    const row = event.target.closest("tbody tr");
    if (row) choose(lane, Number(row.dataset.i), false);
  });
  return { show, look };
}
