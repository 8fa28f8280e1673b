"""Trace records of version 1 made by hand, and steps decided by hand: numpy on design's formulas, nothing of RAM Demo.

A step is a dict: `id`, `log_p`, `noise`, `draws`, `weight`, and `log_q` and `log_q0` by aligner, all over its
candidates, of which the first `inside` are in N; `kl` by aligner; `mass`, `compose`, `token`, `base_token`.
"""

import base64
import math

import numpy as np

MODES = ("product", "sis", "par", "ratio")


def pack(values, kind) -> str:
    return base64.b64encode(np.asarray(values, kind).tobytes()).decode()


def aligner(name: str, beta: float = 1.0, tau: float | None = None) -> dict:
    return {"name": name, "beta": beta, "tau": tau, "revision": "r"}


def record(steps: list[dict], aligners: list[dict], mode="product", temperature=0.7, first=0, without_q0=()) -> dict:
    """The record of a lane that has these steps; the lane is named after its aligners."""
    names = [one["name"] for one in aligners]
    lane = "+".join(names) or "base"
    settings = {
        "mode": mode,
        "temperature": temperature,
        "seed": 7,
        "lanes": {lane: aligners},
        "modes": {lane: mode},
        "forced": list(range(first)),
    }
    head = {
        "version": 1,
        "lane": lane,
        "done": "eos",
        "text": "".join(word(step["token"]) for step in steps),
        "tokens": len(steps),
        "settings": settings,
    }
    return {**head, **columns(steps, aligners, first, without_q0)}


def columns(steps: list[dict], aligners: list[dict], first: int = 0, without_q0=()) -> dict:
    """`words`, `steps` and `candidates` of a record, or of a part that continues one."""
    names = [one["name"] for one in aligners]

    def gated(step: dict, one: dict) -> int:
        return int(one["tau"] is not None and step["kl"][one["name"]] > one["tau"])

    def joined(key: str, kind: str, *by) -> str:
        parts = [step[key][by[0]] if by else step[key] for step in steps]
        return pack(np.concatenate(parts) if parts else [], kind)

    made = {
        "first": first,
        "token": [step["token"] for step in steps],
        "base_token": [step["base_token"] for step in steps],
        "text": [word(step["token"]) for step in steps],
        "kl": [max(step["kl"].values(), default=0.0) for step in steps],
        "gated": [int(bool(aligners) and all(gated(step, one) for one in aligners)) for step in steps],
        "nucleus": [step["inside"] for step in steps],
        "support": [0.5 for step in steps],
        "entropy": [1.25 for step in steps],
        "push": [0.5 for step in steps],
        "ms": [12.5 for step in steps],
        "rank_p": [rank(step["log_p"], step) for step in steps],
        "rank": [rank(step["weight"], step) for step in steps],
        "mass": [step["mass"] for step in steps],
        "compose": [step["compose"] for step in steps],
    }
    if len(names) > 1:
        made["monitors"] = {
            one["name"]: {
                "kl": [step["kl"][one["name"]] for step in steps],
                "gated": [gated(step, one) for step in steps],
                "support": [0.25 for step in steps],
            }
            for one in aligners
        }
    return {
        "words": {str(token): word(token) for step in steps for token in step["id"]},
        "steps": made,
        "candidates": {
            "count": [len(step["id"]) for step in steps],
            "inside": [step["inside"] for step in steps],
            "id": joined("id", "<i4"),
            "log_p": joined("log_p", "<f4"),
            "noise": joined("noise", "<f4"),
            "draws": joined("draws", "<i4"),
            "weight": joined("weight", "<f4"),
            "log_q": {name: joined("log_q", "<f4", name) for name in names or ["base"]},
            "log_q0": {name: joined("log_q0", "<f4", name) for name in names or ["base"] if name not in without_q0},
        },
    }


def word(token: int) -> str:
    return f"<{token}>"


def rank(values, step: dict) -> int:
    inside = [float(v) for v in values[: step["inside"]]]
    mine = inside[list(step["id"]).index(step["token"])]
    return 1 + sum(value > mine for value in inside)


def by_hand(**changes) -> dict:
    """Three candidates: the proposal likes 10, the aligner 11, and the noise 12."""
    step = {
        "id": [11, 10, 12],
        "inside": 3,
        "log_p": np.log([0.3, 0.6, 0.1]),
        "log_q": {"one": np.log([0.6, 0.1, 0.3])},
        "log_q0": {"one": np.log([0.6, 0.2, 0.2])},
        "noise": np.zeros(3),
        "draws": np.array([1, 2, 0]),
        "weight": np.array([0.667, 0.222, 0.111]),
        "kl": {"one": 0.5},
        "mass": 1.0,
        "compose": 0.0,
        "token": 11,
        "base_token": 10,
    }
    return {**step, **changes}


