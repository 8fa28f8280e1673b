"""gradio's own Python client as a second real client of the handlers: it obeys no page, so the server must decide."""

import json

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from tests.browser.conftest import App

ASKED = {
    "prompt": "Say something.",
    "picked": {"chosen": {"one": 1.0}},
    "seed": 3,
    "layout": "a pane for each",
    "mode": "product",
    "gate": "off",
    "tau": 1.0,
    "length": 16,
    "t": 0.7,
    "t_p": 1.0,
    "t_q": 1.0,
    "top_p": 0.95,
    "top_k": 0,
    "penalty": 1.05,
    "n": 16,
}


@pytest.fixture
def client(app: App) -> Client:
    return Client(app.url, verbose=False)


def compare(client: Client, **changes) -> tuple[str, dict]:
    """The run's id and, by lane, the closing summaries."""
    job = client.submit(*({**ASKED, **changes}).values(), api_name="/compare")
    job.result(timeout=120)
    run = next(json.loads(out[0])["run"] for out in job.outputs() if isinstance(out[0], str))
    news = client.predict(run, 0, api_name="/news")
    assert client.predict(run, news["heard"], api_name="/news")["steps"] == [], "nothing is sent that was heard"
    return run, {trace["lane"]: trace for trace in news["traces"]}


def test_compare_and_vote_once(client: Client, app: App):
    run, lanes = compare(client)
    assert set(lanes) == {"base", "one"}
    assert all(lane["done"] in ("eos", "length") and lane["tokens"] <= 16 for lane in lanes.values())
    before = len(app.votes())
    assert "Saved" in client.predict(run, "0:1", "tie", api_name="/vote")
    with pytest.raises(AppError, match="already"):
        client.predict(run, "0:1", "a", api_name="/vote")
    assert app.votes()[before:] == [("tie", "base", "one", 3)]


def test_the_same_seed_says_the_same(client: Client):
    first, second, other = (compare(client, seed=seed)[1] for seed in (5, 5, 6))
    assert first["one"]["text"] == second["one"]["text"]
    assert first["base"]["text"] == second["base"]["text"]
    assert first["base"]["text"] != other["base"]["text"]


def test_a_stranger_cannot_vote(client: Client, app: App):
    run, _ = compare(client)
    with pytest.raises(AppError, match="session"):
        Client(app.url, verbose=False).predict(run, "0:1", "a", api_name="/vote")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt": ""}, "empty"),
        ({"picked": {"chosen": {"nobody": 1}}}, "no aligner"),
        ({"picked": {"chosen": {"one": -1}}}, "strength"),
        ({"picked": {"chosen": {"one": 11}}}, "strength"),
        ({"picked": {"chosen": {"one": "much"}}}, "not a number"),
        ({"picked": "one"}, "not a request"),
        ({"length": 100_000}, "maximum"),
        ({"t": -1}, "minimum"),
        ({"top_p": 0}, "minimum"),
    ],
)
def test_bad_input_is_answered_in_words(client: Client, changes: dict, sentence: str):
    with pytest.raises(AppError, match=sentence):
        compare(client, **changes)
