"""Matrices in 8 bits: exact numbers by hand, errors within half a step, rows of their own."""

import numpy as np
import pytest
from enginebench_models.eight_bit import e4m3_numbers, quantised, to_e4m3

E4M3 = e4m3_numbers()


def test_int8_by_hand() -> None:
    found = quantised(np.array([[1.27, -0.635, 0.0], [0.0, 0.0, 0.0], [-25.4, 0.1, 0.11]], np.float32), "int8")
    assert found.values.dtype == np.int8
    assert found.values.tolist() == [[127, -64, 0], [0, 0, 0], [-127, 0, 1]]  # 63.5 and 0.5: ties to even
    assert found.scales.tolist() == pytest.approx([0.01, 1.0, 0.2])


def test_every_number_of_e4m3_is_itself_and_others_go_to_the_nearest() -> None:
    finite = E4M3[np.isfinite(E4M3)]
    assert E4M3[[0x00, 0x01, 0x08, 0x38, 0x7E, 0xC0]].tolist() == [0, 2.0**-9, 2.0**-6, 1, 448, -2]
    assert (len(finite), finite.max(), finite.min()) == (254, 448, -448)
    assert np.array_equal(E4M3[to_e4m3(finite)], finite)
    values = np.random.default_rng(0).uniform(-448, 448, 2000).astype(np.float32) ** 3 / 448**2
    nearest = np.abs(values[:, None] - finite).min(axis=1)
    excess = np.abs(E4M3[to_e4m3(values)] - values) - nearest
    assert (excess <= 2.0**-10 * np.abs(values)).all()  # rounded to float16 first: near a tie the other may be taken


def test_e4m3_ties_go_to_the_even_number() -> None:
    assert E4M3[to_e4m3(np.array([17, 19, -17, 2.0**-10], np.float32))].tolist() == [16, 20, -16, 0]


@pytest.mark.parametrize(("kind", "step"), [("int8", 0.5 / 127), ("fp8", 2**-4)])
def test_the_error_of_a_row_follows_its_own_largest_value(kind: str, step: float) -> None:
    matrix = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    matrix *= 10.0 ** np.arange(-4, 4)[:, None]
    found = quantised(matrix, kind)
    worst = np.abs(found.float32() - matrix).max(axis=1) / np.abs(matrix).max(axis=1)
    assert (worst <= step * 1.001).all()
    assert worst.min() > step / 16
