"""From the raw launches of one case to its metrics. Pure; every definition is in docs/methodology.md.

Launch value: the median of its valid measured requests. Case value: the log-mean over timed launches. Rates are
averaged as time per token and then inverted. What is missing is None with a reason, never 0; nothing is rounded here.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import msgspec
from enginebench_protocol.timing import RequestTiming

from enginebench.store.record import Case, Launch, Request

from .evidence import Evidence, median_of, timing, valid_requests
from .interval import interval_95, log_mean
from .memory_metrics import efficiency, memory_metrics
from .metric import Metric, missing
from .percentile import PERCENTILES, percentile_bound
from .utilisation import Limit, mbu

GATE_FAILED = "fidelity gate failed"
GATE_MISSING = "no fidelity reading"
NO_COMPUTE_LIMIT = "no compute limit was measured in this run: the instrument reads, it does not multiply"
NO_GAP = "one generated token has no gap to a next one"
FIRST_IN_DOUBT = "the first request is in doubt"
PROMPT_TOO_SHORT = "what the prompt adds to the prefill of its depth is below the noise"


def case_metrics(
    launches: Sequence[Launch], role: str = "engine", limit: Limit | None = None, refused: str | None = None
) -> dict[str, Metric]:
    """Every metric of one case by name. A case of role "engine" has valid speeds only with a passed fidelity gate.

    `refused`: why an audit refuses its speeds.
    """
    evidence = Evidence(launches)
    speeds = _speeds(evidence)
    speeds["mbu"] = mbu(evidence, speeds["decode_tps"], limit, reads_cache=role == "engine")
    if role == "engine":
        speeds["mfu"] = missing("ratio", NO_COMPUTE_LIMIT)
    memory = memory_metrics(evidence.memory, evidence.loaded, checked=bool(evidence.checks))
    speeds["tokens_per_second_per_gb"] = efficiency(speeds["decode_tps"], memory)
    objection = gate_objection(launches, role) or refused
    if objection is not None:
        speeds = {name: _objected(metric, objection) for name, metric in speeds.items()}
    return {**speeds, **_counts(evidence), **memory}


def gate_objection(launches: Sequence[Launch], role: str) -> str | None:
    """Why speeds of this case must not be believed; None if it passed, or if it is an instrument without logits."""
    readings = [launch.fidelity for launch in launches if launch.fidelity is not None]
    if not readings:
        return GATE_MISSING if role == "engine" else None
    return None if all(reading.passed for reading in readings) else GATE_FAILED


def limit_of(launches: Sequence[Launch], case: Case) -> Limit | None:
    """The limit that an instrument's case demonstrates; None if it was not measured."""
    rate = case_metrics(launches, role="instrument")["decode_tps"]
    facts = Evidence(launches).loaded
    if rate.value is None or facts is None or facts.read_bytes_per_token == 0:
        return None
    return Limit(case.label, facts.read_bytes_per_token, rate.value, rate.interval)


# ---- speed ----------------------------------------------------------------------------------------------------


def first_request_ttft(launch: Launch) -> float | None:
    if not launch.requests or launch.requests[0].doubts:
        return None
    return float(timing(launch.requests[0]).ttft_ns)


def prefill_token_ns(launch: Launch) -> float | None:
    """Time that a token of the prompt takes. Behind a depth: what it adds to the prefill of the depth alone."""
    whole, workload = median_of(lambda t: t.ttft_ns)(launch), launch.case.workload
    if whole is None or not workload.n_depth:
        return None if whole is None else whole / workload.n_prompt
    alone = _ttfts_of_the_depth(launch)
    if not alone or whole - statistics.median(alone) <= max(alone) - min(alone):
        return None
    return (whole - statistics.median(alone)) / workload.n_prompt


def depth_ttft(launch: Launch) -> float | None:
    """Prefill of the depth alone and one decision: the median over those requests."""
    alone = _ttfts_of_the_depth(launch)
    return float(statistics.median(alone)) if alone else None


def _ttfts_of_the_depth(launch: Launch) -> list[int]:
    """Without the first one, which may compile."""
    alone = [request for request in launch.requests if request.phase == "depth"][1:]
    return [timing(request).ttft_ns for request in alone if not request.doubts]


