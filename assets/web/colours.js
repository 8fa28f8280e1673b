// The quantities that a token's colour can show, and their scales: one choice for Compare's stage and the Inspector.
// Read without colour vision: signed ones go from orange to blue about zero, others from faint to strong in one hue.
// Knows a step's numbers; knows no page but the legend that it fills.

const STRONGEST = 0.6; // of a colour over the page: text on it keeps its contrast, light and dark
const QUANTITIES = {
  push: {
    name: "Push", from: -3, to: 3, signed: true, of: (step) => step.push, unit: "nats",
    low: "less likely than in the base", high: "more likely: pushed by the aligner",
  },
  kl: {
    name: "KL", from: 0, to: 3, of: (step) => step.kl, unit: "nats",
    low: "proposal and aligner agree", high: "they want different things",
  },
  weight: {
    name: "Weight", from: 1, to: 0, of: (step) => step.weight[step.chosen], share: true,
    low: "it had to be this token", high: "a long shot was drawn",
  },
  support: {
    name: "Support", from: 1, to: 0, of: (step) => step.support, share: true,
    low: "all that the aligner wants is offered", high: "the proposal does not offer it",
  },
  entropy: {
    name: "Entropy", from: 0, to: 3, of: (step) => step.entropy, unit: "nats",
    low: "one candidate has all the weight", high: "many share it",
  },
  rank: {
    name: "Rank change", from: -3, to: 3, signed: true, of: (step) => Math.log2(step.rankP / step.rank),
    low: "ranked lower than by P", high: "ranked higher than by P",
  },
  gated: {
    name: "Gated", from: 0, to: 1, of: (step) => Number(step.gated), flag: true,
    low: "the aligner weighed", high: "gated: fell back to the base",
  },
};

// The colour of a value on its scale: "" where there is nothing to show.
function shade(quantity, value) {
  const { from, to, signed } = QUANTITIES[quantity];
  const middle = signed ? (from + to) / 2 : from;
  const strength = Math.max(-1, Math.min(1, (value - middle) / (to - middle)));
  if (!(Math.abs(strength) >= 0.05) || (!signed && strength < 0)) return "";
  const hue = signed ? (strength > 0 ? "--push-up" : "--push-down") : "--ramp";
  return `rgb(var(${hue}) / ${(0.1 + (STRONGEST - 0.1) * Math.abs(strength)).toFixed(2)})`;
}

// A value as the legend and the facts write it.
function amount(quantity, value) {
  const { share, flag, signed: both } = QUANTITIES[quantity];
  if (!Number.isFinite(value)) return "unknown";
  if (flag) return value ? "yes" : "no";
  if (share) return percent(value);
  return both ? signed(value) : value.toFixed(2);
}

// The scale in words: its two ends, and the colours between them.
function legend(quantity) {
  const { name, from, to, low, high, unit, flag, share } = QUANTITIES[quantity];
  const scale = make("span", "scale");
  const stops = Array.from({ length: 13 }, (_, n) => shade(quantity, from + ((to - from) * n) / 12) || "transparent");
  const bar = make("b");
  bar.style.backgroundImage = flag
    ? `linear-gradient(to right, transparent 50%, ${shade(quantity, 1)} 50%)`
    : `linear-gradient(to right, ${stops.join(", ")})`;
  const end = (value) => (quantity === "rank" ? (value < 0 ? "÷8" : "×8") : share ? percent(value) : value > 0 && from < 0 ? "+" + value : String(value).replace("-", "−"));
  const ends = flag ? ["", ""] : [` ${end(from)}`, `${end(to)} `];
  scale.append(make("i", "", low + ends[0]), bar, make("i", "", ends[1] + high + (unit ? `, ${unit}` : "")));
  scale.setAttribute("aria-label", `${name}: from ${low} to ${high}`);
  return scale;
}

// The choice itself: a radio button for each quantity, and a call for the one chosen.
function colourChoice(place, chosen, changed) {
  const group = make("div", "colour-choice");
  group.setAttribute("role", "radiogroup");
  group.setAttribute("aria-label", "What the colours show");
  const name = "colour-" + Math.random().toString(36).slice(2);
  for (const [key, { name: words }] of Object.entries(QUANTITIES)) {
    const label = make("label");
    const radio = Object.assign(make("input"), { type: "radio", name, value: key, checked: key === chosen });
    label.append(radio, make("span", "", words));
    group.append(label);
  }
  group.addEventListener("change", (event) => changed(event.target.value));
  place.replaceChildren(make("span", "choice-name", "Colour by"), group);
}
