"""Frequencies against numbers worked out by hand from the published rule."""

import math

import numpy as np
import pytest
from enginebench_models.config import RopeScaling
from enginebench_models.rope import base_frequencies, inverse_frequencies, recognise_scaling, scaling_divisors

LLAMA_3_2 = RopeScaling(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)


def test_plain_frequencies_fall_from_one_by_powers_of_theta() -> None:
    assert base_frequencies(10000.0, 8).tolist() == pytest.approx([1.0, 0.1, 0.01, 0.001])


def test_short_waves_stay_and_long_ones_are_divided_by_the_factor() -> None:
    plain = base_frequencies(500000.0, 64)
    divisors = scaling_divisors(plain, LLAMA_3_2)
    wavelengths = 2 * math.pi / plain
    assert (divisors[wavelengths < 8192 / 4] == 1.0).all()
    assert np.allclose(divisors[wavelengths > 8192], 32.0)


def test_between_them_the_rule_is_linear_in_the_wave_count() -> None:
    wavelength = 4096.0  # two waves in the original context: one third of the way from 1 to 4
    frequency = np.array([2 * math.pi / wavelength], np.float32)
    expected = 1 / ((1 - 1 / 3) / 32 + 1 / 3)
    assert scaling_divisors(frequency, LLAMA_3_2)[0] == pytest.approx(expected, rel=1e-6)


def test_a_stored_tensor_gives_its_rule_back() -> None:
    plain = base_frequencies(500000.0, 128)
    rule = RopeScaling(8.0, 1.0, 4.0, 8192)
    assert recognise_scaling(scaling_divisors(plain, rule), plain) == rule


def test_a_foreign_tensor_is_not_taken_for_the_rule() -> None:
    plain = base_frequencies(500000.0, 64)
    divisors = scaling_divisors(plain, LLAMA_3_2)
    divisors[16] *= 1.01
    assert recognise_scaling(divisors, plain) is None


def test_scaling_divides_the_plain_frequencies() -> None:
    plain = base_frequencies(500000.0, 64)
    assert np.array_equal(inverse_frequencies(500000.0, 64, None), plain)
    assert np.allclose(inverse_frequencies(500000.0, 64, LLAMA_3_2) * scaling_divisors(plain, LLAMA_3_2), plain)
