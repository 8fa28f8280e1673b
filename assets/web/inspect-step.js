// One token under the glass: its candidates as bars, the pushes that add up to a weight, the distribution, four modes.
// Knows decoded steps and asks `whatif.js` for all that is computed; of a press on a candidate it says which it was.

const Q_HUES = ["var(--bar-q)", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]; // of the aligners, in their order
const SHOWN_ROWS = 8; // of the pushes and modes; the candidates are all there

function stepView(place, { branch, move, leave, mayBranch }) {
  let now = null; // what is shown: see `show`
  let page = "candidates"; // which of PAGES
  const PAGES = { candidates: ["Candidates", candidates], pushes: ["Pushes", pushed], spread: ["Distribution", spread], modes: ["Modes", fourModes] };

  const head = make("header");
  const reason = make("p", "why");
  const facts = make("p", "facts");
  const tabs = make("div", "pages");
  tabs.setAttribute("role", "tablist");
  const sheet = make("div", "sheet");
  sheet.setAttribute("role", "tabpanel");
  for (const [key, [words]] of Object.entries(PAGES)) {
    const tab = button("", words, () => turn(key));
    tab.setAttribute("role", "tab");
    tab.dataset.page = key;
    tabs.append(tab);
  }

  function turn(to) {
    page = to;
    for (const tab of tabs.children) {
      tab.setAttribute("aria-selected", String(tab.dataset.page === page));
      tab.tabIndex = tab.dataset.page === page ? 0 : -1;
    }
    sheet.setAttribute("aria-label", PAGES[page][0]);
    if (!now) return;
    try {
      sheet.replaceChildren(...PAGES[page][1](now));
    } catch (error) {
      sheet.replaceChildren(make("p", "hint", error.message)); // traces made before lack what some views need
    }
  }

  // tried: {settings, token}: other settings, and what they would draw here; or null.
  function show(lane, i, tried) {
    const { step, lane: owner, forced } = tokenAt(lane, i);
    const at = step.index - owner.trace.first;
    now = { lane: owner, at, step, tried, texts: step.texts, forced: forced ? lane.prefix[i].token : null };
    const back = button("plain", "‹", () => move(-1));
    back.setAttribute("aria-label", "Token before");
    const on = button("plain", "›", () => move(1));
    on.setAttribute("aria-label", "Next token");
    const shut = button("plain shut", "×", leave);
    shut.setAttribute("aria-label", "Close");
    const title = make("h3", "", saidAt(lane, i));
    const moves = make("span", "moves");
    moves.append(back, on, shut);
    head.replaceChildren(make("span", "letter", LETTERS[lane.at]), title, make("small", "", `token ${i + 1} of ${lengthOf(lane)}`), moves);
    const words = why(owner.trace, at, () => wordFor(owner, step.baseToken)).join(" ");
    const would = wordFor(owner, step.token, step.text);
    reason.textContent = forced ? `You said ${saidAt(lane, i)} here. What would have been said is ${would}. ${words}` : words;
    facts.replaceChildren(...factsOf(owner, step).map((fact) => make("span", "", fact)));
    if (place.firstChild !== head) place.replaceChildren(head, reason, facts, tabs, sheet);
    const scrolled = sheet.scrollTop;
    turn(page);
    sheet.scrollTop = scrolled;
    return reason.textContent;
  }

  function clear() {
    now = null;
    place.replaceChildren(make("p", "hint", "Press a token to see its candidates: what the proposal and the aligner gave each, and why one of them won."));
  }

  function factsOf(lane, step) {
    const said = [];
    if (lane.aligned) {
      for (const { name, kl, gated } of step.monitors) {
        const tau = lane.trace.own.taus[lane.trace.aligners.indexOf(name)];
        const of = step.monitors.length > 1 ? ` of ${visible(name)}` : "";
        said.push(`KL${of} ${kl.toFixed(2)}${tau === null ? ", no gate" : gated ? `, gated above ${tau}` : `, gate at ${tau}`}`);
      }
      said.push(`support ${percent(step.support)}`);
    }
    said.push(`entropy ${step.entropy.toFixed(2)}`, `nucleus ${step.nucleus} token${step.nucleus === 1 ? "" : "s"}, ${percent(step.mass)} of P`);
    if (lane.aligned) said.push(`rank ${step.rankP} by P → ${step.rank} by weight`, `push ${signed(step.push)}`);
    return said;
  }

  // The candidates ----------------------------------------------------------------------------------------------------

  // name, colour and the shares of each candidate, in the order in which the bars stand
  function series({ lane, at, step, tried }) {
    const logPt = step.logPt;
    const found = [["P, the proposal", "var(--bar-p)", Float64Array.from(logPt, (p, j) => Math.exp(j < step.inside ? p : step.logP[j]))]];
    lane.trace.aligners.forEach((name, k) => {
      const logQ = step.logQOf(name);
      if (!logQ.some(Number.isFinite)) return; // not kept: a trace made before
      found.push([lane.trace.aligners.length > 1 ? `Q of ${visible(name)}` : "Q, the aligner", Q_HUES[k % Q_HUES.length], logQ.map(Math.exp)]);
    });
    found.push([lane.aligned ? "weight, what is drawn from" : "what is drawn from (P sharpened by T)", "var(--bar-w)", step.weight]);
    if (tried) found.push(["weight, what if", "var(--bar-if)", weights(lane.trace, at, tried.settings)]);
    return found;
  }

  function key(columns) {
    const row = make("p", "key-row");
    for (const [name, hue] of columns) {
      const item = make("span", "swatch", name);
      item.style.setProperty("--hue", hue);
      row.append(item);
    }
    return row;
  }

  function candidates(shown) {
    const { lane, step, tried, texts, forced } = shown;
    const columns = series(shown);
    const top = Math.max(0.01, ...columns.flatMap(([, , shares]) => [...shares]));
    const list = make("ol", "candidates");
    texts.forEach((text, j) => {
      const id = step.ids[j];
      const tags = [];
      if (j === step.chosen) tags.push("drawn");
      if (j === step.base && lane.aligned) tags.push("base");
      if (id === forced) tags.push("said instead");
      if (tried && id === tried.token && j !== step.chosen) tags.push("what if");
      const ends = lane.ends.has(id); // which nothing can go on from
      const row = button("row" + (j === step.chosen ? " chosen" : "") + (j >= step.inside ? " outside" : ""), undefined, () => row.ariaDisabled || branch(step.index, id));
      row.tabIndex = j ? -1 : 0;
      const name = make("span", "name", wordFor(lane, id, text));
      // Parts of characters look alike, so they are told apart by their number.
      if ((!text && !ends) || text.includes("\ufffd")) name.append(make("small", "", `#${id}`));
      tags.forEach((tag) => name.append(make("em", tag.replace(" ", "-"), tag)));
      if (j >= step.inside) name.append(make("em", "", "not proposed"));
      const bars = make("span", "set");
      for (const [, hue, shares] of columns) {
        const bar = make("b", "bar");
        bar.style.width = Math.max(0.4, (100 * shares[j]) / top) + "%";
        bar.style.background = hue;
        const track = make("span", "track");
        track.append(bar);
        const line = make("span", "line");
        line.append(track, make("span", "value", shares[j] > 0 ? percent(shares[j]) : "–"));
        bars.append(line);
      }
      const said = columns.map(([words, , shares]) => `${words.split(",")[0]} ${percent(shares[j])}`);
      row.append(name, bars);
      const opens = mayBranch() && !ends;
      if (opens) row.append(make("span", "say", j === step.chosen ? "go on from here" : "say this instead"));
      row.setAttribute("aria-label", [wordFor(lane, id, text), ...tags, ...(j >= step.inside ? ["not proposed: outside the nucleus"] : []), ...said].join(", ") + (opens ? ". Branch here." : ""));
      if (!opens) row.setAttribute("aria-disabled", "true");
      const item = make("li");
      item.append(row);
      list.append(item);
    });
    return [key(columns), list];
  }

  // The pushes --------------------------------------------------------------------------------------------------------

  // The heaviest candidates in the nucleus, with the drawn one and the base's among them.
  function heaviest({ step }, score) {
    const order = Array.from({ length: step.inside }, (_, j) => j).sort((a, b) => score(b) - score(a));
    const first = order.slice(0, SHOWN_ROWS);
    for (const j of [step.chosen, step.base]) if (!first.includes(j)) first.push(j);
    return first;
  }

  function pushed(shown) {
    const { lane, at, step, tried, texts } = shown;
    if (!lane.aligned) return [make("p", "hint", "Nothing weighs in the base: a candidate's weight is P itself, sharpened by T.")];
    const parts = pushes(lane.trace, at, tried?.settings);
    const rows = heaviest(shown, (j) => parts.total[j]).filter((j) => Number.isFinite(parts.total[j]));
    const columns = [
      ...(parts.of === "0" ? [] : [[parts.of, "var(--bar-p)", parts.start]]),
      ...parts.aligners.map(({ name, push }, k) => [`push of ${visible(name)}`, Q_HUES[k % Q_HUES.length], push]),
      ["norm, the same for all", "var(--bar-norm)", new Float64Array(step.count).fill(parts.norm)],
    ];
    // Each bar begins where the one above it ended: the last end is the log weight.
    const sums = rows.map((j) => columns.reduce((ends, [, , column]) => [...ends, ends.at(-1) + column[j]], [0]));
    const low = Math.min(...sums.flat());
    const high = Math.max(...sums.flat());
    const x = (nats) => (100 * (nats - low)) / (high - low || 1);
    const table = make("ol", "pushes");
    rows.forEach((j, n) => {
      const row = make("li", "row" + (j === step.chosen ? " chosen" : ""));
      const name = make("span", "name", wordFor(lane, step.ids[j], texts[j]));
      if (j === step.chosen) name.append(make("em", "drawn", "drawn"));
      if (j === step.base) name.append(make("em", "base", "base"));
      const bars = make("span", "set");
      columns.forEach(([, hue, column], k) => {
        const [from, to] = [sums[n][k], sums[n][k + 1]];
        const bar = make("b", "bar");
        bar.style.marginLeft = x(Math.min(from, to)) + "%";
        bar.style.width = Math.max(0.4, Math.abs(x(to) - x(from))) + "%";
        bar.style.background = hue;
        const track = make("span", "track");
        track.style.setProperty("--zero", x(0) + "%");
        track.append(bar);
        const line = make("span", "line");
        line.append(track, make("span", "value", signed(column[j])));
        bars.append(line);
      });
      const sum = make("span", "sum", `= ${signed(parts.total[j])}`);
      sum.title = "log of the weight, before the final temperature";
      row.append(name, bars, sum);
      table.append(row);
    });
    const about = make("p", "hint", `In nats. ${parts.of === "0" ? "" : parts.of + " and "}each aligner's push, beyond its average over the nucleus, add up to the log of the weight before the final temperature: right is more likely, left less.`);
    return [key(columns), table, about];
  }

  // The distribution --------------------------------------------------------------------------------------------------

  function spread({ lane, step, texts }) {
    const order = texts.map((_, j) => j).sort((a, b) => step.logP[b] - step.logP[a]);
    const lines = [["P", "var(--bar-p)", step.logP], ...(lane.aligned ? [["Q", "var(--bar-q)", step.logQ]] : []), ["weight", "var(--bar-w)", step.weight.map(Math.log)]];
    const width = Math.max(260, sheet.clientWidth - 2);
    const height = 270;
    const edge = { left: 44, right: 10, top: 8, bottom: 78 };
    const floor = Math.max(-7, Math.min(-1, Math.floor(Math.min(...lines.flatMap(([, , log]) => order.map((j) => log[j])).filter(Number.isFinite)) / Math.LN10)));
    const x = (n) => edge.left + ((width - edge.left - edge.right) * (n + 0.5)) / order.length;
    const y = (log) => edge.top + ((height - edge.top - edge.bottom) * Math.max(floor, log / Math.LN10)) / floor;
    const plot = draw("svg", { width, height, role: "img", "aria-label": "P, Q and the weight of each kept candidate, likeliest by P first, on a logarithmic axis" });
    for (let power = 0; power >= floor; power--)
      plot.append(
        draw("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(power * Math.LN10), y2: y(power * Math.LN10) }),
        draw("text", { x: edge.left - 6, y: y(power * Math.LN10) + 4, "text-anchor": "end" }, power > -3 ? `${10 ** (power + 2)}%` : `1e${power}`)
      );
    order.forEach((j, n) => {
      const words = wordFor(lane, step.ids[j], texts[j]).replace(/^“|”$/g, "");
      const at = `translate(${x(n).toFixed(1)} ${height - edge.bottom + 12}) rotate(-55)`;
      const classes = [j === step.chosen ? "drawn" : "", j >= step.inside ? "outside" : ""].join(" ").trim();
      plot.append(draw("text", { transform: at, "text-anchor": "end", class: classes }, words.length > 11 ? words.slice(0, 10) + "…" : words));
      if (j >= step.inside) plot.append(draw("rect", { class: "beyond", x: x(n) - (x(1) - x(0)) / 2, width: x(1) - x(0), y: edge.top, height: height - edge.top - edge.bottom }));
    });
    for (const [, hue, log] of lines) {
      const points = order.map((j, n) => [x(n), log[j]]).filter(([, value]) => Number.isFinite(value));
      const line = draw("g", { class: "line" }, draw("polyline", { points: points.map(([at, value]) => `${at.toFixed(1)},${y(value).toFixed(1)}`).join(" ") }));
      for (const [at, value] of points) line.append(draw("circle", { cx: at.toFixed(1), cy: y(value).toFixed(1), r: 2.6 }));
      line.style.color = hue; // not as an attribute: a saved page allows no style but its sheet's
      plot.append(line);
    }
    const about = make("p", "hint", "The kept candidates, likeliest by P first. Where Q lies above P the aligner wants more of it; shaded ones are outside the nucleus and get no weight.");
    return [key(lines), plot, about];
  }

  // Four modes --------------------------------------------------------------------------------------------------------

  function fourModes(shown) {
    const { lane, at, step, tried, texts } = shown;
    if (!lane.aligned) return [make("p", "hint", "Nothing weighs in the base, so all four modes draw what it draws.")];
    const each = modes(lane.trace, at, tried?.settings);
    const rows = heaviest(shown, (j) => Math.max(...each.map(({ weights: pi }) => (pi ? pi[j] : 0))));
    const table = make("table", "modes");
    const top = make("tr");
    top.append(make("td"));
    for (const { mode, token, lack } of each) {
      const cell = make("th", mode === lane.trace.own.mode ? "own" : "");
      cell.scope = "col";
      cell.append(make("b", "", mode), make("span", "", lack ? "not kept" : wordFor(lane, token)));
      if (lack) cell.title = lack;
      top.append(cell);
    }
    const body = make("tbody");
    for (const j of rows) {
      const row = make("tr", j === step.chosen ? "chosen" : "");
      const name = make("th", "name", wordFor(lane, step.ids[j], texts[j]));
      name.scope = "row";
      row.append(name);
      for (const { token, weights: pi } of each) {
        const cell = make("td", token === step.ids[j] ? "wins" : "");
        if (pi) {
          const bar = make("b", "bar");
          bar.style.width = 100 * pi[j] + "%";
          cell.append(bar, make("span", "", pi[j] > 0 ? percent(pi[j]) : "–"));
        }
        row.append(cell);
      }
      body.append(row);
    }
    const head = make("thead");
    head.append(top);
    table.append(head, body);
    return [table, make("p", "hint", `The weights of this step under each mode, with the same noise, and what each would have drawn. This answer was made with ${lane.trace.own.mode}.`)];
  }

  // Keys --------------------------------------------------------------------------------------------------------------

  place.addEventListener("keydown", (event) => {
    const row = event.target.closest?.(".candidates .row");
    const tab = event.target.closest?.("[role=tab]");
    const step = { ArrowDown: 1, ArrowUp: -1, ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (row && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      const rows = [...sheet.querySelectorAll(".candidates .row")];
      const next = rows[(rows.indexOf(row) + step + rows.length) % rows.length];
      row.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    } else if (row && event.key === "b") row.click();
    else if (tab && step) {
      const all = [...tabs.children];
      const next = all[(all.indexOf(tab) + step + all.length) % all.length];
      turn(next.dataset.page);
      next.focus();
    } else if (event.key === "Escape") leave();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  // Into the candidates, at the one that was drawn.
  function enter() {
    if (!now) return;
    turn("candidates");
    sheet.querySelector(".row.chosen")?.focus();
  }

  clear();
  return { show, clear, enter };
}
