"""int4 by hand-written numbers: the integers, the scale and the order of the codes."""

import numpy as np
import pytest
from enginebench_models.errors import UnsupportedModel
from enginebench_models.int4 import int4


def test_integers_of_one_block() -> None:
    """The weight of the largest magnitude becomes -8: here the scale is -4 ÷ -8."""
    row = np.zeros((1, 32), np.float32)
    row[0, :4] = [-4.0, 3.5, 0.5, 0.2]
    held = int4(row)
    assert held.scales.tolist() == [[0.5]]
    assert held.codes[0, :5].tolist() == [0, 15, 9, 8, 8]
    assert held.float32()[0, :5].tolist() == [-4.0, 3.5, 0.5, 0.0, 0.0]


def test_codes_are_in_the_order_of_the_row_and_restore_to_the_same_numbers() -> None:
    matrix = np.random.default_rng(0).standard_normal((3, 96)).astype(np.float32)
    held = int4(matrix)
    by_hand = (held.codes.astype(np.float32).reshape(3, 3, 32) - 8) * held.scales[..., None].astype(np.float32)
    assert np.array_equal(by_hand.reshape(3, 96), held.float32())
    assert np.abs(held.float32() - matrix).max() < np.abs(matrix).max() / 7


def test_rows_that_are_not_whole_runs_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="whole runs of 32"):
        int4(np.zeros((2, 48), np.float32))
