"""llama.cpp as the independent witness of the tokenizer: the same ids for the same text, from the same file.

A vocabulary whose merges never reach across the end of a word gives the same ids however words are split, and that of
the synthetic models is such a one. So a sharp one is learned here from the very strings, with no splitting at all: what
a wrong split leaves together finds a merge.
"""

from __future__ import annotations

import ctypes
import json
import tomllib
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import tokenizers
from enginebench_models import synthesis, tokenizer
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.layout import Vocabulary
from enginebench_models.synthetic_vocabulary import CONTROL, NORMAL, byte_symbols, special_tokens
from enginebench_models.tokenizer import LLAMA3_WORDS, USER_DEFINED, load_tokenizer
from tokenizers import models, pre_tokenizers, trainers

Encode = Callable[[str], list[int]]
PIECES = tomllib.loads((Path(__file__).parent / "strings.toml").read_text())
TOOL = "<<tool>>"
UNKNOWN = "Cn", "Cs", "Co"  # unassigned, surrogate, private use


# ---- strings --------------------------------------------------------------------------------------------------


def strings() -> list[str]:
    """2,000 and more, the same every time, none twice."""
    return list(dict.fromkeys([*handwritten(), *repeated(), *mixed(1400), *scattered(400)]))


def handwritten() -> Iterator[str]:
    yield ""
    for pieces in PIECES.values():
        yield from pieces
    spaces, words, endings, whole = (PIECES[name] for name in ("spaces", "words", "endings", "whole"))
    yield from map("".join, product(("", "a", "1"), whole, ("", "q", "!")))
    yield from map("".join, product(words[:4], endings, ("", " x", "t")))
    yield from map("".join, product(("a", "7", "!"), spaces, ("b", "8", "?", "")))
    yield from (unicodedata.normalize(form, word) for form, word in product(("NFC", "NFD", "NFKC"), words))


def repeated() -> Iterator[str]:
    for piece, times in product(("x", "ab", " ", "\n", " \n", "a ", "1", "é", "🙂", "-", "\t", "\r\n"), (7, 40, 300)):
        yield piece * times


def mixed(n: int) -> Iterator[str]:
    """Two to nine pieces of all kinds in a row, spaces more often."""
    pieces = [piece for pieces in PIECES.values() for piece in pieces] + 2 * PIECES["spaces"] + 8 * [" "]
    for row in drawn(n, 9, len(pieces)):
        yield "".join(pieces[index] for index in row[: 2 + row[0] % 8])


def scattered(n: int) -> Iterator[str]:
    """Characters from anywhere in Unicode, as far as this Python knows it."""
    known = [character for character in map(chr, range(0x110000)) if unicodedata.category(character) not in UNKNOWN]
    for row in drawn(n, 12, len(known)):
        yield "".join(known[index] for index in row)


def drawn(rows: int, columns: int, below: int) -> list[list[int]]:
    """The same on every machine: raw Philox bits."""
    words = np.random.Philox(key=below).random_raw(rows * columns) % np.uint64(below)
    return [[int(word) for word in row] for row in words.reshape(rows, columns)]


TEXTS = strings()


# ---- vocabularies ---------------------------------------------------------------------------------------------


def sharp_vocabulary(size: int) -> Vocabulary:
    """Bytes, merges learned from TEXTS, and whole words that no merge reaches."""
    texts = [text for text in TEXTS if "zq" not in text and TOOL not in text]
    model = learned_model(size - 256 - 1 - len(PIECES["whole"]), texts)
    learned = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return vocabulary(size, [*learned, *map(symbols, PIECES["whole"])], [" ".join(pair) for pair in model["merges"]])


def learned_model(size: int, texts: list[str]) -> Any:
    """Of the learned tokenizer: {"vocab": {token: id}, "merges": [[left, right]]}."""
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = unsplit()
    alphabet = sorted(byte_symbols())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, max_token_length=10, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    return json.loads(learner.to_str())["model"]


def class_vocabulary(size: int) -> Vocabulary:
    """Merges of a letter, a digit, a mark, a space and a line feed with every byte: they apply where no word ends."""
    pairs = [(left, right) for left in "a1!ĠĊ" for right in byte_symbols()]
    tokens = [*byte_symbols(), *map("".join, pairs)]
    return vocabulary(size, tokens, [" ".join(pair) for pair in pairs])


def vocabulary(size: int, tokens: list[str], merges: list[str]) -> Vocabulary:
    """With one user-defined token and LLaMA-3's special ones at the end, filled up to `size`."""
    first_special = size - 256
    fillers = [f"<|filler_{n}|>" for n in range(first_special - len(tokens) - 1)]
    return Vocabulary(
        model="gpt2",
        pre="llama-bpe",
        tokens=[*tokens, *fillers, TOOL, *special_tokens()],
        merges=merges,
        types=[NORMAL] * (first_special - 1) + [USER_DEFINED] + [CONTROL] * 256,
        bos=first_special,
        eos=[first_special + 9],
        chat_template=None,
    )


def symbols(word: str) -> str:
    """As a byte-level vocabulary writes it."""
    ((piece, _),) = unsplit().pre_tokenize_str(word)
    return str(piece)


def unsplit() -> pre_tokenizers.ByteLevel:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def written(vocabulary: Vocabulary, path: Path) -> Path:
    """A GGUF file of next to no weights."""
    shape = {"dim": 64, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "hidden_dim": 64}
    config = replace(entry("tiny").config, **shape, vocab_size=len(vocabulary.tokens))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesis, "synthetic_vocabulary", lambda size: vocabulary)
        return synthesis.synthesise(config, path)


