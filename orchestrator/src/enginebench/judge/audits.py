"""Audits of a case, after MLPerf's compliance tests: is what was timed what was checked, and was it work each time?

`token-counts` is TEST06, `same-output` TEST01, `repeated-prompt` TEST04; `repeatable` says whether the same request
gives the same ids twice. An audit that `refuses` makes its case invalid; one that merely failed is said in the table.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from enginebench.counted import counted
from enginebench.store.record import Launch, Request

FASTER = 0.9
"""MLPerf TEST04: a repeated prompt must not be more than 10 % faster."""
NOISE_NS = 200_000
"""What a clock and a scheduler may do to a request of a few ms."""
MOST_PAIRS = 5
"""All of 5 repeats before all of 5 others happens by chance once in 252 times."""
SURE_PAIRS, SURELY_FASTER = 3, 0.5

COUNTS, SAME_OUTPUT, REPEATED, REPEATABLE = "token-counts", "same-output", "repeated-prompt", "repeatable"


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """`passed` is None where there was nothing to look at."""

    name: str
    passed: bool | None
    detail: str
    refuses: bool = False


def audits(launches: Sequence[Launch]) -> list[Audit]:
    """Of one case. Empty if no launch came as far as a request."""
    if not any(launch.requests for launch in launches):
        return []
    return [token_counts(launches), same_output(launches), repeated_prompt(launches), repeatable(launches)]


def objection(found: Iterable[Audit]) -> str | None:
    """Why the case is invalid; None if no audit refuses it."""
    return "; ".join(f"failed audit {audit.name}: {audit.detail}" for audit in found if audit.refuses) or None


# ---- TEST06 ---------------------------------------------------------------------------------------------------


def token_counts(launches: Sequence[Launch]) -> Audit:
    """Ids received = tokens asked for = tokens that the engine's own server counts, if it has one.

    An answer that a server broke off is no miscount: such a request is in doubt by itself.
    """
    requests = [(launch, request) for launch in launches for request in launch.requests]
    wrong = [text for launch, request in requests if (text := _miscount(launch, request))]
    told = sum(bool(request.reported) for _, request in requests)
    if wrong:
        return Audit(name=COUNTS, passed=False, refuses=True, detail=f"{wrong[0]}, in {counted(len(wrong), 'request')}")
    own = f", {told} of them counted by the engine's server too" if told else ""
    detail = f"ids received are those asked for in {counted(len(requests), 'request')}{own}"
    return Audit(name=COUNTS, passed=True, detail=detail)


def _miscount(launch: Launch, request: Request) -> str | None:
    n_sent, n_gen = launch.case.workload.tokens_of(request.phase)
    came = {"n_prompt": request.n_prompt, "n_gen": len(request.t_token_ns)}
    if came != {"n_prompt": n_sent, "n_gen": n_gen}:
        return f"{came['n_prompt']} prompt tokens and {came['n_gen']} ids instead of {n_sent} and {n_gen}"
    if request.reported.get("n_requests", 1) > 1:
        return None
    told = {name: request.reported[name] for name in came if name in request.reported}
    other = [name for name, count in told.items() if count != came[name]]
    return f"{other[0]} is {told[other[0]]} by the engine's count, {came[other[0]]} by ours" if other else None


# ---- TEST01 ---------------------------------------------------------------------------------------------------


def same_output(launches: Sequence[Launch]) -> Audit:
    """The ids of a prompt in the timed launches are those of the check launch, which was compared with the reference.

    Other ids are excused where each of them is nearly as likely to the reference (`greedy`): rounding, not other work.
    """
    checked = {r.iteration: r for launch in launches if launch.kind == "check" for r in before_repeats(launch)}
    timed = [launch for launch in launches if launch.kind == "timed"]
    pairs = [(launch, r, checked[r.iteration]) for launch in timed for r in firsts(launch) if r.iteration in checked]
    if not pairs:
        return Audit(name=SAME_OUTPUT, passed=None, detail="no prompt was asked in a check launch and in a timed one")
    other = [(launch, r, c) for launch, r, c in pairs if r.tokens_sha256 != c.tokens_sha256]
    if not other:
        return Audit(
            name=SAME_OUTPUT, passed=True, detail=f"{len(pairs)} timed answers equal those of the check launch"
        )
    detail = f"{len(other)} of {len(pairs)} timed answers differ from the check launch's, {_first_difference(other)}"
    excused = all(_near_tie(launch, r) for launch, r, _ in other)
    if excused:
        detail += "; each choice is nearly as likely to the reference"
    return Audit(name=SAME_OUTPUT, passed=False, refuses=not excused, detail=detail)


def firsts(launch: Launch) -> Iterator[Request]:
    """Requests with the whole workload, without repeats."""
    return (request for request in launch.requests if not request.repeat and request.phase != "depth")


def before_repeats(launch: Launch) -> Iterator[Request]:
    """Those that every launch asks in the same place: an engine's answer may depend on what came before."""
    return itertools.takewhile(lambda request: not request.repeat, launch.requests)