def random_steps(seed: int, aligners: list[dict], mode: str, temperature: float, count: int, vocab: int = 24) -> list:
    """Steps over a small vocabulary with everything kept: all of N, by weight, and three tokens beyond it."""
    rng = np.random.default_rng(seed)
    names = [one["name"] for one in aligners]
    return [_random_step(rng, names, aligners, mode, temperature, vocab) for _ in range(count)]


def _random_step(rng, names, aligners, mode, temperature, vocab) -> dict:
    def single(values) -> np.ndarray:
        return np.asarray(values, np.float32).astype(np.float64)

    log_p = _normal(rng.normal(0, 2, vocab))
    by_p = np.argsort(-log_p)
    size = int(np.searchsorted(np.cumsum(np.exp(log_p[by_p])), 0.95)) + 1
    voices = {name: single(_normal(log_p + rng.normal(0, 1.5, vocab))) for name in names or ["base"]}
    untuned = {name: single(_normal(log_p + rng.normal(0, 0.3, vocab))) for name in names or ["base"]}
    inside = by_p[:size]
    pt = np.exp(log_p[inside]) / np.exp(log_p[inside]).sum()
    draws = np.zeros(vocab, int)
    np.add.at(draws, rng.choice(inside, 16, p=pt), 1)
    everything = {
        "log_p": single(log_p),
        "noise": single(-np.log(-np.log(rng.random(vocab)))),
        "draws": draws,
    }
    step = {
        "kl": {name: float(np.float32(rng.exponential(0.3))) for name in names},
        "mass": float(np.exp(log_p[inside]).sum()),
    }
    step["compose"] = math.log(np.exp(sum(voices.values())).sum()) if len(names) > 1 else 0.0

    def over(ids) -> dict:
        of = {key: values[ids] for key, values in everything.items()}
        of["log_q"] = {name: values[ids] for name, values in voices.items()}
        of["log_q0"] = {name: values[ids] for name, values in untuned.items()}
        return {**step, **of, "id": [int(i) for i in ids], "inside": size}

    own = {one["name"]: one["beta"] for one in aligners}, {one["name"]: one["tau"] for one in aligners}
    pi = distribution(over(inside), mode, *own, temperature)
    order = np.argsort(-pi, kind="stable")
    made = over(np.concatenate([inside[order], by_p[size : size + 3]]))
    made["weight"] = np.concatenate([pi[order], np.zeros(len(made["id"]) - size)])
    made["token"] = decide(made, mode, *own, temperature)
    made["base_token"] = decide(made, mode, {}, {}, temperature)
    return made


def _normal(values) -> np.ndarray:
    return values - math.log(np.exp(values).sum())


def log_weights(step: dict, mode: str, strengths: dict, taus: dict) -> np.ndarray:
    """log w over N by formulas 2 to 7, written out one candidate at a time; log Pt where nothing weighs."""
    weighing = {
        name: beta
        for name, beta in strengths.items()
        if beta > 0 and (taus.get(name) is None or step["kl"][name] <= taus[name])
    }
    out = []
    for j in range(step["inside"]):
        log_pt = step["log_p"][j] - math.log(step["mass"])
        if not weighing:
            out.append(log_pt)
            continue
        said = sum(beta * step["log_q"][name][j] for name, beta in weighing.items())
        if mode == "product":
            out.append(log_pt + said)
        elif mode == "par":
            out.append(said)
        elif mode == "sis":
            out.append(math.log(step["draws"][j]) + said if step["draws"][j] else -math.inf)
        else:
            out.append(log_pt + said - sum(beta * step["log_q0"][name][j] for name, beta in weighing.items()))
    return np.array(out)


def distribution(step: dict, mode: str, strengths: dict, taus: dict, temperature: float) -> np.ndarray:
    """pi over N, after the final temperature."""
    log = log_weights(step, mode, strengths, taus)
    if temperature < 1e-6:
        return (np.arange(len(log)) == log.argmax()).astype(float)
    powers = np.exp((log - log.max()) / temperature)
    return powers / powers.sum()


def decide(step: dict, mode: str, strengths: dict, taus: dict, temperature: float) -> int:
    """Formula 9 as it is written: argmax of log pi + G."""
    with np.errstate(divide="ignore"):
        log_pi = np.log(distribution(step, mode, strengths, taus, temperature))
    return step["id"][int((log_pi + step["noise"][: step["inside"]]).argmax())]
