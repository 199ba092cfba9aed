"""Drawing ids: the distribution is the softmax's, the seed decides, and a temperature near 0 is the greedy choice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from enginebench_models.sampling import chooser, draw, generator

LOGITS = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -np.inf, 1.5, -4.0], np.float32)
N = 10_000
CHI2_7 = 29.9  # with 7 cells but one: a fair draw exceeds this once in 25,000 seeds


def probabilities(temperature: float) -> np.ndarray:
    weights = np.exp((LOGITS.astype(np.float64) - 2.0) / temperature)
    return weights / weights.sum()


def chi2(drawn: list[int], expected: np.ndarray) -> float:
    """Pearson's, over the cells that can occur; infinite if one occurred that cannot."""
    counts, possible = np.bincount(drawn, minlength=len(expected)), expected > 0
    if counts[~possible].any():
        return float("inf")
    shares = expected[possible] * len(drawn)
    return float(((counts[possible] - shares) ** 2 / shares).sum())


@pytest.mark.parametrize("temperature", [0.5, 0.85, 1.0, 3.0])
def test_ids_are_drawn_as_often_as_the_softmax_says(temperature: float) -> None:
    rng = generator(20)
    drawn = [draw(LOGITS, temperature, rng) for _ in range(N)]
    assert chi2(drawn, probabilities(temperature)) < CHI2_7


WRONG: dict[str, Callable[[np.random.Generator], int]] = {
    "another temperature": lambda rng: draw(LOGITS, 1.2, rng),
    "multiplied by the temperature": lambda rng: draw(LOGITS * 4, 2.0, rng),
    "uniformly": lambda rng: int(rng.integers(len(LOGITS))),
    "always the likeliest": lambda rng: int(LOGITS.argmax()),
    "one id too far": lambda rng: (draw(LOGITS, 1.0, rng) + 1) % len(LOGITS),
    "of the likeliest only (top-k)": lambda rng: draw(np.where(LOGITS > -1, LOGITS, -np.inf), 1.0, rng),
}


@pytest.mark.parametrize("way", WRONG)
def test_negative_control_what_draws_otherwise_is_found(way: str) -> None:
    rng = generator(20)
    assert chi2([WRONG[way](rng) for _ in range(N)], probabilities(1.0)) > CHI2_7


def test_one_uniform_is_used_for_each_id_and_inverts_the_cumulative_sum() -> None:
    rng, beside = generator(3), generator(3)
    cumulative = probabilities(0.7).cumsum()
    for _ in range(500):
        assert draw(LOGITS, 0.7, rng) == int(np.searchsorted(cumulative, beside.random(), side="right"))


@pytest.mark.parametrize("size", [1, 511, 512, 513, 5000])
def test_a_vocabulary_of_any_size_is_inverted_as_a_whole(size: int) -> None:
    logits = (np.random.default_rng(4).standard_normal(size) * 2).astype(np.float32)
    weights = np.exp((logits.astype(np.float64) - logits.max()) / 0.9)
    cumulative, rng, beside = weights.cumsum() / weights.sum(), generator(3), generator(3)
    drawn = [draw(logits, 0.9, rng) for _ in range(2000)]
    assert drawn == [int(np.searchsorted(cumulative, beside.random(), side="right")) for _ in range(2000)]


def test_the_seed_decides() -> None:
    def ids(seed: int) -> list[int]:
        choose = chooser(1.0, seed)
        return [choose(LOGITS) for _ in range(50)]

    assert ids(5) == ids(5)
    assert len({tuple(ids(seed)) for seed in (0, 1, 5, 2**62)}) == 4


@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-30, 1e-45, 5e-324])
def test_a_temperature_near_0_is_the_greedy_choice(temperature: float) -> None:
    rng = np.random.default_rng(1)
    near, greedy = chooser(temperature, 9), chooser(0.0, 9)
    for _ in range(200):
        logits = (rng.standard_normal(4096) * 4).astype(np.float32)
        logits[rng.integers(4096)] = 20.0
        assert near(logits) == greedy(logits) == int(logits.argmax())


def test_at_temperature_0_the_lowest_of_equals_is_chosen() -> None:
    assert chooser(0.0, 0)(np.array([1.0, 3.0, 3.0], np.float32)) == 1


@pytest.mark.parametrize("edge", [0.0, 1.0 - 2**-53])
def test_the_ends_of_the_uniform_are_ids_that_can_occur(edge: float) -> None:
    class Edge:
        def random(self) -> float:
            return edge

    rng = np.random.default_rng(2)
    for _ in range(300):
        logits = rng.standard_normal(rng.integers(1, 3000)).astype(np.float32)
        hidden = rng.random(len(logits)) < 0.5
        hidden[rng.integers(len(logits))] = False
        logits[hidden] = -np.inf
        assert np.isfinite(logits[draw(logits, 1.0, Edge())])  # type: ignore[arg-type]


def test_the_largest_and_smallest_floats_do_no_harm() -> None:
    assert draw(np.array([3e38, -3e38, 2.9e38], np.float32), 0.5, generator(1)) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=["nan", "inf"])
def test_logits_that_are_no_numbers_are_refused(bad: float) -> None:
    broken = LOGITS.copy()
    broken[3] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        draw(broken, 1.0, generator(1))
    with pytest.raises(ValueError, match="NaN or infinity"):
        draw(np.full(4, -np.inf, np.float32), 1.0, generator(1))


def test_the_logits_are_left_as_they_are() -> None:
    """An engine may hand over its own buffer."""
    logits = LOGITS.copy()
    draw(logits, 0.3, generator(1))
    assert np.array_equal(logits, LOGITS)
