"""What the engine answers, reports and refuses: against recorded traffic always, against a real server where one is."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from engine_ollama.engine import OllamaEngine
from engine_ollama.words import Words
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.fidelity import log_softmax, probe_ids
from enginebench_models.reference import Reference
from enginebench_protocol.engine import GREEDY, Sampling
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.prompts import prompt_ids

PROMPT = array("i", [5, 900, 3, 77, 1])
OTHER = array("i", [6, 900, 3, 77, 1])
N_TOP = 20


def test_the_report_is_what_the_server_says_of_itself(ready: Any) -> None:
    config, report = open_checkpoint(ready.path).config, ready.report
    assert (report.weight_dtype, report.activation_dtype, report.kv_dtype) == ("float16", "float32", "float16")
    assert (report.precision, report.device, report.threads, report.n_ctx) == ("16-bit", "CPU", 2, 64)
    assert report.weights_bytes == pytest.approx(open_checkpoint(ready.path).weight_bytes, rel=1e-3)
    assert report.kv_cache_bytes == 256 * config.kv_bytes_per_token(2), "llama.cpp rounds 64 positions up to 256"
    assert report.read_bytes_per_token == open_checkpoint(ready.path).weight_bytes, "tied: the table is the output head"
    assert report.weights_fingerprint == open_checkpoint(ready.path).fingerprint
    assert set(report.stages) == {"import", "convert", "read"}
    assert report.versions["ollama"][0].isdigit()


def test_generate_yields_exactly_the_number_of_ids_asked_for(ready: Any) -> None:
    for n_gen in (1, 2, 17):
        ids = list(ready.engine.generate(PROMPT, n_gen))
        assert len(ids) == n_gen
        assert all(type(token) is int and 0 <= token < ready.report.vocab_size for token in ids)


def test_the_server_counts_the_tokens_that_were_sent_and_received(ready: Any) -> None:
    list(ready.engine.generate(PROMPT, 17))
    reported = ready.engine.reported()
    assert (reported["n_prompt"], reported["n_gen"]) == (5, 17)
    assert 0 < reported["decode_ns"] < reported["total_ns"]


def test_a_request_repeats_itself_whatever_came_between(ready: Any) -> None:
    first = list(ready.engine.generate(PROMPT, 17))
    assert list(ready.engine.generate(OTHER, 17)) != first
    assert list(ready.engine.generate(PROMPT, 17)) == first


def test_ids_are_drawn_by_their_seed(ready: Any) -> None:
    drawn = list(ready.engine.generate(PROMPT, 17, Sampling(0.8, 5)))
    assert list(ready.engine.generate(PROMPT, 17, Sampling(0.8, 5))) == drawn
    assert list(ready.engine.generate(PROMPT, 17, Sampling(0.8, 6))) != drawn
    greedy = list(ready.engine.generate(PROMPT, 17))
    assert drawn != greedy == list(ready.engine.generate(PROMPT, 17, Sampling(1e-6, 5)))


def test_seeds_of_any_size_are_drawn_by(ready: Any) -> None:
    assert len(list(ready.engine.generate(PROMPT, 2, Sampling(0.8, 2**62)))) == 2


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.8, 5)], ids=["greedy", "drawn"])
def test_a_request_that_was_given_up_leaves_nothing(ready: Any, sampling: Sampling) -> None:
    whole, other = list(ready.engine.generate(PROMPT, 17)), list(ready.engine.generate(OTHER, 17, sampling))
    for n_taken in (1, 3):
        ids = ready.engine.generate(OTHER, 17, sampling)
        assert [next(ids) for _ in range(n_taken)] == other[:n_taken]
        ids.close()
        assert list(ready.engine.generate(PROMPT, 17)) == whole
        assert list(ready.engine.generate(OTHER, 17, sampling)) == other


def test_any_id_of_the_vocabulary_survives_the_way_through_text(ready: Any) -> None:
    """The last one is the end of a sequence, the ones before are LLaMA 3's special tokens."""
    vocab_size = ready.report.vocab_size
    prompt = array("i", [vocab_size - 1, 0, vocab_size - 256, 255, 10, 32])
    assert len(list(ready.engine.generate(prompt, 2))) == 2
    assert ready.engine.reported()["n_prompt"] == 6


def test_the_log_probabilities_are_those_of_the_reference(ready: Any) -> None:
    expected, found = probe(ready)
    assert np.isfinite(found).sum(axis=1).tolist() == [N_TOP] * len(found)
    assert distance(expected, found) < 0.05