def _near_tie(launch: Launch, request: Request) -> bool:
    return any(reading.iteration == request.iteration and reading.passed for reading in launch.greedy)


def _first_difference(other: Sequence[tuple[Launch, Request, Request]]) -> str:
    """Where ids were kept."""
    places = [place for _, r, c in other if (place := first_difference(r.tokens, c.tokens)) is not None]
    return f"first at token {min(places) + 1}" if places else "by their hashes"


def first_difference(one: Sequence[int], two: Sequence[int]) -> int | None:
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), None)


# ---- TEST04 ---------------------------------------------------------------------------------------------------


def repeated_prompt(launches: Sequence[Launch]) -> Audit:
    distinct, repeats = _asked_again(launches)
    if not repeats:
        return Audit(name=REPEATED, passed=None, detail="no prompt was asked twice in a row")
    ratio = _ratio(distinct, repeats)
    said = (
        f"a prompt asked again takes {ratio:.0%} of the time to first token of a new one ({len(repeats)} asked again)"
    )
    if looks_cached(distinct, repeats):
        return Audit(name=REPEATED, passed=False, refuses=True, detail=f"prefix cache on: {said}")
    return Audit(name=REPEATED, passed=True, detail=said)


def looks_cached(distinct: Sequence[Request], repeats: Sequence[Request]) -> bool:
    """More than 10 % faster by the medians, and each repeat before each of the others."""
    slowest, fastest = max(map(_ttft, repeats)), min(map(_ttft, distinct))
    return _ratio(distinct, repeats) < FASTER and fastest - slowest > 0 and _gain_ns(distinct, repeats) > NOISE_NS


def settled(distinct: Sequence[Request], repeats: Sequence[Request]) -> bool:
    """Nothing more need be asked: it does not look cached, or it surely is."""
    if not looks_cached(distinct, repeats) or len(repeats) >= MOST_PAIRS:
        return True
    return len(repeats) >= SURE_PAIRS and _ratio(distinct, repeats) < SURELY_FASTER


def _asked_again(launches: Sequence[Launch]) -> tuple[list[Request], list[Request]]:
    """Of the check launches: (requests that were asked for the first time, the same asked again)."""
    checks = [launch for launch in launches if launch.kind == "check"]
    repeats = [request for launch in checks for request in launch.requests if request.repeat]
    again = {request.iteration for request in repeats}
    return [r for launch in checks for r in firsts(launch) if r.iteration in again], repeats


def _ttft(request: Request) -> int:
    return request.t_token_ns[0]


def _gain_ns(distinct: Sequence[Request], repeats: Sequence[Request]) -> float:
    return statistics.median(map(_ttft, distinct)) - statistics.median(map(_ttft, repeats))


def _ratio(distinct: Sequence[Request], repeats: Sequence[Request]) -> float:
    return statistics.median(map(_ttft, repeats)) / max(statistics.median(map(_ttft, distinct)), 1)


# ---- determinism ----------------------------------------------------------------------------------------------


def repeatable(launches: Sequence[Launch]) -> Audit:
    distinct, repeats = _asked_again(launches)
    if not repeats:
        return Audit(name=REPEATABLE, passed=None, detail="no prompt was asked twice in a row")
    first = {request.iteration: request for request in distinct}
    pairs = [(first[r.iteration], r) for r in repeats if r.iteration in first]
    other = [(one, two) for one, two in pairs if one.tokens_sha256 != two.tokens_sha256]
    if not other:
        return Audit(name=REPEATABLE, passed=True, detail="the same request gives the same ids")
    place = first_difference(other[0][0].tokens, other[0][1].tokens)
    where = "" if place is None else f", from token {place + 1} on"
    return Audit(name=REPEATABLE, passed=False, detail=f"not deterministic: the same request gives other ids{where}")
