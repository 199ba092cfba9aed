"""NF4: the published levels, exact codes by hand, errors within half a gap of a run's own peak, clear refusals."""

from statistics import NormalDist

import numpy as np
import pytest
from enginebench_models.errors import UnsupportedModel
from enginebench_models.nf4 import BLOCK, LEVELS, nf4


def test_the_levels_are_the_quantiles_that_qlora_takes() -> None:
    """create_normal_map of bitsandbytes, whose offset leaves out the outermost quantiles."""
    offset, quantile = 0.9677083, NormalDist().inv_cdf
    above = [quantile(p) for p in np.linspace(offset, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
    expected = np.array(sorted([*above, 0.0, *below])) / above[0]
    assert pytest.approx(expected, abs=2e-7) == LEVELS


def test_codes_by_hand() -> None:
    run = np.zeros((1, BLOCK), np.float32)
    run[0, :8] = [-0.5, 0.5, 0.25, 0.0, 0.039, 0.04, -0.31, 0.22]
    found = nf4(run)
    assert found.peaks.tolist() == [[0.5]]
    assert found.codes[0, :8].tolist() == [0, 15, 12, 7, 8, 8, 1, 12]  # shares -1, 1, 0.5, 0, 0.078, 0.08, -0.62, 0.44
    assert set(found.codes[0, 8:]) == {7}
    assert found.float32()[0, :3].tolist() == pytest.approx([-0.5, 0.5, 0.5 * 0.44070982933])


def test_of_two_equally_near_levels_the_lower_is_taken() -> None:
    middle = (LEVELS[8] + LEVELS[7]) / 2
    run = np.full((1, BLOCK), middle, np.float32)
    run[0, :2] = 1.0, np.nextafter(middle, np.float32(1))
    assert nf4(run).codes[0, :3].tolist() == [15, 8, 7]


def test_a_run_of_zeros_stays_zero() -> None:
    assert not nf4(np.zeros((2, 2 * BLOCK), np.float32)).float32().any()


def test_the_peak_of_float16_weights_is_held_exactly_and_errors_follow_it() -> None:
    scales = np.float32(10.0) ** np.arange(-2, 2)
    matrix = (np.random.default_rng(1).standard_normal((4, 8 * BLOCK)) * scales[:, None]).astype(np.float16)
    found, values = nf4(matrix.astype(np.float32)), matrix.astype(np.float32)
    peaks = np.abs(values.reshape(4, 8, BLOCK)).max(axis=2)
    assert np.array_equal(found.peaks.astype(np.float32), peaks)
    errors = np.abs(found.float32() - values).reshape(4, 8, BLOCK).max(axis=2) / peaks
    assert errors.max() <= np.diff(LEVELS).max() / 2 * 1.0001
    assert errors.min() > np.diff(LEVELS).min() / 2


def test_what_nf4_cannot_hold_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="rows of 96 weights are not whole runs of 64"):
        nf4(np.ones((1, 96), np.float32))
    with pytest.raises(UnsupportedModel, match="a weight of 70000 is beyond float16"):
        nf4(np.full((1, BLOCK), -70000, np.float32))
