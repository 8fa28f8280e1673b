"""y- from a server of OpenAI's protocol: a real HTTP server that notes what it was asked."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ram_demo.errors import UserError
from ram_demo.training.server import synthesize
from tests import tiny

PROMPTS = [(("user", "the tin"),), (("user", "a hat"), ("assistant", "no"), ("user", "an inn"))]


@pytest.fixture
def served():
    """(url, what was asked). Answers with the last turn's text, cut short where it is "an inn"."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body))
            text = body["messages"][-1]["content"]
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": f"{text} it is"},
                "finish_reason": "length" if text == "an inn" else "stop",
            }
            reply = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
            status, out = (200, reply) if body["model"] == "small" else (404, {"error": {"message": "no such model"}})
            data = json.dumps(out).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    server.shutdown()
    server.server_close()


def ask(url, cache, model="small", seed=3, progress=lambda done, total: None):
    return synthesize(url, model, PROMPTS, tiny.byte_level(), 12, seed, cache, progress)


def test_answers_come_as_ids_and_end_where_they_ended(served, tmp_path):
    url, asked = served
    seen = []
    found = ask(url, tmp_path, progress=lambda done, total: seen.append((done, total)))
    tokenizer = tiny.byte_level()
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in found] == ["the tin it is", "an inn it is"]
    assert found[0][-1] == tokenizer.eos_token_id != found[1][-1]
    assert seen == [(1, 2), (2, 2)]
    by_length = sorted(asked, key=lambda call: len(call[1]["messages"]))
    assert {path for path, _ in asked} == {"/v1/chat/completions"}
    assert by_length[1][1]["messages"][1] == {"role": "assistant", "content": "no"}
    sampling = {key: by_length[0][1][key] for key in ("temperature", "top_p", "top_k", "repetition_penalty", "seed")}
    assert sampling == {"temperature": 0.5, "top_p": 0.95, "top_k": 10, "repetition_penalty": 1.05, "seed": 3}
    assert by_length[0][1]["max_tokens"] == 12


def test_what_was_asked_once_is_not_asked_again(served, tmp_path):
    url, asked = served
    first = ask(url, tmp_path)
    assert ask(url, tmp_path) == first and len(asked) == 2
    ask(url, tmp_path, seed=4)
    assert len(asked) == 4


def test_a_server_that_refuses_or_is_not_there_is_said(served, tmp_path):
    url, _ = served
    with pytest.raises(UserError, match=r"large at .* gave no answers: .*no such model"):
        ask(url, tmp_path, model="large")
    with pytest.raises(UserError, match="gave no answers"):
        synthesize("http://127.0.0.1:9/v1", "small", PROMPTS[:1], tiny.byte_level(), 4, 0, tmp_path, lambda *_: None)
