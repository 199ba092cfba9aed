"""From the launches of a run to its result: the metrics of each case, where it stands, and why.

Everything recorded stays in the result; what is derived here can be derived again from it. Texts of failing engines
lose what they say of this machine (`store.anonymous`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from enginebench.store.anonymous import anonymous, anonymous_launch
from enginebench.store.journal import SCHEMA_VERSION
from enginebench.store.record import Case, FidelityReading, Launch, LoadedFacts

from . import audits, cold_start, plausibility
from .bottleneck import bottleneck
from .brackets import bracketed
from .breakeven import Course, crossings
from .comparable import difference
from .energy_metrics import energy_metrics
from .evidence import NOTHING_FREE, Evidence
from .giving_up import given_up
from .metrics import GATE_FAILED, case_metrics, gate_objection, limit_of
from .outliers import outliers
from .plain_case import class_of, label
from .quantisation import quantisation_impacts
from .utilisation import Limit, over_devices
from .verdicts import Candidate, named_comparisons, pair_comparisons, rank_groups
from .warmup import case_warmup

LARGEST_EXCLUDED_SHARE = 0.05
"""Of the measured requests: a case of which more had to be left out is marked (method M9)."""


@dataclass(frozen=True)
class CaseFacts:
    """What is known of a case besides its launches. `unavailable`: why it could not run here at all."""

    case: Case
    role: str
    unavailable: str | None = None
    pins_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    compares: dict[str, str] = field(default_factory=dict)
    """Name of a comparison → configuration of the same engine that is its base."""
    aa_floors: dict[str, float] = field(default_factory=dict)
    """Metric → what equal cases were seen to differ by on this machine, as a share."""


@dataclass(frozen=True)
class Verdict:
    """`reason` is None only for an unreserved "ok"; with "ok" it holds a caution."""

    status: str
    reason: str | None = None


def assemble(
    run_id: str,
    environment: Mapping[str, Any],
    plan: Mapping[str, Any],
    cases: Sequence[CaseFacts],
    launches: Iterable[Launch],
) -> dict[str, Any]:
    """The result, in JSON's own types: what was NaN or infinite is null."""
    of_case: dict[str, list[Launch]] = defaultdict(list)
    for launch in launches:
        of_case[launch.case.id].append(launch)
    limits = device_limits(cases, of_case)
    courses = {case_id: cold_start.courses(found) for case_id, found in of_case.items()}
    result = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "environment": environment,
        "plan": plan,
        "cases": [
            _case_result(
                facts,
                of_case[facts.case.id],
                plan,
                environment,
                over_devices(limits.get(_work(facts.case)), facts.case.shards, plan["device"]),
                courses.get(facts.case.id, {}),
            )
            for facts in cases
        ],
        "comparisons": [],
    }
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(result))
    judged = _with_comparisons(bracketed(plausibility.judged(plain)), cases, of_case)
    return {
        **judged,
        "break_even": _break_even(judged, [courses.get(facts.case.id, {}) for facts in cases]),
        "quantisation": msgspec.to_builtins(quantisation_impacts(judged)),
    }


def _break_even(
    result: Mapping[str, Any], courses: Sequence[Mapping[cold_start.State, Course]]
) -> list[dict[str, Any]]:
    """Where one case overtakes another of the same work, in the same start state. Only what stands may be compared."""
    of_work: dict[tuple[str, str, cold_start.State, str | None], list[tuple[str, Course]]] = defaultdict(list)
    for case, found in zip(result["cases"], courses, strict=True):
        if case["status"] == "ok" and case["role"] != "instrument":
            for state, course in found.items():
                work = case["model"], case["workload"], state, class_of(case, result["plan"])
                of_work[work].append((label(case), course))
    return [
        {"state": state, "model": model, "workload": workload, **asdict(crossing)}
        for (model, workload, state, _), each in of_work.items()
        for crossing in crossings(each)
    ]


def _with_comparisons(
    result: dict[str, Any], cases: Sequence[CaseFacts], of_case: Mapping[str, list[Launch]]
) -> dict[str, Any]:
    """Cases that are not ok are compared with nobody; every pair is asked only where the plan gathers for verdicts."""
    fair = result["plan"].get("fair_comparison", False)
    good = [
        Candidate(facts.case, facts.role, of_case[facts.case.id], facts.compares, facts.aa_floors, fair)
        for facts, row in zip(cases, result["cases"], strict=True)
        if row["status"] == "ok"
    ]
    pairs = pair_comparisons(good) if result["plan"].get("verdicts", False) else []
    ranks = rank_groups(good, pairs) if pairs else {}
    for facts, row in zip(cases, result["cases"], strict=True):
        row["rank_groups"] = ranks.get(facts.case.id)
    return {**result, "comparisons": msgspec.to_builtins([*pairs, *named_comparisons(good, result["plan"]["models"])])}


def device_limits(cases: Sequence[CaseFacts], of_case: Mapping[str, list[Launch]]) -> dict[tuple[str, str], Limit]:
    """(model, workload) → the highest rate of reading that an instrument showed for it."""
    limits: dict[tuple[str, str], Limit] = {}
    for facts in cases:
        if facts.role != "instrument":
            continue
        limit = limit_of(of_case.get(facts.case.id, []), facts.case)
        best = limits.get(_work(facts.case))
        if limit is not None and (best is None or limit.bytes_per_second > best.bytes_per_second):
            limits[_work(facts.case)] = limit
    return limits


