"""The rungs of the ladder on logits and answers that are made up, and the readings of a run's greedy text."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from enginebench.judge import greedy
from enginebench.judge.greedy import with_greedy
from enginebench.judge.ladder import Rung, Scored, greedy_rung, logit_rungs, repeat_rung, sample_texts, tokenizer_rung
from enginebench_models import catalogue
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.greedy import Choices
from enginebench_models.synthesis import synthesise
from enginebench_models.tokenizer import Tokenizer, load_tokenizer

RNG = np.random.default_rng(0)
REFERENCE = RNG.normal(0, 2, (64, 50)).astype(np.float32)
FOLLOWING = [int(i) for i in RNG.integers(0, 50, 64)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    return open_checkpoint(synthesise(catalogue.entry("tiny").config, path, "gguf", seed=0))


def rungs(candidate: np.ndarray, precision: str = "16-bit", top: int = 0) -> dict[str, Rung]:
    found = logit_rungs([Scored(REFERENCE, candidate.astype(np.float32), FOLLOWING)], precision, top)
    return {f"{rung.name} {rung.found.split()[0]}": rung for rung in found}


def failed(found: dict[str, Rung]) -> set[str]:
    return {rung.name for rung in found.values() if rung.passed is False}


def test_the_reference_itself_climbs_every_rung() -> None:
    assert all(rung.passed for rung in rungs(REFERENCE, "float32").values())


def test_rounding_fails_as_float32_and_passes_as_16_bit() -> None:
    rounded = REFERENCE.astype(np.float16)
    assert failed(rungs(rounded)) == set()
    assert "G1c" in failed(rungs(rounded, "float32"))


def test_a_wrong_row_fails_divergence_agreement_and_logits() -> None:
    wrong = REFERENCE.copy()
    wrong[:8] = wrong[8:16]
    assert failed(rungs(wrong)) >= {"G1", "G1b", "G1c"}


def test_a_temperature_shows_as_perplexity() -> None:
    """Likeliest ids stay as they are; the ids that follow become more likely on average, being random."""
    assert "G2" in failed(rungs(REFERENCE * 0.9))
    assert "G1b" not in failed(rungs(REFERENCE * 0.9))


def test_no_number_fails_at_the_first_rung() -> None:
    broken = REFERENCE.copy()
    broken[3, 3] = np.nan
    assert failed(rungs(broken)) == {"G1"}


def test_an_engine_that_tells_only_the_likeliest_is_not_asked_for_perplexity() -> None:
    told = np.full_like(REFERENCE, np.nan)
    for row, logits in zip(told, REFERENCE, strict=True):
        best = np.argsort(-logits)[:20]
        row[best] = (logits - np.log(np.exp(logits).sum()))[best]
    found = rungs(told, top=20)
    assert found["G2 needs"].passed is None
    assert failed(found) == set()


def test_greedy_text_may_differ_at_a_near_tie_only() -> None:
    assert greedy_rung([Choices((0.0, 0.05), (1, 2))], "16-bit").passed
    wrong = greedy_rung([Choices((0.0,), (1,)), Choices((0.0, 0.3), (1, 2))], "16-bit")
    assert not wrong.passed
    assert wrong.found.startswith("1 of 3 ids are not the likeliest, by 0.3 nat at most, bound 0.2; token 2 is 0.3 nat")


def test_an_engine_that_does_not_repeat_itself_is_said_not_failed() -> None:
    assert repeat_rung([1, 2], [1, 2]).passed is True
    assert repeat_rung([1, 2], [1, 3]) == Rung("repeat", None, "other ids: not deterministic")


def test_the_tokenizer_brings_every_string_back(checkpoint: Checkpoint) -> None:
    assert tokenizer_rung(load_tokenizer(checkpoint)) == Rung("G0", True, "1000 of 1000 strings come back")
    assert len({c for text in sample_texts() for c in text}) > 5000


def test_a_tokenizer_that_loses_a_character_fails(checkpoint: Checkpoint) -> None:
    real = load_tokenizer(checkpoint)

    class Lossy:
        def encode(self, text: str, add_bos: bool = True) -> list[int]:
            return real.encode(text.replace("q", "k"), add_bos=add_bos)

        def decode(self, ids: list[int]) -> str:
            return real.decode(ids)

    lossy: Any = Lossy()
    rung = tokenizer_rung(lossy)
    assert rung.passed is False
    assert isinstance(real, Tokenizer)


# ---- greedy text of a run -------------------------------------------------------------------------------------


@pytest.fixture
def ranked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The answers that a reference is asked about, for which id 9 is 0.05 nat and id 8 is 3 nat below the likeliest."""
    asked: list[tuple[int, ...]] = []

    def choices(checkpoint: Checkpoint, prompt: Any, ids: Any, precision: str = "") -> Choices:
        asked.append(tuple(ids))
        return Choices(tuple({9: 0.05, 8: 3.0}.get(i, 0.0) for i in ids), tuple({9: 2, 8: 7}.get(i, 1) for i in ids))

    monkeypatch.setattr(greedy, "reference_choices", choices)
    return asked


def answered(records: Any, kind: str, *ids: int) -> Any:
    request = msgspec.structs.replace(records.request(0, (5, 7, 9)), tokens=list(ids))
    if kind == "check":
        return msgspec.structs.replace(records.check(), requests=[request])
    return records.timed([request])


def test_the_first_answer_of_a_check_is_judged(records: Any, checkpoint: Checkpoint, ranked: Any) -> None:
    launch = with_greedy(answered(records, "check", 1, 9, 3), None, checkpoint, 0)
    assert ranked == [(1, 9, 3)]
    (reading,) = launch.greedy
    assert (reading.passed, reading.worst_margin, reading.worst_rank, reading.n_tokens) == (True, 0.05, 2, 3)
    assert launch.fidelity is not None and launch.fidelity.passed


def test_wrong_text_fails_the_gate_although_the_logits_were_right(
    records: Any, checkpoint: Checkpoint, ranked: Any
) -> None:
    launch = with_greedy(answered(records, "check", 1, 8, 3), None, checkpoint, 0)
    assert launch.fidelity is not None and not launch.fidelity.passed
    assert launch.fidelity.reasons[0].startswith("greedy text: token 2 is 3 nat below the likeliest")


def test_a_timed_answer_is_judged_only_where_it_differs_up_to_that_place(
    records: Any, checkpoint: Checkpoint, ranked: Any
) -> None:
    check = answered(records, "check", 1, 2, 3)
    assert with_greedy(answered(records, "timed", 1, 2, 3), check, checkpoint, 0).greedy == []
    excused = with_greedy(answered(records, "timed", 1, 9, 8), check, checkpoint, 0)
    assert ranked == [(1, 9)]
    assert excused.greedy[0].passed
    assert not with_greedy(answered(records, "timed", 8, 2, 3), check, checkpoint, 0).greedy[0].passed
