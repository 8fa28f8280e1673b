"""The Arena in a real browser: a battle from the prompt to its replay, what the page is told before the vote, and a
vote that the server will not take."""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from playwright.sync_api import Browser, Page, expect

from tests import tiny
from tests.browser.conftest import HOSTILE, App, hostile, ready, serve

pytestmark = pytest.mark.browser
# Names that no text of the page holds by chance.
NAMES = ("quokka", "zebra")
TOKEN = "the owner's own"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple:
    """A model that says hostile things and never ends, with two aligners."""
    root = tmp_path_factory.mktemp("arena")
    folder = hostile(root / "model", 2000)
    for seed, name in enumerate(NAMES):
        tiny.adapter(root / "data" / "aligners" / name, folder, seed=seed)
    return root / "data", {"RAM_DEMO_MODEL": str(folder), "RAM_DEMO_DTYPE": "float32"}


@pytest.fixture(scope="module")
def app(data) -> Iterator[App]:
    place, environment = data
    yield from serve(place, **environment)


def open_arena(browser: Browser, app: App) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("dialog", lambda dialog: page.errors.append(f"a dialog: {dialog.message}"))
    # As it opens, the page is told of all aligners, and tells the server that its picker has changed. On a busy machine
    # that comes after everything else stands, and is no message of the Arena.
    with page.expect_response(lambda response: '"keep":true' in (response.request.post_data or ""), timeout=90_000):
        page.goto(app.url)
    ready(page)
    page.get_by_role("tab", name="Arena").click()
    page.wait_for_selector(".arena[data-state=idle]")
    return page


@pytest.fixture
def page(browser: Browser, app: App) -> Iterator[Page]:
    page = open_arena(browser, app)
    yield page
    page.context.close()
    assert not page.errors


def state(page: Page, wanted: str) -> None:
    page.wait_for_selector(f".arena[data-state={wanted}]", timeout=90_000)


def ask(page: Page, prompt: str, whole: bool = False) -> None:
    """Say something and wait until both have answered, whole or so much that they can be voted on."""
    page.fill(".arena .prompt textarea", prompt)
    page.keyboard.press("Enter")
    state(page, "running")
    if not whole:
        stop(page)
    state(page, "ended")


def stop(page: Page) -> None:
    """Press Stop as soon as both have said something, by the page itself: on a busy machine both could end before a
    click of ours comes."""
    page.wait_for_function("""() => {
        const button = document.querySelector(".arena .halt");
        const said = [...document.querySelectorAll(".arena .text")].slice(-2).every((text) => text.textContent);
        const ready = said && !button.hidden;
        if (ready) button.click();
        return ready;
    }""")


def texts(page: Page) -> list[str]:
    return page.locator(".arena .text").all_inner_texts()


def rows(app: App, query: str) -> list[tuple]:
    with closing(sqlite3.connect(app.data / "votes.sqlite3")) as db:
        return db.execute(query).fetchall()


NEWEST = "FROM battle LEFT JOIN vote ON battle.id = vote.battle_id ORDER BY battle.created_at DESC LIMIT 1"


