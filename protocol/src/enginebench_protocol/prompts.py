"""Prompts of an exact length: seeded random ordinary tokens, different for each iteration, the same for each engine."""

from __future__ import annotations

import hashlib
import random
from array import array

SPECIAL_TOKENS = 256
"""Llama-3 keeps its special tokens in the last 256 ids; a prompt has none of them."""


def prompt_ids(seed: int, iteration: int, n_prompt: int, vocab_size: int) -> array[int]:
    """`n_prompt` ids below the special tokens. Distinct iterations share no prefix worth caching."""
    ordinary = vocab_size - SPECIAL_TOKENS if vocab_size > 2 * SPECIAL_TOKENS else vocab_size
    draw = random.Random(f"enginebench:{seed}:{iteration}:{n_prompt}")  # noqa: S311 (not for secrets)
    return array("i", (draw.randrange(ordinary) for _ in range(n_prompt)))


def ids_sha256(packed: bytes) -> str:
    """The name of a prompt: the sha256 of its packed ids."""
    return hashlib.sha256(packed).hexdigest()