def warmup_improvement(launch: Launch) -> float | None:
    """First request ÷ steady request."""
    pair = first_and_steady(launch)
    return None if pair is None else pair[0] / pair[1]


def compile_time(launch: Launch) -> float | None:
    """What the engine says it spent on compiling inside load."""
    return launch.loaded.stages_ns.get("compile") if launch.loaded else None


def first_request_extra(launch: Launch) -> float | None:
    """First request − steady request: what is compiled lazily is compiled there."""
    pair = first_and_steady(launch)
    return None if pair is None else pair[0] - pair[1]


def first_and_steady(launch: Launch) -> tuple[float, float] | None:
    """Both from start to last token; None where there is no steady request, or the first is in doubt."""
    steady = median_of(lambda t: t.e2e_ns)(launch)
    if not steady or launch.requests[0].doubts:
        return None
    return float(timing(launch.requests[0]).e2e_ns), steady


def serving_overhead(launch: Launch) -> float | None:
    """Time per token at the client ÷ by the clock of the engine's own server; the median over the requests."""
    ratios = [
        tpot / server
        for request in valid_requests(launch)
        if (tpot := timing(request).tpot_ns) and (server := _server_tpot(request))
    ]
    return float(statistics.median(ratios)) if ratios else None


def _server_tpot(request: Request) -> float | None:
    """None where the server had to be asked more than once: what lies between is in no account of its own."""
    told, gaps = request.reported, len(request.t_token_ns) - 1
    return told["decode_ns"] / gaps if "decode_ns" in told and told.get("n_requests") == 1 and gaps else None


def _shortest_gap(t: RequestTiming) -> float | None:
    return min(t.itl_ns, default=None)


def _longest_gap(t: RequestTiming) -> float | None:
    return max(t.itl_ns, default=None)


LAUNCH_FACTS: dict[str, Callable[[Launch], float | None]] = {
    "startup_ns": lambda launch: launch.startup_ns,
    "load_ns": lambda launch: launch.load_ns if launch.started_as_asked else None,
    "cold_start_ns": lambda launch: launch.cold_start_ns if launch.started_as_asked else None,
    "first_request_ttft_ns": first_request_ttft,
}
TIMES: dict[str, Callable[[RequestTiming], float | None]] = {
    "ttft_ns": lambda t: t.ttft_ns,
    "tpot_ns": lambda t: t.tpot_ns,
    "min_itl_ns": _shortest_gap,
    "max_itl_ns": _longest_gap,
    "e2e_ns": lambda t: t.e2e_ns,
}
RATES: dict[str, Callable[[RequestTiming], float | None]] = {
    "decode_tps": lambda t: t.tpot_ns,
    "peak_decode_tps": _shortest_gap,
}
"""Nanoseconds per token of each rate. The first token belongs to the prefill; the peak is the shortest gap."""


def _speeds(evidence: Evidence) -> dict[str, Metric]:
    metrics = {name: _average(evidence, fact, "ns", FIRST_IN_DOUBT) for name, fact in LAUNCH_FACTS.items()}
    if wrong := [r for launch in evidence.good if (r := launch.start_state and launch.start_state.reason)]:
        caution = f"{len(wrong)} of {len(evidence.good)} launches left out: {wrong[0]}"
        metrics |= {name: _left_out(metrics[name], caution) for name in ("load_ns", "cold_start_ns")}
    metrics |= {name: _average(evidence, median_of(duration), "ns") for name, duration in TIMES.items()}
    metrics["prefill_tps"] = _inverted(_average(evidence, prefill_token_ns, "ns/tok", PROMPT_TOO_SHORT))
    if any(launch.case.workload.n_depth_requests for launch in evidence.good):
        metrics["depth_ttft_ns"] = _average(evidence, depth_ttft, "ns", "no request of the depth alone")
    for name, duration in RATES.items():
        metrics[name] = _inverted(_average(evidence, median_of(duration), "ns/tok"))
    metrics["warmup_improvement"] = _average(evidence, warmup_improvement, "ratio", FIRST_IN_DOUBT)
    if any(request.reported for launch in evidence.good for request in launch.requests):
        metrics["serving_overhead"] = _average(evidence, serving_overhead, "ratio")
    metrics["compile_ns"] = _middle(evidence, compile_time, "the engine names no compilation among its stages")
    metrics["first_request_extra_ns"] = _middle(evidence, first_request_extra, FIRST_IN_DOUBT)
    metrics |= _percentiles(evidence)
    metrics["cv"] = _variation(evidence)
    metrics["total_time_ns"] = _total_time(evidence)
    return metrics