def test_a_battle_of_two_turns_from_the_prompt_to_its_replay(page: Page, app: App):
    expect(page.locator(".arena .intro li")).to_have_count(3)
    page.get_by_role("button", name="How do I boil an egg?").click()
    page.get_by_role("button", name="Start a battle").click()
    state(page, "running")
    for choice in page.locator(".arena .choices button").all():
        expect(choice).to_be_disabled()
    state(page, "ended")
    first = texts(page)
    assert len(first) == 2 and all(first)
    ask(page, "And a hard one?", whole=True)
    assert texts(page)[:2] == first and len(texts(page)) == 4
    page.get_by_role("button", name="clear", exact=True).click()
    page.fill(".arena .why textarea", "<b>B</b> says it plainly")
    page.locator(".arena .text[data-side=b]").last.evaluate("""node => {
        const range = document.createRange();
        range.setStart(node.firstChild, 4);
        range.setEnd(node.firstChild, 40);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        node.dispatchEvent(new MouseEvent("mouseup", { bubbles: true }));
    }""")
    marked = page.locator(".arena .text[data-side=b] mark").last.inner_text()
    page.get_by_role("button", name="B is better").click()
    state(page, "revealed")
    expect(page.locator(".revealed h2")).to_have_text("You found B better")
    ((battle, kind, seed, choice, reasons, comment, side, start, end),) = rows(
        app, f"SELECT battle.id, kind, seed, choice, reasons, comment, span_side, span_start, span_end {NEWEST}"
    )
    assert (choice, json.loads(reasons), comment, side) == ("b", ["clear"], "<b>B</b> says it plainly", "b")
    labels = rows(app, f"SELECT aligners FROM response WHERE battle_id = '{battle}' AND turn = 1 ORDER BY side")
    for (label,), shown in zip(labels, page.locator(".who article").all(), strict=True):
        name, _, strength = label.partition(":")
        expect(shown.locator("h3")).to_have_text(name or "Base")
        if name:
            expect(shown.locator("small")).to_contain_text(f"strength {strength}")
    if kind != "placebo":
        expect(page.locator(".who")).to_contain_text(str(seed + 1))  # each turn has its own
    ((text,),) = rows(app, f"SELECT text FROM response WHERE battle_id = '{battle}' AND turn = 1 AND side = 'b'")
    assert text[start:end].strip() in marked or marked in text[start:end] or "⟨U+" in marked
    expect(page.locator("#arena .stage .pane")).to_have_count(2)
    expect(page.locator("#arena .stage .token").first).to_be_visible()
    page.get_by_role("button", name="Turn 1").click()
    expect(page.locator(".revealed .parting")).to_contain_text("How do I boil an egg?")
    page.get_by_role("button", name="Replay this battle exactly").click()
    expect(page.locator(".revealed .result")).to_contain_text("The same, token for token")
    page.get_by_role("button", name="New battle").click()
    state(page, "idle")
    assert texts(page) == []


def test_before_the_vote_nothing_that_reaches_the_page_tells_who_is_who(page: Page, app: App):
    """Every message between page and server, and the tab's DOM, from the first word until the vote is cast."""
    told, seen = [], []
    page.on("response", lambda response: told.append((response.url, response.request.post_data, response.text())))
    page.fill(".arena .prompt textarea", "Say something.")
    page.keyboard.press("Enter")
    state(page, "running")
    while page.locator(".arena").get_attribute("data-state") != "ended":
        seen.append(page.locator("#arena").evaluate("node => node.outerHTML"))
    ask(page, "And more.", whole=True)
    seen.append(page.locator("#arena").evaluate("node => node.outerHTML"))
    before = list(told)
    ((battle, seed),) = rows(app, f"SELECT battle.id, seed {NEWEST}")
    secrets = [*NAMES, str(seed), str(seed + 1)]
    assert len(before) > 4 and len(seen) > 1
    for words in [*map(" ".join, [(url, asked or "", answer) for url, asked, answer in before]), *seen]:
        assert not [secret for secret in secrets if secret in words]
    answers = [json.loads(answer) for url, _, answer in before if "component_server" in url]
    assert {frozenset(answer) for answer in answers} == {
        frozenset({"battle"}),
        frozenset({"turn"}),
        frozenset({"state", "heard", "a", "b", "note"}),
    }
    assert {answer["battle"] for answer in answers if "battle" in answer} == {battle}
    assert not any(answer.get("note") for answer in answers)
    # The two panes are one another's, but for the letter and the text.
    one, other = page.locator(".arena .sides").last.evaluate("""sides => [...sides.children].map((pane) => {
        const copy = pane.cloneNode(true);
        copy.querySelector(".text").replaceChildren();
        return copy.outerHTML;
    })""")
    assert one.replace('data-side="a"', 'data-side="b"').replace(">A<", ">B<").replace("Answer A", "Answer B") == other
    boxes = [pane.bounding_box() for pane in page.locator(".arena .sides").last.locator(".side").all()]
    assert boxes[0]["width"] == boxes[1]["width"] and boxes[0]["y"] == boxes[1]["y"]
    page.keyboard.press("1")
    state(page, "revealed")


