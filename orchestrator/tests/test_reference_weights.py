"""A file that an engine names as its weights is believed inside its own folder only, and if it is the model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from enginebench.judge.fidelity_gate import judge
from enginebench.judge.impact import impact
from enginebench.judge.reference_weights import BadWeights, ReferenceWeights
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.fidelity import probe_ids
from enginebench_models.reference_cache import reference_logits
from enginebench_models.synthesis import synthesise

PREFILL, DECODE = 5, 6


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(synthesise(entry("tiny").config, tmp_path_factory.mktemp("model") / "tiny.gguf"))


@pytest.fixture
def folder(original: Checkpoint, tmp_path: Path) -> Path:
    """Of the engine: with a copy of the model, which is the model in no fewer bits."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "made.gguf").write_bytes(original.files[0].read_bytes())
    return tmp_path / "cache"


@pytest.fixture
def weights(tmp_path: Path) -> ReferenceWeights:
    return ReferenceWeights(tmp_path / "remembered")


def test_no_file_named_is_the_model(original: Checkpoint, folder: Path, weights: ReferenceWeights) -> None:
    assert weights.of(original, "", folder) is original


def test_a_file_of_the_engine_is_examined_once(original: Checkpoint, folder: Path, weights: ReferenceWeights) -> None:
    found = weights.of(original, str(folder / "made.gguf"), folder)
    assert found is not original
    assert found.files == [folder / "made.gguf"]
    assert weights.of(original, str(folder / "made.gguf"), folder) is found


def test_a_changed_file_is_examined_again(original: Checkpoint, folder: Path, weights: ReferenceWeights) -> None:
    weights.of(original, str(folder / "made.gguf"), folder)
    with (folder / "made.gguf").open("r+b") as file:
        file.seek(-3000, 2)
        file.write(b"\x7c" * 64)
    with pytest.raises(BadWeights, match="in fewer bits"):
        weights.of(original, str(folder / "made.gguf"), folder)


def test_a_path_outside_is_refused_also_through_a_link(
    original: Checkpoint, folder: Path, weights: ReferenceWeights
) -> None:
    """Though it is the very model."""
    (folder / "link.gguf").symlink_to(original.files[0])
    for named in (original.files[0], folder / "link.gguf", folder / ".." / "cache" / ".." / "x", folder):
        with pytest.raises(BadWeights, match=r"outside its own folder|not there|no regular file"):
            weights.of(original, str(named), folder)


def test_another_model_is_refused(original: Checkpoint, folder: Path, weights: ReferenceWeights) -> None:
    synthesise(original.config, folder / "other.gguf", seed=1)
    with pytest.raises(BadWeights, match=r"is not tiny\.gguf in fewer bits"):
        weights.of(original, str(folder / "other.gguf"), folder)


def test_the_gate_asks_for_the_made_weights_and_reports_the_way_to_the_original(
    original: Checkpoint, tmp_path: Path
) -> None:
    """Logits of another model's reference pass against that model, and are far from the original's."""
    other = open_checkpoint(synthesise(original.config, tmp_path / "other.gguf", seed=1))
    probe = probe_ids(original.config.vocab_size, PREFILL + DECODE)
    answer = np.array(reference_logits(other, probe, PREFILL, tmp_path))
    np.save(tmp_path / "logits.npy", answer)
    sha256 = hashlib.sha256((tmp_path / "logits.npy").read_bytes()).hexdigest()
    told = (original, probe, PREFILL, tmp_path / "logits.npy", sha256, DECODE + 1, "q8_0", tmp_path)
    assert not judge(*told).passed
    assert judge(*told).impact is None
    found = judge(*told, made=other)
    assert found.passed and found.mean_kld == 0.0
    assert found.impact is not None and found.impact.mean_kld > 0.1
    assert found.impact.ppl_ratio is not None


# ---- the numbers, on logits of two ids -----------------------------------------------------------------------


def test_perplexity_ratio_is_that_of_llama_cpp() -> None:
    """exp of the mean change of the negative log-likelihood of the ids that follow; the last row has none."""
    original = np.log(np.array([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]], np.float32))
    candidate = np.log(np.array([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]], np.float32))
    found = impact(original, candidate, [0, 1])
    assert found is not None and found.ppl_ratio is not None and found.ppl_ratio_error is not None
    assert found.ppl_ratio == pytest.approx(2**0.5)  # ln 2 and 0: their mean is ln √2
    assert found.ppl_ratio_error == pytest.approx(2**0.5 * np.log(2) / 2)
    assert found.mean_kld == pytest.approx((0.5 * np.log(2) + 0.5 * np.log(2 / 3)) / 3, rel=1e-5)
    assert (found.top1, found.n_positions) == (pytest.approx(2 / 3), 3)


def test_an_engine_that_tells_some_log_probabilities_has_a_bound_and_no_perplexity() -> None:
    original = np.log(np.array([[0.6, 0.3, 0.1]] * 3, np.float32))
    told = original.copy()
    told[:, 2] = np.nan
    found = impact(original, told, [0, 0], top_logprobs=2)
    assert found is not None
    assert found.mean_kld == pytest.approx(0.0, abs=1e-6)
    assert (found.ppl_ratio, found.top_logprobs) == (None, 2)


def test_logits_that_are_no_numbers_have_no_impact() -> None:
    assert impact(np.zeros((2, 3), np.float32), np.full((2, 3), np.nan, np.float32), [0]) is None
