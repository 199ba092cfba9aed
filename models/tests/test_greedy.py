"""Chosen ids against the reference's preferences, on rows that can be read."""

from pathlib import Path

import numpy as np
import pytest
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.greedy import Choices, choices, objections
from enginebench_models.reference import Reference
from enginebench_models.reference_cache import reference_choices

ROWS = np.array([[2.0, 1.95, 0.0, 0.0], [0.0, 1.0, 4.0, 0.0]], np.float32)


def test_a_choice_has_a_margin_and_a_rank() -> None:
    found = choices(ROWS, [1, 2])
    assert found.margins == pytest.approx((0.05, 0.0))
    assert found.ranks == (2, 1)


@pytest.mark.parametrize(
    ("margin", "precision", "passes"),
    [
        (0.0, "float32", True),
        (1e-3, "float32", True),
        (3e-3, "float32", False),
        (0.19, "16-bit", True),
        (0.2, "16-bit", False),
        (0.4, "q4_k", True),
        (0.6, "q4_k", False),
    ],
)
def test_only_a_near_tie_may_turn(margin: float, precision: str, passes: bool) -> None:
    reasons = objections(Choices((0.0, margin), (1, 2)), precision)
    assert (reasons == []) == passes
    assert passes or reasons[0].startswith(f"token 2 is {margin:.3g} nat below the likeliest")


def test_a_choice_outside_the_five_likeliest_is_wrong_however_near() -> None:
    assert objections(Choices((0.01,), (5,)), "16-bit") == []
    assert objections(Choices((0.01,), (6,)), "16-bit") == [
        "token 1 is number 6 of the reference's likeliest, 5 are allowed"
    ]


def test_the_references_own_text_has_no_margin_and_is_kept(tiny: Checkpoint, tmp_path: Path) -> None:
    prompt, ids = [1, 2, 3, 4], list[int]()
    for _ in range(4):
        ids.append(int(Reference(tiny).logits([*prompt, *ids], [len(prompt) + len(ids) - 1]).argmax()))
    found = reference_choices(tiny, prompt, ids, tmp_path)
    assert found.ranks == (1, 1, 1, 1)
    assert max(found.margins) < 1e-4
    (kept,) = tmp_path.iterdir()
    kept.write_text(kept.read_text().replace("[1, 1, 1, 1]", "[1, 1, 1, 9]"))
    assert reference_choices(tiny, prompt, ids, tmp_path).ranks == (1, 1, 1, 9)  # read, not computed again
    other = reference_choices(tiny, prompt, [*ids[:3], (ids[3] + 1) % 4096], tmp_path)
    assert other.ranks[3] > 1 and other.margins[3] > 0