def test_what_is_said_is_text_whatever_it_says(page: Page):
    ask(page, "<script>window.hacked=1</script> ${window.hacked=1} {{window.hacked=1}} \u202e 👩‍👩‍👧", whole=True)
    said = "".join(texts(page))
    assert any(words in said for words in HOSTILE[:2])
    assert "\u202e" not in page.locator("#arena").inner_text()
    page.keyboard.press("3")
    state(page, "revealed")
    expect(page.locator(".revealed .parting")).to_contain_text("<script>window.hacked=1</script>")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#arena script, #arena img").count() == 0


def post(page: Page, question: str, **asked) -> dict:
    """What the server says to a question that no page would ask."""
    return page.evaluate(
        """async ([name, data]) => {
            const { components } = await (await fetch("config")).json();
            const component_id = components.find((one) => one.props.elem_id === "arena").id;
            const body = JSON.stringify({ session_hash: "anything", component_id, fn_name: name, data });
            const headers = { "Content-Type": "application/json" };
            return (await fetch("gradio_api/component_server/", { method: "POST", headers, body })).json();
        }""",
        [question, asked],
    )


def test_a_second_vote_from_another_tab_or_by_hand_is_refused(page: Page, browser: Browser, app: App):
    ask(page, "Say something.")
    ((battle,),) = rows(app, f"SELECT battle.id {NEWEST}")
    mine = page.evaluate("sessionStorage.getItem('ram-demo-session')")
    other = open_arena(browser, app)
    theirs = other.evaluate("sessionStorage.getItem('ram-demo-session')")
    assert theirs != mine
    assert "not yours" in post(other, "vote", battle=battle, session=theirs, choice="a")["error"]
    assert "Unknown battle" in post(other, "vote", battle="0" * 32, session=theirs, choice="a")["error"]
    for wrong in ({"reasons": "clear"}, {"span": ["a", 0]}, {"comment": 3}, {"choice": None}, {"comment": "x" * 10**6}):
        assert post(page, "vote", **{"battle": battle, "session": mine, "choice": "a", **wrong})["error"]
    # A duplicated tab has the session too.
    assert post(other, "vote", battle=battle, session=mine, choice="a") == {}
    page.keyboard.press("2")
    expect(page.locator(".arena .note")).to_contain_text("voted on once")
    assert rows(app, f"SELECT choice {NEWEST}") == [("a",)]
    other.context.close()


def test_arrow_keys_at_the_buttons_vote_too(page: Page, app: App):
    ask(page, "Say something.")
    page.keyboard.press("ArrowLeft")
    state(page, "ended")
    page.locator(".arena .choices button").first.focus()
    page.keyboard.press("ArrowDown")
    state(page, "revealed")
    assert rows(app, f"SELECT choice {NEWEST}") == [("both_bad",)]


def test_digits_that_are_typed_are_no_votes(page: Page):
    ask(page, "Say something.")
    page.locator(".arena .prompt textarea").press_sequentially("1234")
    state(page, "ended")
    expect(page.locator(".arena .prompt textarea")).to_have_value("1234")


def test_a_vote_that_is_not_saved_stays_and_is_sent_again_even_after_a_reload(page: Page, app: App):
    ask(page, "Say something.")
    tries = []

    def refuse(route):
        if json.loads(route.request.post_data)["fn_name"] != "vote":
            return route.continue_()
        tries.append(route.request.post_data)
        if len(tries) == 1:
            return route.fulfill(json={"error": "The vote was NOT saved: the disk is full.", "again": True})
        return route.abort()

    page.route("**/component_server/**", refuse)
    page.evaluate("""() => {
        window.notes = new Set();
        const note = document.querySelector(".arena .note");
        new MutationObserver(() => notes.add(note.textContent)).observe(note, { childList: true });
    }""")
    page.get_by_role("button", name="A is better").click()
    page.wait_for_function("[...notes].some((note) => note.includes('Trying again in 2 s.'))")  # by itself
    kept = "Your vote (A is better) is not saved yet. It is kept on this page. "
    notes = page.evaluate("[...notes].filter((note) => note.includes('kept on this page'))")
    assert notes[0].startswith(kept + "The vote was NOT saved: the disk is full. Trying again in 1 s.")
    assert notes[1].startswith(kept + "The server did not answer. Trying again in 2 s.")
    said = [json.loads(body)["data"] for body in tries]
    assert all({**one, "retried": False} == said[0] for one in said)
    assert rows(app, f"SELECT choice {NEWEST}") == [(None,)]
    page.unroute("**/component_server/**")
    page.reload()
    ready(page)
    page.get_by_role("tab", name="Arena").click()
    state(page, "revealed")
    expect(page.locator(".revealed h2")).to_have_text("You found A better")
    assert rows(app, f"SELECT choice {NEWEST}") == [("a",)]


