"""What bounds a case, on series whose course is written down: ITL = fixed + slope x context."""

from __future__ import annotations

import random
from typing import Any

import pytest
from enginebench.judge.bottleneck import Bottleneck, bottleneck, line_of
from enginebench.judge.utilisation import Limit
from enginebench.store.record import Workload

LIMIT = Limit("limit:read", 1_000_000, 1000.0)  # 1 GB/s: a byte is 1 ns
N_CTX = 512
CACHE_NS = 1000.0  # of a position: 512 000 bytes / 512 positions


def series(n_prompt: int, n_gen: int, fixed_ns: float, slope_ns: float, draw: random.Random, noise: float) -> list[int]:
    gaps = [fixed_ns + slope_ns * (n_prompt + i) for i in range(1, n_gen)]
    gaps = [gap * (1 + noise * draw.gauss(0, 1)) for gap in gaps]
    times = [n_prompt * 10_000.0]
    for gap in gaps:
        times.append(times[-1] + gap)
    return [round(t) for t in times]


def launches(
    records: Any, fixed_ms: float, slope_ns: float, n_gen: int = 257, n_launches: int = 4, noise: float = 0.0,
    weights_ms: float = 1.0, prefill_ms: float | None = None,
) -> list[Any]:  # fmt: skip
    """Weights that take `weights_ms` at the limit; three requests a launch."""
    workload = Workload(n_prompt=64, n_gen=n_gen)
    case = type(records)(workload).case()
    loaded = records.loaded(read_bytes_per_token=int(weights_ms * 1e6), kv_cache_bytes=512_000, n_ctx=N_CTX)
    found = []
    for number in range(n_launches):
        requests = []
        for iteration in range(3):
            draw = random.Random(f"{number}:{iteration}")
            times = series(64, n_gen, fixed_ms * 1e6, slope_ns, draw, noise)
            shift = 0 if prefill_ms is None else int(prefill_ms * 1e6) - times[0]
            request = type(records)(workload).request(iteration, [(t + shift) / 1e6 for t in times])
            requests.append(request)
        found.append(records.timed(requests, case, block=number, loaded=loaded))
    return found


def verdict(records: Any, *args: Any, **options: Any) -> Bottleneck:
    return bottleneck(launches(records, *args, **options), LIMIT, records.plan(models=[model(records)]))


def model(records: Any) -> dict[str, Any]:
    (facts,) = records.plan()["models"]
    return {**facts, "shape": {**facts["shape"], "n_layers": 2}}


def test_the_line_is_found_exactly(records: Any) -> None:
    line = line_of(launches(records, 1.0, CACHE_NS))
    assert line.slope_ns == pytest.approx(1000.0, rel=1e-3)
    assert line.token_ns == pytest.approx(1e6 + 1000 * (64 + 128.5), rel=1e-3)
    assert (line.first, line.last) == (65, 320)


def test_a_few_long_gaps_do_not_bend_the_line(records: Any) -> None:
    straight = launches(records, 1.0, CACHE_NS)
    times = straight[0].requests[0].t_token_ns
    times[250:] = [t + 50_000_000 for t in times[250:]]
    assert line_of(straight).slope_ns == pytest.approx(1000.0, rel=1e-2)


def test_reading_that_explains_the_time_is_bandwidth_bound_and_the_slope_is_the_caches(records: Any) -> None:
    found = verdict(records, 1.05, CACHE_NS, noise=0.01)
    assert found.bound == "bandwidth"
    assert found.slope_ns == pytest.approx(1000, rel=0.1)
    assert found.slope_interval is not None and found.slope_interval[0] < 1000 < found.slope_interval[1]
    assert found.context == [65, 320]
    assert found.text is not None and found.text.startswith("bandwidth-bound: reading weights and cache at the limit's")


def test_a_fixed_cost_on_top_is_launch_bound(records: Any) -> None:
    found = verdict(records, 4.0, CACHE_NS)
    assert found.bound == "launch"
    assert found.text is not None and "paid for each step" in found.text


def test_a_prompt_token_as_slow_as_a_generated_one_is_compute_bound(records: Any) -> None:
    found = verdict(records, 4.0, CACHE_NS, prefill_ms=64 * 3.0)
    assert found.bound == "compute"


def test_more_than_launching_all_layers_takes_is_compute_bound(records: Any) -> None:
    assert verdict(records, 1.0 + 2 * 2.0 - 0.1, CACHE_NS).bound == "launch"
    assert verdict(records, 1.0 + 2 * 2.0 + 0.1, CACHE_NS).bound == "compute"


def test_a_cost_of_context_far_beyond_its_cache_is_compute_bound(records: Any) -> None:
    found = verdict(records, 0.5, 20 * CACHE_NS, weights_ms=0.5)
    assert found.bound == "compute"
    assert found.text is not None and "attention over the context" in found.text


def test_a_padded_cache_shows_as_no_slope(records: Any) -> None:
    found = verdict(records, 1.5, 0.0)
    assert found.slope_ns == pytest.approx(0.0, abs=1.0)
    assert found.text is not None and "a padded cache" in found.text


def test_a_range_too_small_says_which_would_do(records: Any) -> None:
    """The slope is untold, the bound is not: the context's part is small."""
    found = verdict(records, 1.1, CACHE_NS, n_gen=13, noise=0.01)
    assert found.slope_ns is None
    assert found.slope_interval is not None
    assert found.bound == "bandwidth"
    assert found.text is not None and "cannot be told from 65 to 76 positions, about pp64+tg" in found.text


def test_noise_that_hides_the_contexts_part_gives_no_verdict(records: Any) -> None:
    found = verdict(records, 6.0, CACHE_NS, n_gen=10, noise=0.2)
    assert found.bound is None
    assert found.reason is not None and "the context's part may be up to" in found.reason


def test_too_few_launches_tokens_or_no_limit_are_reasons(records: Any) -> None:
    assert verdict(records, 1.0, 1.0, n_launches=2).reason == "2 timed launches give no interval, 3 would"
    assert verdict(records, 1.0, 1.0, n_gen=8).reason == "8 tokens show no course, more than 8 would"
    assert bottleneck(launches(records, 1.0, 1.0), None, records.plan()).reason == "no limit was measured in this run"
    assert bottleneck([], LIMIT, records.plan()).reason == "no timed launch"


def test_an_engine_that_tells_no_cache_gets_no_verdict(records: Any) -> None:
    import msgspec

    untold = [
        msgspec.structs.replace(launch, loaded=records.loaded(kv_cache_bytes=0)) for launch in launches(records, 1, 1)
    ]
    reason = bottleneck(untold, LIMIT, records.plan()).reason
    assert reason == "the engine does not say what a token reads of weights and cache"