def test_rows_of_another_position_would_be_noticed(ready: Any) -> None:
    """Negative control of the test above."""
    expected, found = probe(ready)
    assert distance(expected[1:], found[:-1]) > 1.0


def test_generated_ids_are_the_likeliest_scored_ones(ready: Any) -> None:
    ids = list(ready.engine.generate(PROMPT, 4))
    scored = np.asarray(ready.engine.score(PROMPT + array("i", ids[:-1]), len(PROMPT)))
    assert np.nanargmax(scored, axis=1).tolist() == ids


def test_a_second_launch_finds_the_model_imported(ready: Any, engine: OllamaEngine, loader: Callable[..., Any]) -> None:
    stages: list[str] = []
    report = loader(engine, ready.path, ready.cache, progress=lambda stage, fraction: stages.append(stage))
    assert "convert" not in stages
    assert list(engine.generate(PROMPT, 2)) == list(ready.engine.generate(PROMPT, 2))
    assert report.weights_fingerprint == ready.report.weights_fingerprint


def test_the_copy_holds_the_tensors_of_the_model_byte_for_byte(ready: Any) -> None:
    blob = max((ready.cache / "models" / "blobs").glob("sha256-*"), key=lambda path: path.stat().st_size)
    copy, source = open_checkpoint(blob), open_checkpoint(ready.path)
    assert copy.config == source.config
    for name in source.names():
        assert copy.tensor(name).data.tobytes() == source.tensor(name).data.tobytes()


def test_the_id_that_ends_a_sequence_does_not(
    server: str, tiny: Path, tmp_path: Path, loader: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id that the model chooses is made the end of a sequence: the same ids come, though the server stops at it."""
    engine = OllamaEngine()
    try:
        loader(engine, tiny, tmp_path / "plain", n_ctx=48)
        expected = list(engine.generate(PROMPT, 8))
        engine.unload()
        monkeypatch.setattr(Words, "end", property(lambda words: expected[2], lambda words, value: None), raising=False)
        loader(engine, tiny, tmp_path / "ending", n_ctx=40)
        assert list(engine.generate(PROMPT, 8)) == expected
        assert engine.reported()["n_gen"] == 8
    finally:
        engine.unload()


def test_a_token_that_repeats_itself_does_not_end_the_answer(
    server: str, tiny: Path, tmp_path: Path, loader: Callable[..., Any]
) -> None:
    """Ollama breaks off after 31 equal ones, without its own account."""
    engine = OllamaEngine()
    try:
        loader(engine, tiny, tmp_path, n_ctx=192)
        ids = list(engine.generate(prompt_ids(0, 3, 128, 4096), 64))
        assert len(ids) == 64
        assert any(len(set(ids[at : at + 31])) == 1 for at in range(34))
        assert engine.reported()["n_requests"] > 1
    finally:
        engine.unload()


def test_memory_accounts_for_weights_cache_and_the_rest(ready: Any) -> None:
    account = ready.engine.memory()
    assert account.weights_bytes == ready.report.weights_bytes
    assert account.kv_cache_bytes == ready.report.kv_cache_bytes
    assert 0 < account.workspace_bytes < 16 << 20


@pytest.mark.parametrize("tokens", [[], [-1], [4096]])
def test_tokens_outside_the_vocabulary_are_refused(ready: Any, tokens: list[int]) -> None:
    with pytest.raises(EngineFailure, match="from 0 to 4095") as failure:
        list(ready.engine.generate(array("i", tokens), 1))
    assert failure.value.code == "bad-request"


def test_more_positions_than_the_context_are_refused(ready: Any) -> None:
    with pytest.raises(EngineFailure, match="65 positions exceed the 64"):
        list(ready.engine.generate(array("i", range(64)), 1))


def probe(ready: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Log-probabilities of the reference and of the engine: after a prefill of 8, then after each of 8 more."""
    ids = array("i", probe_ids(ready.report.vocab_size, 16))
    logits = Reference(open_checkpoint(ready.path)).logits(ids, range(7, 16))
    return np.stack([log_softmax(row) for row in logits]), np.asarray(ready.engine.score(ids, 8))


def distance(expected: npt.NDArray[np.float64], found: npt.NDArray[np.float32]) -> float:
    return float(np.nanmax(np.abs(expected - found)))
