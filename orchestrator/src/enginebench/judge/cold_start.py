"""What a cold start is made of, and how long the first N tokens take from the spawn on. Pure.

Two start states, never mixed: cache-warm from the timed launches, disk-cold from the launches that found their model on
the disk alone. A launch that did not start as asked is left out, with the reason. Parts are durations that add up, so
they are arithmetic means over launches.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Literal

import msgspec
import numpy as np

from enginebench.store.record import CLOCKS_DISAGREE, Launch, Request

from .breakeven import HORIZON, Course
from .evidence import Evidence, median_of, timing
from .interval import interval_95, log_mean
from .metric import Metric

State = Literal["disk-cold", "cache-warm"]
STAGES = ("import", "read", "convert", "compile")
"""Of a load, as engines report them; none reports all."""
PARTS = ("spawn", *STAGES, "rest_of_load", "handover", "first_token")


class Anatomy(msgspec.Struct, frozen=True, kw_only=True):
    """From the spawn to the first token. `parts_ns` add up to `total_ns`; None: not told apart by this engine."""

    launches: int
    valid: bool
    reasons: list[str]
    parts_ns: dict[str, float | None]
    total_ns: float | None
    steady_ttft_ns: float | None
    """What the first token takes in a process that has settled."""
    settling_ns: float | None
    """What the warm-up requests took longer than as many steady ones, besides the first token."""


def states(launches: Sequence[Launch]) -> list[State]:
    """Those that this case was started in."""
    cold = any(launch.kind == "cold" for launch in launches)
    return ["cache-warm", "disk-cold"] if cold else ["cache-warm"]


def started(launches: Sequence[Launch], state: State) -> tuple[list[Launch], list[str]]:
    """The launches that did start in this state and came to a first token; and why others did not."""
    kind = "cold" if state == "disk-cold" else "timed"
    asked = [launch for launch in launches if launch.kind == kind]
    reasons = [reason for launch in asked if (reason := _objection(launch))]
    return [launch for launch in asked if _objection(launch) is None], list(dict.fromkeys(reasons))


def _objection(launch: Launch) -> str | None:
    if launch.start_state is not None and launch.start_state.reason is not None:
        return launch.start_state.reason
    if launch.failure is not None:
        return f"a launch failed: {launch.failure.reason}"
    if launch.cold_start_ns is None or not launch.requests:
        return "a launch made no request"
    return "; ".join([*launch.doubts, *_doubts(launch)]) or None


def _doubts(launch: Launch) -> list[str]:
    """Of the first request. Clocks may disagree by a hundredth of the cold start, which is longer than the request."""
    first = launch.requests[0]
    if 0 <= first.clock_disagreement_ns <= (launch.cold_start_ns or 0) / 100:
        return [doubt for doubt in first.doubts if not doubt.startswith(CLOCKS_DISAGREE)]
    return first.doubts


def cold_metrics(launches: Sequence[Launch]) -> dict[str, Metric]:
    """Metrics of the disk-cold launches, where there are any."""
    if not any(launch.kind == "cold" for launch in launches):
        return {}
    good, reasons = started(launches, "disk-cold")
    facts: dict[str, Callable[[Launch], float | None]] = {
        "disk_cold_load_ns": lambda launch: launch.load_ns,
        "disk_cold_start_ns": lambda launch: launch.cold_start_ns,
    }
    if not good:
        return {name: Metric(value=None, unit="ns", valid=False, reasons=reasons) for name in facts}
    return {name: _metric([fact(launch) for launch in good], reasons) for name, fact in facts.items()}


def _metric(values: Sequence[float | None], cautions: list[str]) -> Metric:
    found = [value for value in values if value]
    if not found:
        return Metric(value=None, unit="ns", valid=False, reasons=["no launch recorded it", *cautions])
    return Metric(value=log_mean(found), unit="ns", valid=True, reasons=cautions, interval=interval_95(found))


# ---- anatomy --------------------------------------------------------------------------------------------------


def anatomy(launches: Sequence[Launch], state: State) -> Anatomy:
    good, reasons = started(launches, state)
    if not good:
        lack = reasons or [f"no {state} launch"]
        return Anatomy(
            launches=0,
            valid=False,
            reasons=lack,
            parts_ns=dict.fromkeys(PARTS),
            total_ns=None,
            steady_ttft_ns=None,
            settling_ns=None,
        )
    each = [parts(launch) for launch in good]
    ttft, e2e = (_steady(launches, duration) for duration in ("ttft_ns", "e2e_ns"))
    settling = [found for launch in good if (found := _settling(launch, ttft, e2e)) is not None]
    return Anatomy(
        launches=len(good),
        valid=True,
        reasons=reasons,
        parts_ns={name: _mean([launch_parts[name] for launch_parts in each]) for name in PARTS},
        total_ns=statistics.fmean(launch.cold_start_ns or 0 for launch in good),
        steady_ttft_ns=ttft,
        settling_ns=statistics.fmean(settling) if settling else None,
    )


def parts(launch: Launch) -> dict[str, float | None]:
    """One launch's. Imports before hello and in a stage of the load are one part.

    `handover` is what lies between the steps: the harness, and making up the prompt.
    """
    total, first_token = launch.cold_start_ns or 0, launch.requests[0].t_token_ns[0]
    startup, load = launch.startup_ns or 0, launch.load_ns or 0
    spawn = startup if launch.interpreter_ns is None else launch.interpreter_ns
    told = launch.loaded.stages_ns if launch.loaded else {}
    stages: dict[str, float | None] = {name: told.get(name) for name in STAGES}
    rest_of_load = load - sum(ns for ns in stages.values() if ns is not None)
    if launch.interpreter_ns is not None:
        stages["import"] = (stages["import"] or 0) + startup - spawn
    return {
        "spawn": spawn,
        **stages,
        "rest_of_load": rest_of_load,
        "handover": total - startup - load - first_token,
        "first_token": first_token,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """None if no launch tells; a launch that does not spent nothing on it that it knows of."""
    known = [value for value in values if value is not None]
    return sum(known) / len(values) if known else None


def _steady(launches: Sequence[Launch], duration: str) -> float | None:
    """Mean over the timed launches of their medians."""
    of_launch = median_of(lambda t: getattr(t, duration))
    found = [value for launch in Evidence(launches).good if (value := of_launch(launch)) is not None]
    return statistics.fmean(found) if found else None


def _settling(launch: Launch, ttft: float | None, e2e: float | None) -> float | None:
    if ttft is None or e2e is None:
        return None
    early = _warmup(launch)
    first_token = early[0].t_token_ns[0] - ttft
    return sum(request.t_token_ns[-1] - e2e for request in early) - first_token


def _warmup(launch: Launch) -> list[Request]:
    """A launch without warm-up has its first request as such."""
    return launch.warmup or launch.requests[:1]


# ---- time to N tokens -----------------------------------------------------------------------------------------


def courses(launches: Sequence[Launch]) -> dict[State, Course]:
    """Of each state in which the case was started."""
    found = {state: course(launches, state) for state in states(launches)}
    return {state: each for state, each in found.items() if each is not None}


def course(launches: Sequence[Launch], state: State) -> Course | None:
    """When token 1, 2, … HORIZON of a process has come, asked for one request of the workload after the other.

    The warm-up requests as they were, then steady ones: TTFT and TPOT of the launch itself, or of all timed launches
    for a disk-cold one. Time between requests is left out. None if no launch started in this state, or none settled.
    """
    good, _ = started(launches, state)
    rows = [row for launch in good if (row := _row(launch, launches if state == "disk-cold" else [launch])) is not None]
    return Course(np.stack(rows)) if rows else None


def _row(launch: Launch, settled: Sequence[Launch]) -> np.typing.NDArray[np.float64] | None:
    ttft, tpot = _steady(settled, "ttft_ns"), _steady(settled, "tpot_ns")
    early = _warmup(launch)
    if ttft is None or (tpot is None and len(early[0].t_token_ns) > 1):
        return None
    starts = list(accumulate((request.t_token_ns[-1] for request in early), initial=_first_start(launch)))
    came = [start + t for start, request in zip(starts, early, strict=False) for t in request.t_token_ns]
    n_gen = len(early[0].t_token_ns)
    steady = ttft + (tpot or 0.0) * np.arange(n_gen)
    further = np.arange(max(0, -(-(HORIZON - len(came)) // n_gen)))
    later = (starts[-1] + further[:, None] * steady[-1] + steady[None, :]).ravel()
    return np.concatenate([came, later])[:HORIZON].astype(np.float64)


def _first_start(launch: Launch) -> int:
    return (launch.cold_start_ns or 0) - timing(launch.requests[0]).ttft_ns


def time_to_tokens(found: Mapping[State, Course]) -> dict[str, dict[str, float]]:
    """State → number of tokens → nanoseconds since the spawn."""
    return {state: {str(n): found[state].at(n) for n in GRID} for state in found}


GRID = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
