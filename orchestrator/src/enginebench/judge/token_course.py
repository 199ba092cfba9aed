"""The time of each token of a case, in the order in which a process generates them, warm-up requests first. Pure.

First tokens are left out: they end a prefill, and have metrics of their own. The median over launches of each gap, and
neighbours put together on a logarithmic grid: the first tokens one by one, the thousandth with its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from enginebench.store.record import Launch

POINTS = 90


@dataclass(frozen=True)
class TokenCourse:
    """`tokens`: their number since the process started, 1 the first. `warmup_tokens`: those of warm-up requests."""

    tokens: list[float]
    gap_ns: list[float]
    warmup_tokens: int


def token_course(case: Mapping[str, Any]) -> TokenCourse | None:
    """None without a timed launch that counts, and for requests of one token."""
    launches = [launch for launch in msgspec.convert(case["launches"], list[Launch]) if launch.counts]
    rows = [row for launch in launches if len(row := _gaps(launch)) > 0]
    if not rows:
        return None
    shortest = min(map(len, rows))
    gaps = np.median([row[:shortest] for row in rows], axis=0)
    n_gen = len(launches[0].of_workload[0].t_token_ns)
    place = np.arange(shortest)
    numbers = place // (n_gen - 1) * n_gen + place % (n_gen - 1) + 2
    warmup = sum(len(request.t_token_ns) for request in launches[0].warmup)
    edges = np.unique(np.geomspace(1, shortest, POINTS).astype(int))
    starts = np.concatenate([[0], edges[:-1]])
    return TokenCourse(_middles(numbers, starts), _middles(gaps, starts), warmup)


def _gaps(launch: Launch) -> np.typing.NDArray[np.float64]:
    gaps = [np.diff(np.asarray(request.t_token_ns, np.float64)) for request in launch.of_workload]
    return np.concatenate(gaps) if gaps else np.empty(0)


def _middles(values: Sequence[float] | np.typing.NDArray[Any], starts: np.typing.NDArray[np.int64]) -> list[float]:
    return [float(np.median(part)) for part in np.split(np.asarray(values), starts[1:])]
