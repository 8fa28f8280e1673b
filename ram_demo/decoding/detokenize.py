"""Ids to text as it streams: a character is shown once all its bytes are there. Knows a tokenizer's `decode`, only.

The pieces join to what decoding all ids at once gives, whatever the ids: emoji cut across tokens, bytes that never
become a character, special tokens (left out).
"""

from collections.abc import Callable, Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # how decoders show bytes that are not (yet) a character


def plain_decode(tokenizer) -> Callable[[Sequence[int]], str]:
    """Ids to text without special tokens and without the tidying of spaces, which would undo itself as text grows."""
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class Detokenizer:
    """The state of one lane: its ids, and up to where they have been shown.

    Only a window is decoded again at each token: from the last place where the text was whole, so the cost of a token
    does not grow with the answer. One earlier piece is kept in the window because some decoders treat a first token
    differently (they drop its leading space).
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]):
        self.decode = decode
        self.ids: list[int] = []
        self.window = 0  # where decoding begins
        self.shown = 0  # ids before this have had their text shown

    def add(self, token: int) -> str:
        """The text that this token completes, often its own, or "" while a character is unfinished."""
        self.ids.append(token)
        before, after = self._texts()
        if after.endswith(REPLACEMENT) or len(after) <= len(before):
            return ""
        self.window, self.shown = self.shown, len(self.ids)
        return after[len(before) :]

    def flush(self) -> str:
        """What is left at the end: bytes that never became a character."""
        before, after = self._texts()
        self.window = self.shown = len(self.ids)
        return after[len(before) :]

    def _texts(self) -> tuple[str, str]:
        return self.decode(self.ids[self.window : self.shown]), self.decode(self.ids[self.window :])
