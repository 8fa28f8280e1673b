"""Do two tokenizers mean the same by the same id? Knows tokenizers; knows nothing of models.

An aligner weighs the proposal's tokens by their ids, so both must use one vocabulary: compared by fingerprint (which
token is which id) and by what they make of a few awkward texts (equal tables can still cut text differently).
"""

import hashlib
import json

from ram_demo.errors import UserError

PROBES = (
    "The quick brown fox, aged 42, doesn't pay $1,234.56!",
    "  two  spaces\n\n1. a list\n\t- tabbed\r\n",
    "naïve façade — “quotes” … 日本語 العربية 👩‍👩‍👧 e\u0301",
    "def f(x):\n    return x**2  # CamelCase snake_case",
)


def fingerprint(tokenizer) -> str:
    """16 hex digits of SHA-256 over the sorted (id, token) table, added tokens included."""
    table = sorted((index, token) for token, index in tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(table, ensure_ascii=True).encode()).hexdigest()[:16]


def difference(ours, theirs) -> str | None:
    """What differs between two tokenizers, in words, or None if they agree."""
    if fingerprint(ours) != fingerprint(theirs):
        mine = {index: token for token, index in ours.get_vocab().items()}
        other = {index: token for token, index in theirs.get_vocab().items()}
        first = min(i for i in mine.keys() | other.keys() if mine.get(i) != other.get(i))
        return (
            f"{len(mine):,} tokens against {len(other):,}; the first to differ is number {first}, "
            f"{mine.get(first, 'absent')!r} against {other.get(first, 'absent')!r}"
        )
    for text in PROBES:
        a, b = (t.encode(text, add_special_tokens=False) for t in (ours, theirs))
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            return f"{text!r} is cut differently from its token {at} on"
        x, y = (t.decode(a, clean_up_tokenization_spaces=False) for t in (ours, theirs))
        if x != y:
            return f"the ids of {text!r} are read back as {x!r} against {y!r}"
    return None


def require_same(ours, theirs, name: str) -> None:
    """Raise UserError, in one sentence that says what differs, unless `theirs` can weigh tokens of `ours`."""
    differs = difference(ours, theirs)
    if differs:
        raise UserError(f"{name} uses another tokenizer than the proposal ({differs}), so it cannot weigh its tokens.")