def _middle(evidence: Evidence, value_of: Callable[[Launch], float | None], why: str) -> Metric:
    """The median over launches, of what may be zero or less."""
    found = [value for launch in evidence.good if (value := value_of(launch)) is not None]
    if not found:
        return missing("ns", why if evidence.good else evidence.lack)
    return Metric(value=float(statistics.median(found)), unit="ns", valid=True, reasons=evidence.cautions)


def _percentiles(evidence: Evidence) -> dict[str, Metric]:
    """Of all valid measured requests (TTFT) and all their gaps (ITL), whichever launch they are from."""
    timings = [timing(request) for launch in evidence.good for request in valid_requests(launch)]
    samples = {"ttft": [t.ttft_ns for t in timings], "itl": [gap for t in timings for gap in t.itl_ns]}
    return {
        f"{name}_p{percent}_ns": _percentile(evidence, found, percent)
        for name, found in samples.items()
        for percent in PERCENTILES
    }


def _percentile(evidence: Evidence, samples: Sequence[int], percent: int) -> Metric:
    if not samples:
        return missing("ns", _lack_of_values(evidence, NO_GAP))
    bound = percentile_bound(samples, percent)
    if bound.value is None:
        return missing("ns", bound.reason)
    return Metric(value=bound.value, unit="ns", valid=True, reasons=evidence.cautions)


def _average(evidence: Evidence, value_of: Callable[[Launch], float | None], unit: str, why: str = NO_GAP) -> Metric:
    found = [value for launch in evidence.good if (value := value_of(launch)) is not None]
    if not found:
        return missing(unit, _lack_of_values(evidence, why))
    if min(found) <= 0:
        return missing(unit, f"{min(found):g} {unit}: below the clock's resolution")
    return Metric(value=log_mean(found), unit=unit, valid=True, reasons=evidence.cautions, interval=interval_95(found))


def _left_out(metric: Metric, caution: str) -> Metric:
    """Launches that did not find the model in the page cache."""
    kept = [] if metric.value is None else metric.reasons
    return msgspec.structs.replace(metric, reasons=[caution, *kept])


def _lack_of_values(evidence: Evidence, why: str) -> str:
    """`why`: what is missing although there are valid requests."""
    return why if any(valid_requests(launch) for launch in evidence.good) else evidence.lack


def _inverted(per_token: Metric) -> Metric:
    """ns per token → tokens per second."""
    if per_token.value is None:
        return msgspec.structs.replace(per_token, unit="tok/s")
    turned = [1e9 / bound for bound in reversed(per_token.interval)] if per_token.interval else None
    return msgspec.structs.replace(per_token, value=1e9 / per_token.value, unit="tok/s", interval=turned)


def _variation(evidence: Evidence) -> Metric:
    """Launch-to-launch coefficient of variation of the time per output token."""
    found = [value for launch in evidence.good if (value := median_of(lambda t: t.tpot_ns)(launch)) is not None]
    if not found:
        return missing("ratio", _lack_of_values(evidence, NO_GAP))
    if len(found) == 1:
        return missing("ratio", "one launch has no spread")
    spread = statistics.stdev(found) / statistics.fmean(found)
    return Metric(value=spread, unit="ratio", valid=True, reasons=evidence.cautions)


def _total_time(evidence: Evidence) -> Metric:
    durations = [timing(request).e2e_ns for launch in evidence.good for request in valid_requests(launch)]
    if not durations:
        return missing("ns", evidence.lack)
    return Metric(value=sum(durations), unit="ns", valid=True, reasons=evidence.cautions)


def _counts(evidence: Evidence) -> dict[str, Metric]:
    requests = sum(len(valid_requests(launch)) for launch in evidence.good)
    counts = {"iterations": requests, "launches": len(evidence.good)}
    return {
        name: Metric(value=count, unit="count", valid=True, reasons=evidence.cautions)
        if count
        else missing("count", evidence.lack)
        for name, count in counts.items()
    }


def _objected(metric: Metric, objection: str) -> Metric:
    return msgspec.structs.replace(metric, valid=False, reasons=[objection, *metric.reasons])
