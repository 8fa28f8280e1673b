"""The Inspector in a real browser, on a tiny model that says hostile things: by mouse, keys, touch, and from a file."""

import json
import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import HOSTILE, App, ready
from tests.browser.test_compare import choose, ended, length, run

pytestmark = pytest.mark.browser
PROMPT = "<img src=x onerror=window.hacked=1> ${window.hacked=1} {{window.hacked=1}}"


def tab(page: Page, name: str) -> None:
    """Press a tab, which on a phone may stand in a menu."""
    press = "button[role=tab], .overflow-dropdown button"
    page.evaluate(f"n => [...document.querySelectorAll('{press}')].find(b => b.textContent.trim() === n).click()", name)


def inspect(page: Page, *names: str, tokens: int = 24, prompt: str = PROMPT) -> None:
    """Compare, then the door to the Inspector."""
    length(page, tokens)
    choose(page, *names)
    run(page, prompt)
    ended(page, lanes=len(names) + 1)
    page.click(".stage .door")
    expect(page.locator(".inspector .pane")).to_have_count(len(names) + 1)
    expect(page.locator(".inspector .token.looked")).to_have_count(1)


def token(page: Page, lane: int, i: int):
    return page.locator(".inspector .pane").nth(lane).locator(".token").nth(i)


def press(page: Page, lane: int, i: int) -> None:
    """A real press, on the first of the lines that the token may stand on."""
    node = token(page, lane, i)
    node.scroll_into_view_if_needed()
    page.mouse.click(*node.evaluate("n => { const r = n.getClientRects()[0]; return [r.x + r.width / 2, r.y + 8] }"))


def texts(page: Page) -> list[str]:
    return page.locator(".inspector .pane .text").all_inner_texts()


def turn(page: Page, knob: str, value: float) -> None:
    page.locator(f".inspector .whatif input[type=range][aria-label='{knob}']").fill(str(value))


def grown(page: Page) -> None:
    """Until the branch that is shown has ended."""
    expect(page.locator(".inspector .ballot")).to_be_visible()
    expect(page.locator(".inspector > .note")).to_be_empty()


def test_every_token_is_explained_by_mouse_and_by_keys(page: Page):
    tab(page, "Inspect")
    expect(page.locator(".inspector .intro li")).to_have_count(3)
    page.click(".inspector .to-compare")
    inspect(page, "one")
    said = "".join(texts(page))
    assert (
        any(text in said for text in HOSTILE)
        and page.locator(".inspector :is(.text, .step) :is(script, img)").count() == 0
    )
    assert page.locator(".inspector .what h2").inner_text().startswith("<img src=x onerror")
    step = page.locator(".inspector .step")

    press(page, 1, 2)
    expect(step).to_contain_text("token 3 of 24")
    rows = step.locator(".candidates .row")
    assert rows.count() > 3 and step.locator(".row.chosen").count() == 1 and step.locator(".row.outside").count() > 0
    assert step.locator(".row.chosen .bar").count() == 3  # P, Q and the weight
    expect(step.locator(".facts")).to_contain_text("support")
    for name, inside in (("Pushes", ".pushes .sum"), ("Distribution", "svg polyline"), ("Modes", ".modes .wins")):
        step.get_by_role("tab", name=name).click()
        assert step.locator(inside).count() > 0
    for row in step.get_by_role("tab", name="Pushes").click() or step.locator(".pushes .row").all():
        *parts, whole = re.findall(r"[+−]\d+\.\d\d", row.inner_text())
        numbers = [float(part.replace("−", "-")) for part in parts]
        assert sum(numbers) == pytest.approx(float(whole.replace("−", "-")), abs=0.006 * len(parts))
    step.get_by_role("tab", name="Candidates").click()

    press(page, 1, 2)
    looked = page.locator(".inspector .token:focus")
    for key, at in (("ArrowRight", "token 4"), ("End", "token 24"), ("Home", "token 1 "), ("ArrowRight", "token 2")):
        page.keyboard.press(key)
        expect(step).to_contain_text(at)
    expect(looked).to_have_attribute("aria-label", re.compile("token 2 of 24"))
    page.keyboard.press("ArrowUp")
    expect(step.locator(".letter")).to_have_text("A")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("n")
    expect(looked).to_have_class(re.compile("other"))
    page.keyboard.press("Enter")
    expect(step.locator(".row.chosen")).to_be_focused()
    page.keyboard.press("Escape")
    expect(looked).to_have_class(re.compile("looked"))
    assert page.locator(".inspector .token[tabindex='0']").count() == 2  # one way in for each answer

    for quantity in page.locator(".inspector .colour-choice input").all():
        quantity.check(force=True)
        expect(page.locator(".inspector .scale i").first).not_to_be_empty()
    page.locator(".inspector .timeline svg").click(position={"x": 300, "y": 60})
    expect(step.locator(".letter")).to_have_text("B")
    page.locator(".inspector .table summary").click()
    expect(page.locator(".inspector .table tbody tr")).to_have_count(24)
    page.locator(".inspector .table tbody tr").nth(6).click()
    expect(step).to_contain_text("token 7 of 24")
    expect(page.locator(".inspector .table tr.looked td").first).to_have_text("7")
    assert page.evaluate("window.hacked") is None


