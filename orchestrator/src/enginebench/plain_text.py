"""Text of strangers (a model, an engine, a file) as it may stand on a terminal and in what other programs read.

Control characters drive a terminal, bidirectional ones make a line read as what it is not.
"""

from __future__ import annotations

import json
import re
from unicodedata import category

BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Unicode Standard Annex 9: marks, embeddings, overrides and isolates."""
SEPARATORS = ("Zl", "Zp")
HALVES = "Cs"
"""Half a character cannot be encoded: it would end the program that prints it."""


def printable(text: str) -> str:
    """One line: without control characters but tabs."""
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in text)


def for_terminal(text: str) -> str:
    """Many lines: without control characters but line breaks and tabs."""
    return "".join(c if is_harmless(c) else "\N{REPLACEMENT CHARACTER}" for c in text)


def is_harmless(c: str) -> bool:
    return c in "\n\t" or not (category(c) in ("Cc", HALVES, *SEPARATORS) or c in BIDIRECTIONAL)


_NOT_SHOWN = re.compile(f"[\x7f-\x9f\u2028\u2029\ud800-\udfff{''.join(sorted(BIDIRECTIONAL))}]")


def harmless_json(text: str) -> str:
    """The same JSON, with what `for_terminal` would replace written as \\u escapes."""
    return _NOT_SHOWN.sub(lambda found: json.dumps(found[0])[1:-1], text)
