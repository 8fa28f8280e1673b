"""The Leaderboard in a real browser: how stored votes look, what comes in by itself, and the votes taken along."""

import json

import pytest
from playwright.sync_api import Browser, Page, expect

from ram_demo.votes import Ballot, Battle, Response, VoteStore
from tests import tiny
from tests.browser.conftest import ready, serve

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=window.hacked=1>"
PHONE = {"width": 390, "height": 844}


@pytest.fixture
def place(tmp_path):
    """(data folder, environment) of an app of its own, on a tiny model."""
    folder = tiny.save(tmp_path / "model", tiny.model(max_position_embeddings=1400))
    return tmp_path / "data", {"RAM_DEMO_MODEL": str(folder), "RAM_DEMO_DTYPE": "float32"}


@pytest.fixture
def store(place):
    store = VoteStore(f"sqlite:///{place[0] / 'votes.sqlite3'}")
    yield store
    store.close()


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


def test_votes_become_places_at_once_and_by_themselves(place, store, browser: Browser):
    server = serve(place[0], **place[1])
    page = open_tab(browser, next(server).url)
    expect(page.locator("#league-empty")).to_contain_text("No votes to rate yet")
    expect(page.locator("#league")).to_be_hidden()
    vote(store, f"{EVIL}:2", "b", times=6)
    vote(store, "one:1", "a", times=4, category="cooking")
    rows = page.locator(".league tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text(EVIL)
    expect(rows.nth(1)).to_contain_text("base")
    expect(rows.nth(2)).to_contain_text("one")
    expect(page.locator("#league-empty")).to_be_hidden()
    expect(page.locator("#league-said")).to_contain_text("10 votes rated")
    for figure in ("dots", "strength", "kl"):
        expect(page.locator(f"#league-{figure} .scatterlayer .point").first).to_be_visible()
    expect(page.locator("#league-dots .yaxislayer-above text, #league-dots .ytick text").first).to_contain_text("one:1")
    expect(page.locator(".league-matrix tbody tr").first.locator("td", has_text="100%")).to_have_count(1)
    vote(store, "one:1", "both_bad")
    expect(page.locator("#league-said")).to_contain_text("11 votes rated")
    expect(page.locator("#league-facts")).to_contain_text("9%")
    assert page.evaluate("window.hacked") is None

    page.get_by_label("Category").click()
    page.get_by_role("option", name="cooking").click()
    expect(rows).to_have_count(2)
    expect(page.locator("#league-said")).to_contain_text("4 votes rated")
    page.get_by_label("Elo too").check()
    expect(page.locator(".league thead")).to_contain_text("Elo")
    page.context.close()
    server.close()


def test_the_page_fits_a_phone_and_the_dark(place, store, browser: Browser):
    vote(store, "a-name-that-is-longer-than-a-phone-is-wide-and-then-some:1,another-one:1", "b", times=3)
    server = serve(place[0], **place[1])
    page = open_tab(browser, next(server).url, viewport=PHONE)
    expect(page.locator("#league-dots .scatterlayer .point").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    words = page.locator("#league-dots .xtitle")
    light = words.evaluate("text => getComputedStyle(text).fill")
    page.evaluate("document.body.classList.toggle('dark')")
    assert words.evaluate("text => getComputedStyle(text).fill") != light, "a figure's words follow the page"
    page.context.close()
    server.close()


def test_the_votes_are_taken_along_and_trained_on(place, store, browser: Browser):
    vote(store, "one:1", "b", times=3)
    server = serve(place[0], **place[1])
    page = open_tab(browser, next(server).url)
    with page.expect_download() as download:
        page.get_by_role("button", name="JSONL, all there is").click()
    assert download.value.suggested_filename == "votes-jsonl.jsonl"
    rows = [json.loads(line) for line in download.value.path().read_text("utf-8").splitlines()]
    assert [row["choice"] for row in rows] == ["b"] * 3 and "session" not in rows[0]
    page.locator("#league-train").click()
    expect(page.get_by_label("the votes collected here")).to_be_checked()
    expect(page.locator("#preview")).to_contain_text("3 examples")
    page.context.close()
    server.close()


def test_on_a_page_that_others_reach_the_votes_are_the_owners(place, store, browser: Browser):
    vote(store, "one:1", "b")
    server = serve(place[0], **place[1], RAM_DEMO_HOST="0.0.0.0", RAM_DEMO_OWNER_TOKEN="secret")
    page = open_tab(browser, next(server).url)
    expect(page.locator(".league tbody tr")).to_have_count(2)
    page.get_by_role("button", name="CSV").click()
    expect(page.get_by_text("takes the owner's token").first).to_be_visible()
    page.locator("#league-token input").fill("secret")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename == "votes-csv.csv"
    page.context.close()
    server.close()
