"""Ids to text as they come: a character is shown when its last byte is there, never half of it."""

from __future__ import annotations

import codecs
from collections.abc import Callable

PieceOf = Callable[[int], bytes]
"""The bytes of one id (enginebench_models.tokenizer.Tokenizer.piece)."""


class Detokeniser:
    """Bytes that can form no character become U+FFFD at once; a beginning of one is held back."""

    def __init__(self, piece_of: PieceOf) -> None:
        self._piece_of = piece_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """What can be shown now that this id is there; often a word, sometimes nothing."""
        return self._decoder.decode(self._piece_of(token))

    def finish(self) -> str:
        """What was held back: U+FFFD where an answer ends inside a character."""
        return self._decoder.decode(b"", final=True)
