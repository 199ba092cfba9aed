"""What bounds the decoding of a case: the gaps between its tokens regressed on the length of the context.

The slope is what one more position costs, to be held against the cache bytes of a position; the rest is what every
token costs, to be held against the weight bytes. What cannot be told has a reason, and the workload that would tell.
The launch is the unit: one line through each, Student's t over launches. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from enginebench.store.record import Launch

from .distribution import t_quantile
from .evidence import median_of, valid_requests
from .plausibility import LAUNCHING_NS_PER_LAYER
from .utilisation import Limit

Numbers = npt.NDArray[np.float64]

FEWEST_LAUNCHES = 3
FEWEST_GAPS = 8
MOST_POINTS = 256
"""Longer series are binned: a robust slope looks at every pair of points."""
EXPLAINED = 2 / 3
"""Bandwidth-bound: reading weights and cache at the limit's speed explains so much of the time."""
NO_MATTER = 0.2
"""The context's part may be unknown where it is less than this of the time."""
AS_SLOW = 0.5
"""Compute-bound: a prompt token costs at least this much of a generated one, though its weights were read for all."""
TELLING_PROMPT = 16
"""Prompts below pay mostly what is paid once."""
PADDED = 0.25


class Bottleneck(msgspec.Struct, frozen=True, kw_only=True):
    """`bound` is None with a reason. Times in ns for a token, or for a position of the context.

    `slope` is None where the range of context is too small to tell it from 0; `text` says what would tell.
    """

    bound: Literal["bandwidth", "launch", "compute"] | None
    text: str | None = None
    reason: str | None = None
    context: list[int] | None = None
    token_ns: float | None = None
    token_interval: list[float] | None = None
    weights_ns: float | None = None
    slope_ns: float | None = None
    slope_interval: list[float] | None = None
    cache_ns: float | None = None


@dataclass(frozen=True)
class Expected:
    """What reading alone takes, by the limit of the run: ns for the weights, ns for the cache of one position."""

    weights_ns: float
    cache_ns: float
    n_layers: int


@dataclass(frozen=True)
class Line:
    """Over launches: mean and half-width of the 95 % interval."""

    token_ns: float
    token_half: float
    slope_ns: float
    slope_half: float
    first: int
    last: int

    @property
    def middle(self) -> float:
        return (self.first + self.last) / 2


def bottleneck(launches: Sequence[Launch], limit: Limit | None, plan: Mapping[str, Any]) -> Bottleneck:
    """The verdict on one case from its timed launches."""
    good = [launch for launch in launches if launch.kind == "timed" and launch.ok and valid_requests(launch)]
    expected = _expected(good, limit, plan)
    if isinstance(expected, str):
        return Bottleneck(bound=None, reason=expected)
    if len(good) < FEWEST_LAUNCHES:
        return Bottleneck(bound=None, reason=f"{len(good)} timed launches give no interval, {FEWEST_LAUNCHES} would")
    n_gen = good[0].case.workload.n_gen
    if n_gen <= FEWEST_GAPS:
        return Bottleneck(bound=None, reason=f"{n_gen} tokens show no course, more than {FEWEST_GAPS} would")
    return _verdict(good, line_of(good), expected)


def _expected(good: Sequence[Launch], limit: Limit | None, plan: Mapping[str, Any]) -> Expected | str:
    loaded = good[0].loaded if good else None
    if loaded is None:
        return "no timed launch"
    if limit is None:
        return "no limit was measured in this run"
    if not loaded.read_bytes_per_token or not loaded.kv_cache_bytes:
        return "the engine does not say what a token reads of weights and cache"
    layers = next((m["shape"].get("n_layers") for m in plan["models"] if m["name"] == good[0].case.model), None)
    ns_per_byte = 1e9 / limit.bytes_per_second
    per_position = loaded.kv_cache_bytes / loaded.n_ctx
    return Expected(loaded.read_bytes_per_token * ns_per_byte, per_position * ns_per_byte, layers or 0)


# ---- the line -------------------------------------------------------------------------------------------------


def line_of(launches: Sequence[Launch]) -> Line:
    workload = launches[0].case.workload
    lines = [_through(launch) for launch in launches]
    slope, slope_half = _mean_and_half([line[0] for line in lines])
    token, token_half = _mean_and_half([line[1] for line in lines])
    start = workload.n_depth + workload.n_prompt
    return Line(token, token_half, slope, slope_half, start + 1, start + workload.n_gen - 1)


def _through(launch: Launch) -> tuple[float, float]:
    """(slope, time in the middle): Theil-Sen on the median gap of each position over the launch's requests."""
    workload = launch.case.workload
    times = np.array([request.t_token_ns for request in valid_requests(launch)], np.float64)
    gaps: Numbers = np.median(np.diff(times, axis=1), axis=0)
    positions: Numbers = np.arange(1, len(gaps) + 1) + np.float64(workload.n_depth + workload.n_prompt)
    x, y = _binned(positions), _binned(gaps)
    first, second = np.triu_indices(len(x), k=1)
    slope = float(np.median((y[second] - y[first]) / (x[second] - x[first])))
    return slope, float(np.median(y - slope * (x - x.mean())))


