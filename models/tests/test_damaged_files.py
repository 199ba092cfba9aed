"""Damage of every kind ends in a named rule or in a file that others read too; never in another error, never late.

Cut at every length; every bit flipped (a seventh of them by default); structure-aware damage by a seeded dice (2,000
files here, a million in tests/torture/files.py, which also asks llama.cpp).
"""

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from enginebench_models.rules import RULES
from gguf import GGUFReader
from safetensors import SafetensorError, deserialize

from . import malformed_safetensors as st
from . import test_malformed_safetensors as safe
from .gguf_bytes import small_files
from .mutations import damaged_gguf, damaged_safetensors
from .test_malformed_gguf import broken_rule

MODEL_LEVEL = {"architecture", "metadata-missing", "model-shape", "weights-missing", "weights-extra", "weight-shape"}
MODEL_LEVEL |= {"rope-divisors", "unsupported", ""}
GGUF_FILES, SAFE_FILES = small_files(), st.small_files()


def outcome(raw: bytes, safetensors: bool = False) -> str:
    """The rule that is broken; fails on another error, an unknown rule, or a second of work."""
    started = time.process_time()
    rule = safe.broken_rule(raw) if safetensors else broken_rule(raw)
    assert time.process_time() - started < 1
    assert rule in RULES or rule == ""
    return rule


def flips(raw: bytes, step: int) -> Iterator[bytes]:
    for bit in range(0, 8 * len(raw), step):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)


@pytest.mark.parametrize("name", GGUF_FILES)
def test_a_gguf_file_cut_anywhere_is_refused_unless_only_padding_is_gone(name: str) -> None:
    raw = GGUF_FILES[name]
    end = len(raw.rstrip(b"\0"))
    for length in range(len(raw)):
        rule = outcome(raw[:length])
        if length < end:
            assert rule in {"not-a-model", "gguf-truncated", "gguf-data-truncated"}, length


@pytest.mark.parametrize("name", SAFE_FILES)
def test_a_safetensors_file_cut_anywhere_is_refused(name: str) -> None:
    raw = SAFE_FILES[name]
    assert all(outcome(raw[:length], safetensors=True) for length in range(len(raw)))


def check_flips(name: str, step: int) -> None:
    kinds = Counter(outcome(raw) in MODEL_LEVEL for raw in flips(GGUF_FILES[name], step))
    assert kinds[False] > 0


@pytest.mark.parametrize("name", GGUF_FILES)
def test_a_flipped_bit_of_a_gguf_file_is_refused_by_a_rule_or_harmless(name: str) -> None:
    check_flips(name, 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", GGUF_FILES)
def test_every_flipped_bit_of_a_gguf_file_is_refused_by_a_rule_or_harmless(name: str) -> None:
    check_flips(name, 1)


@pytest.mark.parametrize("name", SAFE_FILES)
def test_whatever_flipped_bit_is_accepted_the_safetensors_library_accepts_too(name: str) -> None:
    for raw in flips(SAFE_FILES[name], 1):
        if not outcome(raw, safetensors=True):
            deserialize(raw)


def test_whatever_damaged_safetensors_file_is_accepted_the_library_loads() -> None:
    dice, accepted = random.Random(1), 0
    for _ in range(2000):
        raw = damaged_safetensors(dice)
        if outcome(raw, safetensors=True) == "":
            accepted += 1
            deserialize(raw)
    assert 20 < accepted < 1500


def test_whatever_damaged_gguf_file_is_accepted_the_gguf_library_reads(tmp_path: Path) -> None:
    dice, accepted = random.Random(2), 0
    for _ in range(2000):
        raw = damaged_gguf(dice)
        if outcome(raw) in MODEL_LEVEL and accepted < 100:
            accepted += 1
            (tmp_path / "m.gguf").write_bytes(raw)
            GGUFReader(tmp_path / "m.gguf")
    assert accepted == 100


def test_the_oracle_refuses_what_is_broken() -> None:
    """Negative control: the library does not accept everything."""
    with pytest.raises(SafetensorError):
        deserialize(st.one(data=17))
