"""A logits file is believed only if it is the announced one, of the right shape, and near the reference."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from enginebench.judge.fidelity_gate import judge
from enginebench.store.record import FidelityReading
from enginebench_models import catalogue
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.fidelity import probe_ids
from enginebench_models.reference_cache import reference_logits
from enginebench_models.synthesis import synthesise

PREFILL, DECODE = 5, 3
ROWS = DECODE + 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    return open_checkpoint(synthesise(catalogue.entry("tiny").config, path, "gguf", seed=0))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reference")


@pytest.fixture
def probe(checkpoint: Checkpoint) -> list[int]:
    return probe_ids(checkpoint.config.vocab_size, PREFILL + DECODE)


Judge = Callable[..., FidelityReading]


@pytest.fixture
def judged(checkpoint: Checkpoint, cache: Path, probe: list[int], tmp_path: Path) -> Judge:
    """Judges a matrix as an engine's answer; `sha256` and `n_rows` can be announced wrongly."""

    def of_matrix(
        matrix: np.ndarray, precision: str = "float32", sha256: str | None = None, n_rows: int = ROWS
    ) -> FidelityReading:
        path = tmp_path / "logits.npy"
        np.save(path, matrix)
        announced = sha256 or hashlib.sha256(path.read_bytes()).hexdigest()
        return judge(checkpoint, probe, PREFILL, path, announced, n_rows, precision, cache)

    return of_matrix


@pytest.fixture
def reference(checkpoint: Checkpoint, cache: Path, probe: list[int]) -> np.ndarray:
    return np.array(reference_logits(checkpoint, probe, PREFILL, cache))


def test_the_reference_itself_passes(judged: Judge, reference: np.ndarray) -> None:
    reading = judged(reference)
    assert (reading.passed, reading.reasons, reading.n_positions) == (True, [], ROWS)
    assert reading.mean_kld == pytest.approx(0, abs=1e-9)
    assert (reading.top1, reading.max_abs_logit) == (1.0, 0.0)


def test_a_small_error_passes_as_16_bit_and_fails_as_float32(judged: Judge, reference: np.ndarray) -> None:
    near = reference + np.float32(0.01) * np.sin(np.arange(reference.size, dtype=np.float32)).reshape(reference.shape)
    assert judged(near, "16-bit").passed
    reading = judged(near, "float32")
    assert not reading.passed
    assert "largest logit error" in reading.reasons[0]


@pytest.mark.parametrize("precision", ["float32", "16-bit"])
def test_rows_that_are_one_token_late_fail(judged: Judge, reference: np.ndarray, precision: str) -> None:
    assert not judged(np.roll(reference, 1, axis=0), precision).passed


def test_an_altered_file_fails(judged: Judge, reference: np.ndarray) -> None:
    reading = judged(reference, sha256="0" * 64)
    assert not reading.passed
    assert "the engine announced 000000000000" in reading.reasons[0]
    assert math.isnan(reading.mean_kld)


@pytest.mark.parametrize("wrong", ["rows", "columns", "type", "dimensions"])
def test_another_shape_or_type_fails(judged: Judge, reference: np.ndarray, wrong: str) -> None:
    matrix = {
        "rows": reference[:-1],
        "columns": reference[:, :-1],
        "type": reference.astype(np.float64),
        "dimensions": reference[None],
    }[wrong]
    reading = judged(matrix)
    assert not reading.passed
    assert "instead of float32" in reading.reasons[0]


def test_another_number_of_rows_than_asked_for_fails(judged: Judge, reference: np.ndarray) -> None:
    reading = judged(reference, n_rows=ROWS + 1)
    assert reading.reasons == [f"the engine announced {ROWS + 1} rows of logits, {ROWS} were asked for"]


def test_pickled_objects_are_never_unpickled(judged: Judge) -> None:
    reading = judged(np.array([[print]], dtype=object))
    assert reading.reasons == ["the logits file cannot be read: ValueError"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_fail(judged: Judge, reference: np.ndarray, value: float) -> None:
    broken = reference.copy()
    broken[1, 2] = value
    assert not judged(broken, "16-bit").passed


def test_a_missing_file_fails(checkpoint: Checkpoint, probe: list[int], cache: Path, tmp_path: Path) -> None:
    reading = judge(checkpoint, probe, PREFILL, tmp_path / "no.npy", "0" * 64, ROWS, "16-bit", cache)
    assert reading.reasons == ["the logits file cannot be read: FileNotFoundError"]


def test_a_pipe_a_device_and_a_file_of_holes_fail_without_being_read(
    checkpoint: Checkpoint, probe: list[int], cache: Path, tmp_path: Path
) -> None:
    """Each of them would be read for ever."""
    pipe, holes = tmp_path / "pipe", tmp_path / "holes"
    os.mkfifo(pipe)
    with holes.open("wb") as file:
        file.truncate(1 << 40)
    reasons = [
        judge(checkpoint, probe, PREFILL, path, "0" * 64, ROWS, "16-bit", cache).reasons[0]
        for path in (pipe, Path("/dev/zero"), holes)
    ]
    assert reasons[:2] == ["what the engine names as its logits is not a file"] * 2
    assert reasons[2].startswith("the logits file holds 1099511627776 bytes instead of float32")