@pytest.fixture(scope="module")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(sharp_vocabulary(12000), tmp_path_factory.mktemp("model") / "sharp.gguf")


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(class_vocabulary(2048), tmp_path_factory.mktemp("model") / "classes.gguf")


@pytest.fixture(scope="module", params=["tiny", "sharp"])
def model(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


# ---- the two tokenizers ---------------------------------------------------------------------------------------


def ours(path: Path) -> Encode:
    found = load_tokenizer(open_checkpoint(path))
    return lambda text: found.encode(text, add_bos=False)


class LlamaCpp:
    """llama.cpp's tokenizer of one file."""

    def __init__(self, path: Path) -> None:
        from engine_llamacpp.library import log
        from llama_cpp import llama_cpp as native

        log()
        parameters = native.llama_model_default_params()
        parameters.vocab_only = True
        self.native: Any = native
        self.model = native.llama_model_load_from_file(str(path).encode(), parameters)
        assert self.model, log().complaints()
        self.vocabulary = native.llama_model_get_vocab(self.model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.native.llama_model_free(self.model)

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        raw = text.encode()
        ids = (ctypes.c_int32 * (len(raw) + 8))()
        n = self.native.llama_tokenize(self.vocabulary, raw, len(raw), ids, len(ids), add_bos, True)
        assert n >= 0
        return list(ids[:n])


def differing(encode: Encode, path: Path) -> list[str]:
    with LlamaCpp(path) as witness:
        return [text for text in TEXTS if encode(text) != witness.encode(text)]


# ---- tests ----------------------------------------------------------------------------------------------------


def test_there_are_more_than_a_thousand_strings_of_every_kind() -> None:
    assert len(TEXTS) > 2000
    assert sum(not text.isascii() for text in TEXTS) > 1000


def test_every_string_gets_the_ids_that_llama_cpp_gives_it(model: Path) -> None:
    found = differing(ours(model), model)
    assert not found, f"{len(found)} of {len(TEXTS)} differ, the first: {found[:5]!r}"


def test_a_prompt_begins_with_bos_as_llama_cpp_adds_it(model: Path) -> None:
    """Where the text brings its own, llama.cpp doubles it and warns; ours does not."""
    found = load_tokenizer(open_checkpoint(model))
    with LlamaCpp(model) as witness:
        for text in [text for text in TEXTS if not text.startswith("<|begin_of_text|>")]:
            assert found.encode(text) == witness.encode(text, add_bos=True)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (r"\p{N}{1,3}", r"\p{N}+"),
        (r"|\s+(?!\S)", ""),
        ("(?i:", "(?:"),
        (r"[^\r\n\p{L}\p{N}]?\p{L}+", r" ?\p{L}+"),
        (r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}]+"),
        (r"|\s*[\r\n]+", ""),
        (r"\p{L}+", "[A-Za-z]+"),
        (r"\p{N}", r"\p{Nd}"),
    ],
)
def test_another_way_to_split_words_would_be_noticed(
    sharp: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str
) -> None:
    assert right in LLAMA3_WORDS
    monkeypatch.setattr(tokenizer, "LLAMA3_WORDS", LLAMA3_WORDS.replace(right, wrong))
    assert differing(ours(sharp), sharp)


def test_merging_words_that_are_tokens_would_be_noticed(sharp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = models.BPE
    monkeypatch.setattr(tokenizer.models, "BPE", lambda **settings: original(**settings | {"ignore_merges": False}))
    assert differing(ours(sharp), sharp)


@pytest.mark.parametrize("kind", ["CONTROL", "USER_DEFINED"])
def test_taking_special_tokens_for_text_would_be_noticed(
    sharp: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(tokenizer, kind, -1)
    assert differing(ours(sharp), sharp)


def test_every_character_is_of_the_same_kind_but_for_letters_and_digits_of_unicode_16(classes: Path) -> None:
    """Those are letters and digits to the tokenizers library, not yet to llama.cpp's tables."""
    characters = [character for character in map(chr, range(0x20000)) if unicodedata.category(character) != "Cs"]
    with LlamaCpp(classes) as witness:
        different = list(unequal(characters, ours(classes), witness.encode))
    assert all(unicodedata.category(character) == "Cn" for character in different), different[:20]
    assert len(different) < 5000


def test_the_long_s_after_an_apostrophe_is_an_s_to_us_and_not_to_llama_cpp(tmp_path: Path) -> None:
    """The one other difference known: (?i:'s) folds case as Unicode does, llama.cpp's own matcher only lowers it."""
    last_byte = symbols("ſ")[-1]
    model = written(vocabulary(1024, [*byte_symbols(), f"{last_byte}x"], [f"{last_byte} x"]), tmp_path / "long-s.gguf")
    with LlamaCpp(model) as witness:
        assert ours(model)("ſx") == witness.encode("ſx")
        assert ours(model)("'ſx") != witness.encode("'ſx")


def unequal(characters: list[str], one: Encode, other: Encode) -> Iterator[str]:
    """The characters beside which the two end words differently."""
    text = "".join(f"a{c}\r1{c}\r!{c}\r {c}\r\n{c}\r" for c in characters)
    if one(text) == other(text):
        return
    if len(characters) == 1:
        yield characters[0]
        return
    step = -(-len(characters) // 16)
    for start in range(0, len(characters), step):
        yield from unequal(characters[start : start + step], one, other)
