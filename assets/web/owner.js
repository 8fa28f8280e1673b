// The owner's review: the newest votes, each with a word on whether it counts. Text enters through textContent.

const room = element.querySelector(".owner");
const given = JSON.parse(props.value); // {asks: is a token needed, shown: votes at a time, longest: of a reason}
const at = (selector) => room.querySelector(selector);
const CHOICES = { a: "A is better", b: "B is better", tie: "tie", both_bad: "both bad" };
let skip = 0;

async function ask(question, more) {
  try {
    return (await server[question]({ token: at("input").value, ...more })) ?? { error: "The server did not answer." };
  } catch {
    return { error: "The server did not answer." };
  }
}

async function look(from) {
  at(".said").textContent = "Looking…";
  const answer = await ask("votes", { skip: from });
  at(".said").textContent = answer.error ?? "";
  if (answer.error) return;
  skip = from;
  at(".votes").replaceChildren(...answer.votes.map(article));
  at(".newer").disabled = skip === 0;
  at(".older").disabled = skip + given.shown >= answer.of;
  const last = Math.min(skip + given.shown, answer.of);
  at(".said").textContent = answer.of ? `${skip + 1} to ${last} of ${answer.of}, the newest first` : "There are no votes yet.";
}

function article(vote) {
  const box = make("article", vote.counts ? "" : "excluded");
  const head = make("header");
  const turns = vote.turns > 1 ? `, the last of ${vote.turns} turns` : "";
  const state = (vote.counts ? "counts" : "does not count") + (vote.why ? `: ${vote.why}` : "");
  head.append(make("b", "", CHOICES[vote.choice]), make("small", "", `${vote.at}, ${vote.kind}${turns}`), make("em", "", state));
  const answers = make("div", "answers");
  for (const side of ["a", "b"]) answers.append(answer(vote, side));
  const said = [...vote.reasons, ...(vote.comment ? [`“${vote.comment}”`] : [])];
  if (vote.seconds !== null) said.push(`read for ${Math.round(vote.seconds)} s`);
  head.append(button("plain", "Inspect", () => openInspector({ battle: vote.battle, token: at("input").value })));
  box.append(head, make("p", "prompt", vote.prompt), answers, make("p", "reasons", said.join(" · ")), word(vote));
  return box;
}

function answer(vote, side) {
  const part = make("section");
  const { label, text } = vote[side];
  const body = make("p");
  const [where, start, end] = vote.span ?? [];
  const all = [...text];
  if (where === side) body.append(all.slice(0, start).join(""), make("mark", "", all.slice(start, end).join("")), all.slice(end).join(""));
  else body.append(text);
  part.append(make("b", "", `${side.toUpperCase()}: ${label}`), body);
  return part;
}

function word(vote) {
  const form = make("form", "word");
  const why = make("input");
  why.placeholder = vote.counts ? "Why it should not count" : "Why it should count";
  why.setAttribute("aria-label", why.placeholder);
  why.maxLength = given.longest;
  why.required = true;
  const act = make("button", "plain", vote.counts ? "Exclude" : "Include");
  form.append(why, act);
  form.onsubmit = async (event) => {
    event.preventDefault();
    act.disabled = true;
    const answer = await ask("review", { vote: vote.id, counts: !vote.counts, why: why.value });
    act.disabled = false;
    if (answer.error) at(".said").textContent = answer.error;
    else look(skip);
  };
  return form;
}

at("input").hidden = !given.asks;
at("form.ask").onsubmit = (event) => {
  event.preventDefault();
  look(0);
};
at(".newer").onclick = () => look(Math.max(0, skip - given.shown));
at(".older").onclick = () => look(skip + given.shown);
