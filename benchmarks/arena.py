"""How soon a vote is answered while an answer streams to somebody else: asked of the running app as its page asks."""

import time
from collections.abc import Iterator
from secrets import token_hex

import httpx

from benchmarks.pages import app
from benchmarks.tables import Figure, Table
from ram_demo.settings import Settings

VOTES, AT_ONCE = 30, 3  # in all, and while one answer streams
PROMPT = "Write a long story about a lighthouse keeper and the sea."


class Visitor:
    """One browser session, by the page's own endpoint."""

    def __init__(self, url: str):
        self.http = httpx.Client(base_url=url, timeout=60)
        components = self.http.get("/config").json()["components"]
        self.arena = next(c["id"] for c in components if c["props"].get("elem_id") == "arena")
        self.session, self.battle = token_hex(16), None

    def ask(self, question: str, **more) -> dict:
        data = {"session": self.session, "battle": self.battle, **more}
        body = {"session_hash": self.session, "component_id": self.arena, "fn_name": question, "data": data}
        answer = self.http.post("/gradio_api/component_server/", json=body).json()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def begin(self) -> None:
        """A battle whose first words have come."""
        self.battle = self.ask("start", prompt=PROMPT)["battle"]
        while self.ask("news", heard=0)["heard"] < 2:
            time.sleep(0.05)

    def state(self) -> str:
        return self.ask("news", heard=0)["state"]


def voting(settings: Settings) -> Iterator[Figure]:
    """Milliseconds from pressing the button to the server's word that the vote is safe."""
    quiet, busy = [], []
    with app(settings) as url:
        voters = [Visitor(url) for _ in range(VOTES)]
        for voter in voters:
            voter.begin()
            voter.ask("stop")
            while voter.state() != "ended":
                time.sleep(0.05)
        for voter in voters[: VOTES // 3]:
            quiet.append(_vote(voter))
        waiting = voters[VOTES // 3 :]
        reader = Visitor(url)
        while waiting:
            reader.begin()
            now, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            took = [_vote(voter) for voter in now]
            if reader.state() != "running":  # it had ended meanwhile, so these say nothing
                raise RuntimeError("the answer ended before the votes were in; make it longer")
            busy += took
            reader.ask("stop")
            while reader.state() == "running":
                time.sleep(0.05)
    table = Table("Voting")
    yield table.median("vote, while nothing else happens", quiet, "ms")
    yield table.median("vote, while an answer streams to somebody else", busy, "ms", "under 100 ms")


def _vote(voter: Visitor) -> float:
    began = time.perf_counter()
    voter.ask("vote", choice="a", reasons=["clear"], comment="", span=None)
    return 1000 * (time.perf_counter() - began)