def _binned(values: Numbers) -> Numbers:
    if len(values) <= MOST_POINTS:
        return values
    return np.array([np.median(part) for part in np.array_split(values, MOST_POINTS)])


def _mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)), t_quantile(len(values) - 1, 0.975) * spread


# ---- the verdict ----------------------------------------------------------------------------------------------


def _verdict(launches: Sequence[Launch], line: Line, expected: Expected) -> Bottleneck:
    told = line.slope_half <= expected.cache_ns / 2 or line.slope_ns - line.slope_half > expected.cache_ns
    bound, why = _bound(launches, line, expected, told)
    slope = _slope_text(line, expected) if told else _untold(launches[0], line, expected)
    facts: dict[str, Any] = {
        "context": [line.first, line.last],
        "token_ns": line.token_ns,
        "token_interval": [line.token_ns - line.token_half, line.token_ns + line.token_half],
        "weights_ns": expected.weights_ns,
        "slope_ns": line.slope_ns if told else None,
        "slope_interval": [line.slope_ns - line.slope_half, line.slope_ns + line.slope_half],
        "cache_ns": expected.cache_ns,
    }
    if bound is None:
        return Bottleneck(bound=None, reason=f"{why}; {slope}", **facts)
    return Bottleneck(bound=bound, text=f"{bound}-bound: {why}; {slope}", **facts)


Bound = Literal["bandwidth", "launch", "compute"]


def _bound(launches: Sequence[Launch], line: Line, expected: Expected, told: bool) -> tuple[Bound | None, str]:
    """(bound, the reason in words). The share of reading is taken at the slow end of the interval, and at the fast."""
    reading = expected.weights_ns + expected.cache_ns * line.middle
    share = reading / line.token_ns
    slow, fast = reading / (line.token_ns + line.token_half), reading / max(line.token_ns - line.token_half, 1.0)
    said = f"reading weights and cache at the limit's speed is {share:.0%} of {line.token_ns / 1e6:.3g} ms per token"
    if slow >= EXPLAINED:
        return "bandwidth", said
    if fast >= EXPLAINED:
        return None, f"{said} (95 %: {slow:.0%} to {fast:.0%}): more launches would tell"
    growing = max(0.0, line.slope_ns) * line.middle / line.token_ns
    widest = max(0.0, line.slope_ns + line.slope_half) * line.middle / line.token_ns
    if told and growing > EXPLAINED:
        return "compute", f"{growing:.0%} of {line.token_ns / 1e6:.3g} ms per token is attention over the context"
    if not told and widest > max(NO_MATTER, 2 * expected.cache_ns * line.middle / line.token_ns):
        return None, f"{said}, and the context's part may be up to {widest:.0%}"
    return _fixed(launches, line, expected, reading, said)


def _fixed(launches: Sequence[Launch], line: Line, expected: Expected, reading: float, said: str) -> tuple[Bound, str]:
    """Not the bytes: the processor's own work (arithmetic, conversion), or the launching of it."""
    prompt_token = _prompt_token_ns(launches)
    if prompt_token is not None and prompt_token >= AS_SLOW * line.token_ns:
        return "compute", f"{said}, and a prompt token, which shares its reading, costs {prompt_token / 1e6:.3g} ms too"
    excess = line.token_ns - reading
    if excess > LAUNCHING_NS_PER_LAYER * expected.n_layers:
        return "compute", f"{said}, and the other {excess / 1e6:.3g} ms are more than launching kernels takes"
    return "launch", f"{said}, and a prompt token costs little: the other {excess / 1e6:.3g} ms are paid for each step"


def _prompt_token_ns(launches: Sequence[Launch]) -> float | None:
    n_prompt = launches[0].case.workload.n_sent  # the whole prefill, the depth too
    found = [value for launch in launches if (value := median_of(lambda t: t.ttft_ns)(launch)) is not None]
    return float(np.median(found)) / n_prompt if found and n_prompt >= TELLING_PROMPT else None


def _slope_text(line: Line, expected: Expected) -> str:
    said = f"{line.slope_ns:.3g} ± {line.slope_half:.2g} ns for each position of context"
    if line.slope_ns + line.slope_half < PADDED * expected.cache_ns:
        return f"{said}, reading its cache would take {expected.cache_ns:.3g}: a padded cache, or a hidden cost"
    return f"{said}, reading its cache takes {expected.cache_ns:.3g}"


def _untold(launch: Launch, line: Line, expected: Expected) -> str:
    """Half-widths fall with the number of tokens to the power of 1.5."""
    workload = launch.case.workload
    factor = (line.slope_half / (expected.cache_ns / 2)) ** (2 / 3)
    needed = 2 ** math.ceil(math.log2(workload.n_gen * factor))
    return (
        f"the cost of context cannot be told from {line.first} to {line.last} positions, "
        f"about pp{workload.n_prompt}+tg{needed} would tell"
    )
