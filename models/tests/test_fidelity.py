"""Fidelity on logits whose divergence can be worked out by hand."""

import math

import numpy as np
import pytest
from enginebench_models.fidelity import Fidelity, compare, gate, probe_ids

EVEN = np.zeros((1, 2), np.float32)


def test_equal_logits_have_no_divergence() -> None:
    assert compare(EVEN, EVEN) == Fidelity(mean_kld=0.0, max_kld=0.0, top1=1.0, max_abs_logit=0.0, n_positions=1)


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
