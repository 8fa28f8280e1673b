"""The Compare tab in a real browser, on a tiny model that says hostile things."""

import json
import shutil

import pytest
from playwright.sync_api import Browser, Page, TimeoutError, expect

from tests.browser.conftest import HOSTILE, App, ready

pytestmark = pytest.mark.browser


def choose(page: Page, *names: str) -> None:
    for card in page.locator(".picker .option").all():
        card.locator("input[type=checkbox]").set_checked(card.get_attribute("data-name") in names)


def strength(page: Page, name: str, value: float) -> None:
    page.locator(f'.option[data-name="{name}"] input[type=range]').fill(str(value))


def length(page: Page, tokens: int) -> None:
    page.locator("#length input[type=number]").fill(str(tokens))
    page.locator("#length input[type=number]").press("Tab")


def run(page: Page, prompt: str = "Say something.") -> None:
    """Press Run until another run is on the stage: on a loaded machine the first press can come before the page
    listens to that button, and says nothing about what is tested."""
    before = page.locator(".stage").get_attribute("data-run") or ""
    page.fill("#prompt textarea", prompt)
    for _ in range(3):
        page.click("#run")
        try:
            page.wait_for_function("b => (document.querySelector('.stage').dataset.run || '') !== b", arg=before)
            return
        except TimeoutError:
            continue


def ended(page: Page, lanes: int = 2) -> None:
    expect(page.locator(".pane footer", has_text="first after")).to_have_count(lanes)
    expect(page.locator("#run")).to_be_enabled()


def answer(page: Page, lane: int) -> str:
    return page.locator(".pane .text").nth(lane).inner_text()


def test_from_the_first_look_to_a_saved_vote(page: Page, app: App):
    assert page.locator(".intro li").count() == 3
    for button in page.locator("#votes button").all():
        expect(button).to_be_disabled()
    before = len(app.votes())
    choose(page, "one")
    length(page, 48)
    run(page)
    ended(page)
    assert page.locator(".pane h3").all_inner_texts() == ["Base", "one"]
    assert page.locator(".pane").nth(0).locator(".token").count() > 0
    page.click("#votes button:has-text('B better')")
    expect(page.locator("#said")).to_contain_text("Saved")
    assert app.votes()[before:] == [("b", "base", "one", 7)]
    for button in page.locator("#votes button").all():
        expect(button).to_be_disabled()
    page.reload()
    ready(page)
    expect(page.locator(".pane")).to_have_count(0)
    assert len(app.votes()) == before + 1


def test_both_panes_stream_and_stop_ends_them_at_once(page: Page):
    choose(page, "one")
    length(page, 1024)
    run(page)
    grown = "n => [...document.querySelectorAll('.pane')].length == 2 && [...document.querySelectorAll('.pane')]"
    grown += ".every(p => p.querySelectorAll('.token').length > n)"
    page.wait_for_function(grown, arg=3)
    seen = page.locator(".pane").nth(1).locator(".token").count()
    # It goes on growing in both. In the same moment the page itself looks at the votes and presses Stop: on a busy
    # machine both could end before a click of ours comes.
    look = "[document.querySelector('#votes button').disabled, document.querySelector('#stop').click()].slice(0, 1)"
    assert page.wait_for_function(f"n => ({grown})(n) && {look}", arg=seen).json_value() == [True]
    ended(page)
    expect(page.locator(".pane footer").first).to_contain_text("stopped")
    assert page.locator(".pane").nth(0).locator(".token").count() < 1024


def test_a_token_shows_its_candidates_and_keys_move_along(page: Page):
    choose(page, "one")
    length(page, 24)
    run(page)
    ended(page)
    token = page.locator(".pane").nth(1).locator(".token").nth(2)
    token.click()
    detail = page.locator(".detail")
    expect(detail).to_contain_text("token 3")
    assert detail.locator(".row.chosen").count() == 1
    assert detail.locator(".row .bar.p").count() == detail.locator(".row .bar.q").count() > 0
    expect(detail.locator(".facts")).to_contain_text("support")
    page.keyboard.press("ArrowRight")
    expect(detail).to_contain_text("token 4")
    page.keyboard.press("ArrowUp")  # the same place in the other answer
    expect(detail.locator(".letter")).to_have_text("A")


def test_swapping_the_aligner_keeps_the_seed_and_the_base(page: Page):
    length(page, 32)
    choose(page, "one")
    run(page)
    ended(page)
    base, one = answer(page, 0), answer(page, 1)
    expect(page.locator(".part")).to_contain_text("parts from the base at token")
    choose(page, "two")
    page.click("#run")
    expect(page.locator(".pane h3").nth(1)).to_have_text("two")
    ended(page)
    assert answer(page, 0) == base
    assert answer(page, 1) != one
    page.click("#new-seed")
    stage = page.locator(".stage")
    before = stage.get_attribute("data-run")
    page.click("#again")  # whatever the seed's field says now
    expect(stage).not_to_have_attribute("data-run", before)
    ended(page)
    assert answer(page, 0) == base


def test_strength_zero_is_the_base(page: Page):
    length(page, 32)
    choose(page, "one")
    strength(page, "one", 0)
    run(page)
    ended(page)
    assert answer(page, 0) == answer(page, 1)
    expect(page.locator(".part")).to_be_empty()


