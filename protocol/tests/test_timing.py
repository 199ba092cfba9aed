"""Latencies from hand-written stamps, exact to the nanosecond."""

from array import array

import pytest
from enginebench_protocol.timing import RequestTiming

MS = 1_000_000


def timing(*after_start_ms: float, n_prompt: int = 10, start_ns: int = 5_000) -> RequestTiming:
    return RequestTiming(n_prompt, start_ns, array("q", [start_ns + round(ms * MS) for ms in after_start_ms]))


def test_latencies_of_a_request() -> None:
    request = timing(20, 22, 25, 26)
    assert request.n_gen == 4
    assert request.ttft_ns == 20 * MS
    assert request.e2e_ns == 26 * MS
    assert request.itl_ns == [2 * MS, 3 * MS, 1 * MS]
    assert request.tpot_ns == 2 * MS


def test_rates_of_a_request() -> None:
    request = timing(20, 22, 25, 26)
    assert request.prefill_tps == 500.0
    assert request.decode_tps == 500.0
    assert request.peak_decode_tps == 1000.0


def test_the_first_token_does_not_count_as_decoding() -> None:
    assert timing(20, 22).tpot_ns == timing(2000, 2002).tpot_ns == 2 * MS


def test_the_start_of_the_clock_does_not_matter() -> None:
    assert timing(20, 22, start_ns=0).itl_ns == timing(20, 22, start_ns=2**60).itl_ns


def test_one_token_has_a_first_token_and_no_decode_rate() -> None:
    request = timing(20)
    assert (request.ttft_ns, request.e2e_ns) == (20 * MS, 20 * MS)
    assert request.itl_ns == []
    assert request.tpot_ns is request.decode_tps is request.peak_decode_tps is None


def test_tokens_that_arrive_together_have_no_rate() -> None:
    request = timing(20, 20)
    assert request.itl_ns == [0]
    assert request.decode_tps is request.peak_decode_tps is None


@pytest.mark.parametrize(("n_prompt", "rate"), [(1, 50.0), (512, 25600.0)])
def test_prefill_counts_prompt_tokens(n_prompt: int, rate: float) -> None:
    assert timing(20, 21, n_prompt=n_prompt).prefill_tps == rate