def judge(facts: CaseFacts, launches: Sequence[Launch], plan: Mapping[str, Any], audited: str | None = None) -> Verdict:
    """Where a case stands. Objections in order: unavailable, failed check, other work, fidelity, audits, not timed.

    `audited`: why an audit refuses it.
    """
    if facts.unavailable is not None:
        return Verdict("unavailable", facts.unavailable)
    checks = [launch for launch in launches if launch.kind == "check"]
    timed = [launch for launch in launches if launch.kind == "timed"]
    if not launches:
        return Verdict("failed", "not launched: the run ended before its turn")
    if checks and not any(launch.ok for launch in checks):
        return _check_verdict(checks[-1])
    if refusal := _refusal(facts, launches, plan) or audited:
        return Verdict("invalid", refusal)
    return _timed_verdict(timed, given_up(launches))


def _refusal(facts: CaseFacts, launches: Sequence[Launch], plan: Mapping[str, Any]) -> str | None:
    """Other work, or a wrong answer."""
    if facts.role != "test" and (other := difference(launches, plan)):  # a test engine has no model
        return other
    objection = gate_objection(launches, facts.role)
    return objection and _gate_text(objection, launches)


def _check_verdict(check: Launch) -> Verdict:
    """An engine that says that it cannot do this here has not failed."""
    if check.failure is not None and check.failure.reason == "unsupported":
        hint = f" ({check.failure.hint})" if check.failure.hint else ""
        return Verdict("unavailable", check.failure.message + hint)
    return Verdict("failed", _failure_text(check))


def _timed_verdict(timed: Sequence[Launch], gave_up: str | None) -> Verdict:
    """`gave_up`: why no further launches were made."""
    failed = [launch for launch in timed if not launch.ok]
    if not timed:
        return Verdict("failed", "not timed: the run ended before its turn")
    if len(failed) == len(timed):
        return Verdict("failed", "; ".join(filter(None, (_failure_text(failed[-1]), gave_up))))
    evidence = Evidence(timed)
    if evidence.excluded_share == 1 or not evidence.good:
        return Verdict("invalid", NOTHING_FREE if evidence.good else evidence.lack)
    cautions = []
    if failed:
        cautions.append(f"{len(failed)} of {len(timed)} timed launches failed: {_failure_text(failed[-1])}")
    if gave_up is not None:
        cautions.append(gave_up)
    if evidence.excluded_share > LARGEST_EXCLUDED_SHARE:
        cautions.append(f"{evidence.excluded_share:.0%} of the measured requests are invalid: measure again")
    return Verdict("ok", "; ".join(cautions) or None)


def _failure_text(launch: Launch) -> str:
    failure = launch.failure
    if failure is None:
        return "no failure was recorded"
    whose = f" ({failure.out_of})" if failure.out_of else ""
    stage = f" during {failure.stage}" if failure.stage else ""
    return f"{failure.reason}{whose}{stage}: {failure.message}" + (f" ({failure.hint})" if failure.hint else "")


def _gate_text(objection: str, launches: Sequence[Launch]) -> str:
    if objection != GATE_FAILED:
        return objection
    reasons = [reason for launch in launches if launch.fidelity for reason in launch.fidelity.reasons]
    return ": ".join([objection, "; ".join(reasons)]) if reasons else objection


def _work(case: Case) -> tuple[str, str]:
    return case.model, case.workload.name


def _case_result(
    facts: CaseFacts,
    launches: Sequence[Launch],
    plan: Mapping[str, Any],
    environment: Mapping[str, Any],
    limit: Limit | None,
    courses: Mapping[cold_start.State, Course],
) -> dict[str, Any]:
    told = [anonymous_launch(launch) for launch in launches]
    loaded, found = _last_loaded(told), audits.audits(launches)
    audited = audits.objection(found)
    verdict = judge(facts, launches, plan, audited)
    return {
        "engine": facts.case.engine,
        "configuration": facts.case.configuration,
        "model": facts.case.model,
        "workload": facts.case.workload.name,
        **({} if facts.case.threads is None else {"threads": facts.case.threads}),
        **({} if facts.case.shards == 1 else {"shards": facts.case.shards}),
        "role": facts.role,
        "status": verdict.status,
        "reason": None if verdict.reason is None else anonymous(verdict.reason),
        "metrics": {
            **case_metrics(launches, facts.role, limit, audited),
            **cold_start.cold_metrics(launches),
            **energy_metrics(launches, environment),
        },
        "warmup": case_warmup(launches),
        "outliers": outliers(launches),
        "fidelity": _fidelity(launches),
        "bottleneck": bottleneck(launches, limit, plan) if facts.role == "engine" else None,
        "audits": found,
        "loaded": loaded,
        "versions": {**facts.versions, **(loaded.versions if loaded else {})},
        "pins_sha256": facts.pins_sha256,
        "anatomy": {state: cold_start.anatomy(launches, state) for state in cold_start.states(launches)},
        "time_to_tokens_ns": cold_start.time_to_tokens(courses),
        "launches": told,
    }


def _fidelity(launches: Sequence[Launch]) -> FidelityReading | None:
    return next((launch.fidelity for launch in reversed(launches) if launch.fidelity), None)


def _last_loaded(launches: Sequence[Launch]) -> LoadedFacts | None:
    return next((launch.loaded for launch in reversed(launches) if launch.loaded), None)