def test_what_if_a_branch_its_vote_and_undo(page: Page, app: App):
    inspect(page, "one")
    root = texts(page)
    said = page.locator(".inspector .whatif .said")
    turn(page, "Strength", 0)
    expect(said).to_contain_text("tokens would be decided otherwise; the first is token")
    ringed = page.locator(".inspector .token.would")
    first = int(re.search(r"token (\d+):", said.inner_text())[1]) - 1
    would = page.locator(".inspector .token.first")
    assert ringed.count() == int(said.inner_text().split()[0]) and would.get_attribute("data-i") == str(first)
    assert texts(page) == root  # nothing was generated
    page.click(".inspector .reset")
    expect(ringed).to_have_count(0)
    page.get_by_label("Gate", exact=True).check()
    turn(page, "KL above", 0)
    expect(page.locator(".inspector .pane").nth(1).locator(".token.gated")).to_have_count(24)
    expect(page.locator(".inspector .timeline .span")).to_have_count(1)
    expect(said).to_contain_text(f"the first is token {first + 1}")  # all gated is strength 0

    drawn = page.locator(".inspector .step .chosen .name")
    # Going on from there is what those settings would have said.
    wanted = would.get_attribute("data-would")
    page.click(".inspector .whatif .go")
    grown(page)
    press(page, 1, first)
    assert drawn.evaluate("name => name.firstChild.textContent") == wanted
    assert page.locator(".inspector .pane").nth(1).locator(".token.before").count() == first
    expect(page.locator(".inspector .tree [aria-current]")).to_contain_text("gate at 0")

    # Another token at the third place, from the root; its beginning stays, and both lanes go on.
    page.locator(".inspector .tree button", has_text="The answer").click()
    press(page, 1, 2)
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    other = page.locator(".inspector .candidates .row:focus .name").evaluate("node => node.firstChild.textContent")
    page.keyboard.press("b")
    grown(page)
    for pane in page.locator(".inspector .pane").all():
        assert pane.locator(".token.forced").count() == 1 and pane.locator(".token.before").count() == 2
    expect(page.locator(".inspector .tree [aria-current]")).to_contain_text(other)
    press(page, 1, 2)
    expect(page.locator(".inspector .step .why")).to_contain_text("You said")
    page.click(".inspector .beside")
    assert texts(page)[2] == root[1]  # what the branch left stands beside it
    page.click(".inspector .beside")
    before = len(app.votes())
    page.locator(".inspector .ballot button", has_text="A better").click()
    expect(page.locator(".inspector .ballot")).to_contain_text("Saved: A better")
    expect(page.locator(".inspector .ballot button").first).to_be_disabled()
    assert app.votes()[before:] == [("a", "base", "one", 7)]

    assert page.locator(".inspector .tree li").count() == 3
    page.click(".inspector .undo")
    assert page.locator(".inspector .tree li").count() == 2 and texts(page) == root
    page.click(".inspector .undo")
    expect(page.locator(".inspector .tree")).to_be_hidden()
    assert page.evaluate("window.hacked") is None


def test_a_branch_is_stopped_and_a_mistake_is_told(page: Page):
    length(page, 1000)
    choose(page, "one")
    run(page)
    expect(page.locator(".stage .token").nth(5)).to_be_attached()
    page.click("#stop")
    ended(page)
    page.click(".stage .door")
    expect(page.locator(".inspector .token.looked")).to_have_count(1)
    press(page, 1, 1)
    # By the page itself, as soon as there is something to stop: on a busy machine the branch would end before a click.
    page.evaluate("""() => new MutationObserver((_, watch) => {
        const stop = [...document.querySelectorAll(".inspector > .note button")].find((b) => b.textContent === "Stop");
        if (!stop || document.querySelectorAll(".inspector .token").length < 6) return;
        watch.disconnect();
        stop.click();
    }).observe(document.querySelector(".inspector"), { childList: true, subtree: true })""")
    page.locator(".inspector .candidates .row").nth(1).click()
    expect(page.locator(".inspector .token").nth(5)).to_be_visible()
    grown(page)
    expect(page.locator(".inspector .pane footer").first).to_contain_text("stopped")
    page.locator(".inspector .tree button").first.click()
    page.evaluate("window.dispatchEvent(new CustomEvent('ram-inspect', {detail: {run: 'none'}}))")
    expect(page.locator(".inspector > .note")).to_contain_text("no longer here")
    assert page.locator(".inspector .pane").count() == 2  # what was open still is


