"""Fidelity on logits whose divergence can be worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from enginebench_models.fidelity import Fidelity, compare, compare_top, gate, probe_ids

EVEN = np.zeros((1, 2), np.float32)


def test_equal_logits_have_no_divergence() -> None:
    none = Fidelity(mean_kld=0.0, max_kld=0.0, top1=1.0, max_abs_logit=0.0, n_positions=1)
    assert compare(EVEN, EVEN) == replace(none, kld_999=0.0, top1_clear=None, max_shifted_logit=0.0)


def test_divergence_is_that_of_the_distributions() -> None:
    skewed = np.array([[math.log(3.0), 0.0]], np.float32)  # 3/4, 1/4 against 1/2, 1/2
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    found = compare(EVEN, skewed)
    assert found.mean_kld == pytest.approx(expected, rel=1e-6)
    assert found.max_abs_logit == pytest.approx(math.log(3.0))


def test_a_shift_of_all_logits_does_not_diverge_but_counts_as_an_error() -> None:
    found = compare(EVEN, EVEN + 5)
    assert found.mean_kld == pytest.approx(0.0, abs=1e-12)
    assert found.max_abs_logit == 5.0
    assert found.max_shifted_logit == 0.0


def test_mean_maximum_and_agreement_are_over_positions() -> None:
    reference = np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0], [3.0, 0.0]], np.float32)
    candidate = reference.copy()
    candidate[1] = [2.0, 0.0]
    found = compare(reference, candidate)
    assert found.top1 == 0.75
    assert found.max_kld == pytest.approx(4 * found.mean_kld)
    assert found.max_abs_logit == 2.0


def test_large_logits_do_not_overflow() -> None:
    assert compare(EVEN + 30000, EVEN + 30000).mean_kld == 0.0


@pytest.mark.parametrize("precision", ["float32", "16-bit"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_fail_every_gate(bad: float, precision: str) -> None:
    candidate = EVEN.copy()
    candidate[0, 1] = bad
    verdict = gate(compare(EVEN, candidate), precision)
    assert not verdict.passed
    assert verdict.reasons == ("the logits hold NaN or infinity",)


@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (2,)])
def test_logits_of_another_shape_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[1, 2\] were expected"):
        compare(EVEN, np.zeros(shape, np.float32))


def fidelity(**changes: float) -> Fidelity:
    numbers = {"mean_kld": 0.0, "max_kld": 0.0, "top1": 1.0, "max_abs_logit": 0.0} | changes
    return Fidelity(n_positions=65, **numbers)


@pytest.mark.parametrize(
    ("found", "precision", "reason"),
    [
        (fidelity(max_abs_logit=1e-3), "float32", None),
        (fidelity(max_abs_logit=1.1e-3), "float32", "largest logit error 0.0011 > 0.001"),
        (fidelity(top1=64 / 65), "float32", "98.5%"),
        (fidelity(mean_kld=1e-3, max_kld=1e-3, max_abs_logit=0.2, top1=0.9), "16-bit", None),
        (fidelity(mean_kld=1.1e-3), "16-bit", "mean KL divergence 0.0011 > 0.001"),
        (fidelity(mean_kld=1.1e-3), "bfloat16", "mean KL divergence"),
        (fidelity(mean_kld=5e-3), "q4_k", None),
        (fidelity(mean_kld=5.1e-3), "q4_k", "mean KL divergence 0.0051 > 0.005"),
    ],
)
def test_the_gate_holds_at_its_bound_and_says_what_failed(found: Fidelity, precision: str, reason: str | None) -> None:
    verdict = gate(found, precision)
    assert verdict.passed == (reason is None)
    assert reason is None or reason in " ".join(verdict.reasons)


def test_probe_ids_are_fixed_and_inside_the_vocabulary() -> None:
    ids = probe_ids(4096, 128)
    assert ids[:4] == probe_ids(4096, 4)
    assert ids == probe_ids(4096, 128)
    assert ids != probe_ids(4096, 128, seed=1)
    assert min(ids) >= 0 and max(ids) < 4096
    assert len(set(ids)) > 120


FOUR = np.log(np.array([[0.4, 0.3, 0.2, 0.1]], np.float32))


def top(*told: float) -> np.ndarray:
    """Log-probabilities of the first ids; the others are not told."""
    return np.array([[*np.log(told), *[math.nan] * (4 - len(told))]], np.float32)


def test_the_likeliest_ids_and_the_rest_make_a_distribution_of_their_own() -> None:
    found = compare_top(FOUR, top(0.5, 0.3), 2)
    expected = 0.4 * math.log(0.4 / 0.5) + 0.3 * math.log(0.3 / 0.3) + 0.3 * math.log(0.3 / 0.2)
    assert found.mean_kld == pytest.approx(expected, rel=1e-5)
    assert found.max_abs_logit == pytest.approx(math.log(0.5 / 0.4), rel=1e-5)
    assert (found.top1, found.overlap, found.top_logprobs) == (1.0, 1.0, 2)


def test_what_the_likeliest_ids_show_is_never_more_than_the_whole_divergence() -> None:
    random = np.random.default_rng(0)
    reference = random.normal(0, 2, (50, 100)).astype(np.float32)
    candidate = reference + random.normal(0, 0.5, reference.shape).astype(np.float32)
    told = np.full_like(candidate, math.nan)
    for row, logits in zip(told, candidate, strict=True):
        likeliest = np.argsort(-logits)[:20]
        row[likeliest] = (logits - np.log(np.exp(logits).sum()))[likeliest]
    whole, part = compare(reference, candidate), compare_top(reference, told, 20)
    assert 0 < part.mean_kld <= whole.mean_kld
    assert part.max_kld <= whole.max_kld


def test_other_ids_among_the_likeliest_fail_the_gate() -> None:
    reference = np.zeros((1, 100), np.float32)
    reference[0, :40] = 0.01
    told = np.full((1, 100), math.nan, np.float32)
    told[0, 40:60] = math.log(0.01)
    verdict = gate(compare_top(reference, told, 20), "16-bit")
    assert verdict.reasons == ("0.0% of the likeliest ids are the reference's, 95% are asked for",)


@pytest.mark.parametrize("told", [(0.4,), (0.4, 0.3, 0.2), (0.4, math.inf), (0.9, 0.8)])
def test_log_probabilities_that_cannot_be_fail(told: tuple[float, ...]) -> None:
    verdict = gate(compare_top(FOUR, top(*told), 2), "16-bit")
    assert verdict.reasons[0] == "the logits hold NaN or infinity"


# ---- the rungs of the ladder that the probe shows -------------------------------------------------------------


def test_agreement_counts_apart_where_the_reference_is_clear() -> None:
    reference = np.array([[1.0, 0.95, 0.0], [1.0, 0.75, 0.0], [2.0, 0.0, 1.0]], np.float32)
    candidate = reference.copy()
    candidate[0] = [0.95, 1.0, 0.0]
    assert compare(reference, candidate).top1_clear == 1.0
    candidate[1] = [0.75, 1.0, 0.0]
    found = compare(reference, candidate)
    assert (found.top1, found.top1_clear) == (pytest.approx(1 / 3), 0.5)


def test_an_error_beyond_a_shift_is_what_the_shift_leaves() -> None:
    reference = np.zeros((1, 4), np.float32)
    found = compare(reference, np.array([[5.0, 5.0, 5.0, 9.0]], np.float32))
    assert found.max_shifted_logit == pytest.approx(3.0)  # the mean shift is 6


@pytest.mark.parametrize(
    ("changes", "precision", "reason"),
    [
        ({"top1_clear": 1.0}, "16-bit", None),
        ({"top1_clear": 0.98}, "16-bit", "clear likeliest tokens agree at 98.0%"),
        ({"top1_clear": 0.98}, "q4_k", None),
        ({"top1_clear": 0.97}, "q4_k", "clear likeliest tokens"),
        ({"max_shifted_logit": 0.5}, "16-bit", None),
        ({"max_shifted_logit": 0.51}, "16-bit", "logit error beyond a shift 0.51 > 0.5"),
        ({"max_shifted_logit": 1.1e-3}, "float32", "logit error beyond a shift 0.0011 > 0.001"),
        ({"max_shifted_logit": 1.0}, "q4_k", None),
    ],
)
def test_each_rung_holds_at_its_bound(changes: dict[str, float], precision: str, reason: str | None) -> None:
    verdict = gate(replace(fidelity(), **changes), precision)
    assert verdict.passed == (reason is None)
    assert reason is None or reason in " ".join(verdict.reasons)