def test_a_vote_whose_answer_was_lost_is_known_to_be_saved(page: Page, app: App):
    ask(page, "Say something.")

    swallowed = []

    def swallow(route):
        if swallowed or json.loads(route.request.post_data)["fn_name"] != "vote":
            return route.continue_()
        swallowed.append(route.fetch())
        return route.abort()

    page.route("**/component_server/**", swallow)
    page.keyboard.press("4")
    state(page, "revealed")
    expect(page.locator(".revealed h2")).to_have_text("You found both bad")
    assert rows(app, f"SELECT choice {NEWEST}") == [("both_bad",)]


def test_stop_ends_both_and_they_can_be_voted_on_or_revealed(page: Page, app: App):
    page.fill(".arena .prompt textarea", "Say something.")
    page.keyboard.press("Enter")
    state(page, "running")
    stop(page)
    state(page, "ended")
    page.get_by_role("button", name="Reveal without voting").click()
    state(page, "revealed")
    expect(page.locator(".revealed h2")).to_have_text("Revealed, without a vote")
    assert rows(app, f"SELECT choice, state {NEWEST}") == [(None, "revealed")]


def test_a_mistake_is_one_sentence_and_the_page_goes_on(page: Page):
    page.fill(".arena .prompt textarea", "word " * 3000)
    page.keyboard.press("Enter")
    expect(page.locator(".arena .note")).to_contain_text("tokens too long")
    state(page, "idle")
    ask(page, "Say something.")


def test_on_a_phone_nothing_is_cut_off(page: Page):
    page.set_viewport_size({"width": 390, "height": 800})
    ask(page, "Say something.")
    one, other = (pane.bounding_box() for pane in page.locator(".arena .side").all())
    assert other["y"] >= one["y"] + one["height"]
    page.keyboard.press("1")
    state(page, "revealed")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_owner_sees_the_votes_and_says_which_count(page: Page, app: App):
    ask(page, "Say something to review.")
    page.fill(".arena .why textarea", "<i>why</i>")
    page.keyboard.press("Tab")
    page.locator(".arena .choices button").first.click()
    state(page, "revealed")
    page.get_by_text("For the owner: review the votes").click()
    page.get_by_role("button", name="Show the votes").click()
    vote = page.locator(".owner article").first
    expect(vote).to_contain_text("Say something to review.")
    expect(vote).to_contain_text("<i>why</i>")
    vote.get_by_label("Why it should").fill("it is a test")
    count = "SELECT count(*) FROM vote"
    before = rows(app, count)
    excluded = vote.get_by_role("button", name="Exclude")
    was_counting = excluded.count() == 1
    vote.locator(".word button").click()
    expect(vote.locator("em")).to_have_text(re.compile("it is a test"))
    expect(vote.locator("em")).to_contain_text("does not count" if was_counting else "counts")
    assert rows(app, count) == before, "nothing is deleted"
    newest = rows(app, "SELECT by, why FROM review ORDER BY created_at DESC, id DESC LIMIT 1")
    assert newest == [("owner", "it is a test")]


def test_a_page_that_others_reach_shows_votes_to_its_owner_alone(browser: Browser, data):
    place, environment = data
    served = serve(place, **environment, RAM_DEMO_HOST="0.0.0.0", RAM_DEMO_OWNER_TOKEN=TOKEN)
    page = open_arena(browser, next(served))
    page.get_by_text("For the owner: review the votes").click()
    for key, words in (
        ("", "takes the owner's token"),
        ("wrong", "takes the owner's token"),
        (TOKEN, "the newest first"),
    ):
        page.get_by_label("Owner's token").last.fill(key)
        page.get_by_role("button", name="Show the votes").click()
        expect(page.locator(".owner .said")).to_contain_text(words)
        assert (page.locator(".owner article").count() > 0) is (key == TOKEN)
    assert not page.errors
    page.context.close()
    served.close()
