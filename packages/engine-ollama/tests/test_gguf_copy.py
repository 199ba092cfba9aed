"""Ids as words, and the file that makes them so: read back by our own tokenizer, which is held against llama.cpp's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from engine_ollama.gguf_copy import PAGE_BYTES, write_copy
from engine_ollama.words import NotAWord, Words
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.fidelity import probe_ids
from enginebench_models.files import map_file
from enginebench_models.gguf_header import read_header
from enginebench_models.tokenizer import load_tokenizer


@pytest.fixture(scope="session")
def copy(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("copy") / "copy.gguf"
    write_copy(tiny, path, Words(4096), lambda fraction: None)
    return path


@pytest.mark.parametrize(("vocab_size", "letters"), [(26, 1), (27, 2), (128_256, 4), (456_976, 4), (456_977, 5)])
def test_words_are_as_short_as_the_vocabulary_allows_and_all_different(vocab_size: int, letters: int) -> None:
    tokens = Words(vocab_size).tokens()
    assert {len(token) for token in tokens} == {letters + 1}
    assert len(set(tokens)) == vocab_size


def test_ids_come_back_from_their_text() -> None:
    words, ids = Words(128_256), probe_ids(128_256, 500)
    assert words.ids(words.text(ids)) == ids


@pytest.mark.parametrize("text", [" aaaA", " aaa", " aaaaa", " zzzz"])
def test_other_text_is_no_word(text: str) -> None:
    with pytest.raises(NotAWord):
        Words(128_256).ids(text)


def test_a_tokenizer_reads_the_words_as_the_ids(copy: Path) -> None:
    tokenizer, ids = load_tokenizer(open_checkpoint(copy)), probe_ids(4096, 500)
    assert tokenizer.encode(Words(4096).text(ids), add_bos=False) == ids


def test_with_its_own_vocabulary_the_model_reads_other_ids(tiny: Path) -> None:
    """Negative control: this is why the copy is made."""
    tokenizer, ids = load_tokenizer(open_checkpoint(tiny)), probe_ids(4096, 500)
    assert tokenizer.encode(tokenizer.decode(ids, skip_special=False), add_bos=False) != ids


def test_metadata_and_tensors_are_kept(tiny: Path, copy: Path) -> None:
    source, copied = open_checkpoint(tiny), open_checkpoint(copy)
    assert copied.config == source.config
    assert copied.inverse_frequencies.tobytes() == source.inverse_frequencies.tobytes()
    assert copied.names() == source.names()
    assert all(copied.tensor(n).data.tobytes() == source.tensor(n).data.tobytes() for n in source.names())
    assert copied.synthetic


def test_the_data_starts_where_it_did_within_a_page(tiny: Path, copy: Path) -> None:
    """Else no file system can share the blocks."""
    starts = [read_header(map_file(path), path).data_offset % PAGE_BYTES for path in (tiny, copy)]
    assert starts[0] == starts[1]


def test_the_hash_is_that_of_the_file(tiny: Path, tmp_path: Path) -> None:
    sha256 = write_copy(tiny, tmp_path / "copy", Words(4096), lambda fraction: None)
    assert hashlib.sha256((tmp_path / "copy").read_bytes()).hexdigest() == sha256


def test_a_copy_of_a_copy_is_the_copy(copy: Path, tmp_path: Path) -> None:
    write_copy(copy, tmp_path / "again", Words(4096), lambda fraction: None)
    assert (tmp_path / "again").read_bytes() == copy.read_bytes()
