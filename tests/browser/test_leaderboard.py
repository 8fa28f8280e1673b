"""The Leaderboard in a real browser: how stored votes look, what comes in by itself, and the votes taken along."""

import pytest
from playwright.sync_api import Browser, Page, expect

from ram_demo.ui import leaderboard
from ram_demo.votes import Ballot, Battle, Response, VoteStore
from tests import tiny
from tests.browser.conftest import ready, serve

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=window.hacked=1>"
LONG = "a-name-that-is-longer-than-a-phone-is-wide-and-then-some"
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Call it with a name and environment variables: (address, store) of an app of its own, on a tiny model."""
    root, opened = tmp_path_factory.mktemp("league"), []
    model = tiny.save(root / "model", tiny.model(max_position_embeddings=1400))

    def start(name: str, **environment: str):
        data = root / name
        store = VoteStore(f"sqlite:///{data / 'votes.sqlite3'}")
        server = serve(data, RAM_DEMO_MODEL=str(model), RAM_DEMO_DTYPE="float32", **environment)
        opened.append((server, store))
        return next(server).url, store

    yield start
    for server, store in opened:
        server.close()
        store.close()


@pytest.fixture(scope="module")
def league(served):
    """A page with ten votes: an aligner whose name is markup beats the base, another does not."""
    url, store = served("own")
    vote(store, f"{EVIL}:2", "b", times=6)
    vote(store, f"{LONG}:1,another-one:1", "a", times=4, category="cooking")
    return url, store


def vote(store: VoteStore, lane: str, choice: str, times: int = 1, category: str = "science") -> None:
    """Of the base on side A against a lane on side B."""
    for number in range(times):
        a = Response("base", "", "", "It is so, said the hen.", "eos", 9, 20.0, 90.0, None, None, {})
        b = Response(lane, lane, "ab", "It is.", "eos", 4, 20.0, 90.0, 0.1, 0.2 + number / 10, {})
        made = Battle(f"Why, {number}?", "v", 7, "product", {}, "tiny", "cd", a, b, kind="pair", blind=True,
                      category=category)  # fmt: skip
        store.vote(store.record_battle(made), choice, "v", Ballot(reading_seconds=60.0))


def open_tab(browser: Browser, url: str, **window) -> Page:
    page = browser.new_context(**window).new_page()
    page.goto(url)
    ready(page)
    tab = page.get_by_role("tab", name="Leaderboard")
    if not tab.is_visible():  # on a phone the last tabs stand behind a button
        page.locator(".overflow-menu > button").click()
        tab = page.locator(".overflow-dropdown button", has_text="Leaderboard")
    tab.click()
    return page


def test_every_lane_has_its_place_and_new_votes_come_in_by_themselves(league, browser: Browser):
    url, store = league
    page = open_tab(browser, url)
    rows = page.locator("#league-table tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text(EVIL)
    expect(rows.nth(1)).to_contain_text("base")
    expect(rows.nth(2)).to_contain_text(LONG)
    expect(page.locator("#league-empty")).to_be_hidden()
    expect(page.locator("#league-said")).to_contain_text("10 votes rated")
    for figure in ("dots", "strength", "kl"):
        expect(page.locator(f"#league-{figure} .scatterlayer .point").first).to_be_visible()
    expect(page.locator("#league-dots .ytick text", has_text="base")).to_be_visible()
    expect(page.locator(".league-matrix tbody tr").first.locator("td", has_text="100%")).to_have_count(1)
    vote(store, f"{EVIL}:2", "both_bad")
    expect(page.locator("#league-said")).to_contain_text("11 votes rated")
    expect(page.locator("#league-facts")).to_contain_text("9%")
    assert page.evaluate("window.hacked") is None
    page.context.close()


def test_filters_choose_votes_and_ask_for_more(league, browser: Browser):
    page = open_tab(browser, league[0])
    rows = page.locator("#league-table tbody tr")
    expect(rows).to_have_count(3)
    page.get_by_label("Category").click()
    page.get_by_role("option", name="cooking").click()
    expect(rows).to_have_count(2)
    expect(page.locator("#league-said")).to_contain_text("4 votes rated")
    page.get_by_label("Elo too").check()
    expect(page.locator("#league-table thead")).to_contain_text("Elo")
    page.get_by_label("Taken out").click()
    page.get_by_role("option", name="length", exact=True).click()
    expect(page.locator("#league-facts")).to_contain_text("Twice the length")
    page.context.close()


def test_the_page_fits_a_phone_and_the_dark(league, browser: Browser):
    page = open_tab(browser, league[0], viewport=PHONE)
    expect(page.locator("#league-dots .scatterlayer .point").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    words = page.locator("#league-dots .xtitle")
    light = words.evaluate("text => getComputedStyle(text).fill")
    page.evaluate("document.body.classList.toggle('dark')")
    assert words.evaluate("text => getComputedStyle(text).fill") != light, "a figure's words follow the page"
    page.context.close()


def test_the_votes_are_taken_along_and_trained_on(league, browser: Browser):
    url, store = league
    page = open_tab(browser, url)
    for name, words in leaderboard.FORMAT_WORDS.items():
        with page.expect_download() as download:
            page.locator(".league-take").get_by_role("button", name=words, exact=True).click()
        assert download.value.suggested_filename.startswith(f"votes-{name}.")
        text = download.value.path().read_text("utf-8")
        assert "It is so, said the hen." in text and "session" not in text
    assert len(text.splitlines()) == store.count(), "the last of them is one line a vote"
    page.locator("#league-train").click()
    expect(page.get_by_label("the votes collected here")).to_be_checked()
    expect(page.locator("#preview")).to_contain_text("10 examples")
    page.context.close()


def test_a_page_that_others_reach_starts_empty_and_keeps_the_votes_for_its_owner(served, browser: Browser):
    url, store = served("public", RAM_DEMO_HOST="0.0.0.0", RAM_DEMO_OWNER_TOKEN="secret")
    page = open_tab(browser, url)
    expect(page.locator("#league-empty")).to_contain_text("No votes to rate yet")
    expect(page.locator("#league")).to_be_hidden()
    vote(store, "one:1", "b")
    expect(page.locator("#league-table tbody tr")).to_have_count(2)
    page.get_by_role("button", name="CSV").click()
    expect(page.get_by_text("takes the owner's token").first).to_be_visible()
    page.locator("#league-token input").fill("secret")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename == "votes-csv.csv"
    page.context.close()
