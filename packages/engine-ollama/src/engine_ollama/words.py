"""Token ids as text that a tokenizer can only read one way: " aaaq aabf" is the ids 16 and 31.

Ollama takes text and gives text, and random ids do not survive that: their text is tokenised into other ids. So the
model gets a vocabulary in which every id is a word of its own (gguf_copy.py): each word is one piece under LLaMA 3's
pre-tokenizer, and one piece that is a token is that token (llama.cpp, `ignore_merges`).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from string import ascii_lowercase

SPACE = "Ġ"
"""GPT-2's printable stand-in for the byte of a space, as vocabularies hold it."""


class NotAWord(Exception):
    """Text came that is not made of the vocabulary's words."""


class Words:
    """The words of `vocab_size` ids, all of one length."""

    def __init__(self, vocab_size: int) -> None:
        length = 1
        while len(ascii_lowercase) ** length < vocab_size:
            length += 1
        letters = product(ascii_lowercase, repeat=length)
        self._words = ["".join(next(letters)) for _ in range(vocab_size)]
        self._ids = {word: number for number, word in enumerate(self._words)}
        self.end = vocab_size - 1
        """The id that ends a sequence: llama.cpp insists on one. The last of LLaMA 3's is reserved and never chosen."""

    def __len__(self) -> int:
        return len(self._words)

    def tokens(self) -> list[str]:
        """Each id's entry in the model file."""
        return [SPACE + word for word in self._words]

    def text(self, ids: Iterable[int]) -> str:
        return "".join(f" {self._words[number]}" for number in ids)

    def ids(self, text: str) -> list[int]:
        """Raises NotAWord."""
        try:
            return [self._ids[word] for word in text.split()]
        except KeyError as error:
            raise NotAWord(f"the server said {text!r}, and {error} is no word of the {len(self)} ids") from None