def test_a_recommended_strength_is_used_to_the_digit(page: Page, app: App):
    """Also one that the slider has no step for; what a person sets, and chooses again, is kept."""
    folder = app.data / "aligners" / "fine"
    shutil.copytree(app.data / "aligners" / "one", folder)
    (folder / "aligner.json").write_text(json.dumps({"name": "fine", "beta": 1.23}))
    try:
        page.reload()
        ready(page)
        length(page, 8)
        option = page.locator('.option[data-name="fine"]')
        detail = page.locator(".pane header small").nth(1)
        for then, shown in ((None, "1.23"), (0.85, "0.85"), (2, "2.0")):
            choose(page, "fine")
            if then is not None:
                strength(page, "fine", then)
            choose(page)
            choose(page, "fine")
            expect(option.locator("output")).to_have_text(shown)
            run(page)
            ended(page)
            expect(detail).to_contain_text(f"strength {float(shown):g}")
    finally:
        shutil.rmtree(folder)


def test_several_aligners_each_or_composed(page: Page, app: App):
    length(page, 16)
    choose(page, "one", "two")
    run(page)
    ended(page, lanes=3)
    assert page.locator(".pane h3").all_inner_texts() == ["Base", "one", "two"]
    before = len(app.votes())
    page.locator("#pair input").click()
    page.get_by_role("option", name="B (one) or C (two)").click()
    page.click("#votes button:has-text('C better')")
    expect(page.locator("#said")).to_contain_text("Saved")
    assert app.votes()[before:] == [("b", "one", "two", 7)]
    page.get_by_label("composed in one pane").check()
    page.click("#run")
    expect(page.locator(".pane")).to_have_count(2)
    ended(page)
    assert page.locator(".pane h3").nth(1).inner_text() == "one+two"


def test_what_a_model_says_is_text_whatever_it_says(page: Page):
    length(page, 400)
    choose(page, "one")
    run(page, "<script>window.hacked=1</script> ${window.hacked=1} {{window.hacked=1}} \ud800 👩‍👩‍👧")
    ended(page)
    said = answer(page, 0) + answer(page, 1)
    for text in HOSTILE:
        assert text.replace("\u202e", "⟨U+202E⟩") in said
    for token in page.locator(".pane .token").all()[:20]:
        token.click()
    assert page.evaluate("window.hacked") is None
    assert page.locator(".stage script, .stage img").count() == 0


def test_a_mistake_is_one_clear_message_and_the_page_goes_on(page: Page):
    page.fill("#prompt textarea", "   ")
    page.click("#run")
    expect(page.get_by_text("The prompt is empty.").first).to_be_visible()
    expect(page.locator("#run")).to_be_enabled()
    run(page, "word " * 2000)
    expect(page.get_by_text("tokens too long").first).to_be_visible()
    expect(page.locator("#run")).to_be_enabled()
    length(page, 8)
    choose(page, "one")
    run(page)
    ended(page)


def test_a_closed_tab_frees_the_model(page: Page, browser: Browser, app: App):
    other = browser.new_page()
    other.goto(app.url)
    ready(other)
    length(other, 1024)
    choose(other, "one")
    run(other)
    other.wait_for_selector(".pane .token")
    other.close()
    length(page, 8)
    choose(page, "two")
    run(page)
    ended(page)


def test_two_people_at_once_each_get_their_own(page: Page, browser: Browser, app: App):
    other = browser.new_page()
    other.goto(app.url)
    ready(other)
    for tab, name in ((page, "one"), (other, "two")):
        length(tab, 64)
        choose(tab, name)
    run(page)
    run(other)
    ended(page)
    ended(other)
    assert page.locator(".pane h3").nth(1).inner_text() == "one"
    assert other.locator(".pane h3").nth(1).inner_text() == "two"
    other.close()


def test_on_a_phone_nothing_is_cut_off(page: Page):
    page.set_viewport_size({"width": 390, "height": 800})
    length(page, 32)
    choose(page, "one")
    run(page)
    ended(page)
    page.locator(".pane .token").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    first, second = (pane.bounding_box() for pane in page.locator(".pane").all())
    assert second["y"] >= first["y"] + first["height"]  # one below the other


def test_dark_and_light(page: Page):
    ink = "getComputedStyle(document.querySelector('#prompt textarea')).color"
    before = page.evaluate(ink)
    page.click("#theme")
    page.wait_for_function(f"{ink} !== {before!r}")
    page.click("#theme")
    page.wait_for_function(f"{ink} === {before!r}")


def test_a_choice_made_before_the_page_has_all_its_news_is_kept(browser: Browser, app: App):
    """What the page asks as it opens is answered only after the person has chosen and pressed Run."""
    context = browser.new_context()
    page = context.new_page()
    held = []

    def hold(route):
        asked = route.request.post_data or ""
        held.append(route) if '"fn_index"' in asked and not held else route.continue_()

    page.route("**/gradio_api/run/predict*", hold)
    page.goto(app.url)
    ready(page)
    assert held, "nothing was asked as the page opened"
    choose(page, "one")
    with page.expect_response("**/gradio_api/run/predict*"):
        held[0].continue_()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    run(page, "Say something.")
    ended(page)
    assert page.locator(".pane h3").all_inner_texts() == ["Base", "one"]
    context.close()
