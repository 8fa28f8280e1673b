// Taking along what is open: a page of its own, a trace, a link; and answering it again. Where there is a server to ask.

const COPIED = "The link is copied. Who opens it on a page with the same models sees it answered again, token by token.";

// The text of a file that is the page itself, with what is open inside. `<` is written so that no text can end its element.
function pageWith(shell, data) {
  return shell.replace(">DATA<", () => ">" + JSON.stringify(data).replace(/</g, "\\u003c") + "<");
}

function download(name, type, text) {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function sharing({ root, ask, view, looked, say, result, open }) {
  const at = (selector) => root.querySelector(selector);
  const stem = () => "ram-" + (view().title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 40) || "answer");

  at(".save-trace").onclick = () => download(stem() + ".json", "application/json", JSON.stringify(view()));

  at(".save-page").onclick = async () => {
    const shell = await ask("shell", {});
    if (shell.error) return say(shell.error, true);
    download(stem() + ".html", "text/html", pageWith(shell.page, { view: view(), looked: looked() }));
    result("The page is saved: one file that opens anywhere, without this server and without a network.");
  };

  at(".link").onclick = async () => {
    result("Making a link…");
    const answer = await ask("link", { view: view() });
    if (answer.error) return result(answer.error);
    const address = `${location.origin}${location.pathname}#inspect=${answer.link}`;
    try {
      await navigator.clipboard.writeText(address);
      result(COPIED);
    } catch {
      const field = Object.assign(make("input"), { value: address, readOnly: true });
      field.setAttribute("aria-label", "The link");
      result("Copy this link: ", field);
      field.select();
    }
  };

  let asked = 0; // the newest replay; an older one is no longer told of
  at(".again").onclick = () => again("replay", { view: view() });

  // Answer again what is open, or what a link carries; then say what differs, and, of a link, show it.
  async function again(question, more, show = false) {
    const mine = ++asked;
    const bar = make("progress");
    result("Answering it again… ", bar);
    const begun = await ask(question, more);
    if (begun.error) return result(begun.error);
    for (;;) {
      const state = await ask("standing", { replay: begun.replay });
      if (mine !== asked) return;
      if (state.error && !state.again) return result(state.error);
      if (state.of) [bar.max, bar.value] = [state.of, state.done];
      if (state.over) {
        if (show) {
          const whole = await ask("replayed", { replay: begun.replay });
          if (whole.error) return result(state.words || whole.error);
          open(whole.view);
        }
        result(state.words);
        at(".result").dataset.same = state.same;
        return;
      }
      await pause(ASK_MS);
    }
  }

  return { follow: (link) => again("follow", { link }, true), forget: () => asked++ };
}

// Past votes: the newest first, a page at a time. Only the owner is answered.
function pastVotes(place, { ask, open, asks, token }) {
  let skip = 0;
  const field = Object.assign(make("input"), { type: "password", autocomplete: "off", placeholder: "Owner's token" });
  field.setAttribute("aria-label", "Owner's token");
  field.hidden = !asks;
  const form = make("form", "ask");
  const newer = button("plain", "Newer", () => look(skip - 10));
  const older = button("plain", "Older", () => look(skip + 10));
  const said = make("span", "said");
  said.setAttribute("role", "status");
  const shut = button("plain", "Close", () => (place.hidden = true));
  const list = make("ol");
  form.append(field, ...(asks ? [make("button", "plain", "Show the votes")] : []), newer, older, said, shut);
  form.onsubmit = (event) => {
    event.preventDefault();
    look(0);
  };
  place.append(form, list);

  async function look(from) {
    said.textContent = "Looking…";
    const answer = await ask("votes", { token: field.value, skip: Math.max(0, from) });
    said.textContent = answer.error ?? (answer.of ? "" : "There are no votes yet.");
    if (answer.error) return;
    token(field.value);
    skip = Math.max(0, from);
    newer.disabled = skip === 0;
    older.disabled = skip + answer.votes.length >= answer.of;
    if (answer.of) said.textContent = `${skip + 1} to ${skip + answer.votes.length} of ${answer.of}, the newest first`;
    list.replaceChildren(
      ...answer.votes.map(({ battle, prompt, when, words }) => {
        const item = make("li");
        const press = button("", undefined, () => open(battle));
        press.append(make("b", "", visible(prompt)), make("small", "", `${when} · ${visible(words)}`));
        item.append(press);
        return item;
      })
    );
  }

  return { show: () => (place.hidden = !place.hidden) || asks || look(0) };
}