def test_what_is_open_is_taken_along_and_opens_again(page: Page, browser: Browser, tmp_path):
    inspect(page, "one", "two", tokens=16)
    press(page, 2, 3)
    page.locator(".inspector .candidates .row").nth(1).click()
    grown(page)
    branch = texts(page)
    page.click(".inspector .again")
    expect(page.locator(".inspector .result[data-same=true]")).to_contain_text("The same, token for token")
    with page.expect_download() as saving:
        page.click(".inspector .save-page")
    saving.value.save_as(tmp_path / "saved.html")
    with page.expect_download() as saving:
        page.click(".inspector .save-trace")
    saving.value.save_as(tmp_path / "saved.json")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click(".inspector .link")
    expect(page.locator(".inspector .result")).to_contain_text("copied")
    link = page.evaluate("navigator.clipboard.readText()")

    # The page by itself, from disk, without a network: all is there but what needs a server.
    away = browser.new_context(offline=True, viewport={"width": 390, "height": 800}, has_touch=True)
    alone = away.new_page()
    asked, errors = [], []
    alone.on("request", lambda request: asked.append(request.url))
    alone.on("pageerror", lambda error: errors.append(str(error)))
    alone.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    address = (tmp_path / "saved.html").as_uri()
    alone.goto(address)
    assert texts(alone) == branch
    alone.locator(".inspector .tree button").first.click()
    expect(alone.locator(".inspector .pane")).to_have_count(3)
    token(alone, 1, 2).tap()
    expect(alone.locator(".inspector .step .row.chosen")).to_be_visible()
    assert alone.locator(".inspector .say").count() == 0
    turn(alone, "Strength", 0)
    expect(alone.locator(".inspector .whatif .said")).not_to_contain_text("As it was")
    for hidden in (".again", ".link", ".undo", ".open-file", ".ballot", ".whatif .go"):
        expect(alone.locator(f".inspector {hidden}")).to_be_hidden()
    assert alone.evaluate("[window.hacked ?? null, document.documentElement.scrollWidth]") == [None, 390]
    assert asked == [address] and not errors
    away.close()

    # The link on a page of its own: answered again.
    other = browser.new_context().new_page()
    other.goto(link)
    expect(other.locator(".inspector .result[data-same=true]")).to_be_visible()
    page.locator(".inspector .tree button").first.click()
    assert texts(other) == texts(page)

    # The trace, and what is none.
    pick = other.locator(".inspector input[type=file]")
    pick.set_input_files(files=[{"name": "<b>no.json", "mimeType": "application/json", "buffer": b"{]"}])
    expect(other.locator(".inspector > .note")).to_contain_text("<b>no.json is not JSON")
    assert texts(other) == texts(page)
    pick.set_input_files(tmp_path / "saved.json")
    expect(other.locator(".inspector .tree li")).to_have_count(2)
    assert texts(other) == texts(page)
    evil = json.loads((tmp_path / "saved.json").read_text())
    evil["title"] = evil["turns"][0]["prompt"] = "</script><script>window.hacked=1</script>"
    drop = """([name, text]) => { const data = new DataTransfer(); data.items.add(new File([text], name));
        const drop = new DragEvent('drop', {dataTransfer: data, bubbles: true});
        document.querySelector('.inspector').dispatchEvent(drop) }"""
    other.evaluate(drop, ["evil.json", json.dumps(evil)])
    expect(other.locator(".inspector .what h2")).to_have_text(evil["title"])
    assert other.evaluate("window.hacked") is None
    other.context.close()


def test_on_a_phone_the_token_comes_up_and_a_reload_keeps_what_is_open(page: Page):
    page.set_viewport_size({"width": 390, "height": 800})
    inspect(page, "one", prompt="Say something.")
    shown = texts(page)
    step = page.locator(".inspector .step")
    expect(step).to_be_hidden()
    press(page, 1, 3)
    expect(step).to_be_in_viewport()
    box, node = step.bounding_box(), token(page, 1, 3).bounding_box()
    assert node["y"] + node["height"] <= box["y"]  # what one pressed is not covered
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    step.get_by_label("Next token").click()
    expect(step).to_contain_text("token 5 of 24")
    step.get_by_label("Close").click()
    expect(step).to_be_hidden()
    page.reload()
    ready(page)
    tab(page, "Inspect")
    expect(page.locator(".inspector .pane")).to_have_count(2)
    assert texts(page) == shown


def test_past_votes_and_the_review_open_in_the_inspector(page: Page):
    length(page, 8)
    choose(page, "one")
    run(page, "Which one?")
    ended(page)
    # Compare's own stage has the same choice of colours. Nothing pushed the base's tokens, but they have an entropy.
    coloured = page.locator("#stage .pane").first.locator('.token[style*="rgb"]')
    expect(coloured).to_have_count(0)
    page.locator("#stage input[value=entropy]").check(force=True)
    expect(coloured.first).to_be_visible()
    expect(page.locator("#stage .scale")).to_contain_text("nats")
    page.click("#votes button:has-text('Tie')")
    expect(page.locator("#said")).to_contain_text("Saved")
    tab(page, "Inspect")
    page.click(".inspector .open-votes")
    page.locator(".inspector .votes li button").first.click()
    expect(page.locator(".inspector .what h2")).to_have_text("Which one?")
    expect(page.locator(".inspector .votes")).to_be_hidden()
    tab(page, "Arena")
    page.click("#owner-room button:has-text('For the owner')")
    page.click("#owner button:has-text('Show the votes')")
    page.locator("#owner article button", has_text="Inspect").first.click()
    expect(page.locator(".inspector .what small")).to_contain_text("battle")
    expect(page.locator(".inspector .pane")).to_have_count(2)
