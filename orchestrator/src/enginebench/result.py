"""The result of a run: everything recorded, the metrics derived from it, and the verdict on each case. One JSON file.

Its fields are described in results/SCHEMA.md and checked against results/result.schema.json on writing and on reading.
Nothing of the machine but its kind goes in: texts of failing engines lose paths and host name here.
"""

from __future__ import annotations

import json
import os
import re
import socket
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
from enginebench_protocol.host import cache_folder

from .comparable import difference
from .discovery import ROOT
from .errors import BenchError, UsageError
from .journal import SCHEMA_VERSION, refuse_newer, sync_folder
from .metrics import GATE_FAILED, Limit, case_metrics, gate_objection, limit_of
from .record import Case, FidelityReading, Launch, LoadedFacts

SCHEMA_FILE = ROOT / "results" / "result.schema.json"


@dataclass(frozen=True)
class CaseFacts:
    """What is known of a case besides its launches. `unavailable`: why it could not run here at all."""

    case: Case
    role: str
    unavailable: str | None = None
    pins_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=dict)


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
    result = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "environment": environment,
        "plan": plan,
        "cases": [_case_result(facts, of_case[facts.case.id], plan, limits.get(_work(facts.case))) for facts in cases],
        "comparisons": [],
    }
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(result))
    return plain


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


def judge(facts: CaseFacts, launches: Sequence[Launch], plan: Mapping[str, Any]) -> Verdict:
    """Where a case stands. Objections in order: unavailable, failed check, other work, fidelity, not timed."""
    if facts.unavailable is not None:
        return Verdict("unavailable", facts.unavailable)
    checks = [launch for launch in launches if launch.kind == "check"]
    timed = [launch for launch in launches if launch.kind == "timed"]
    if not launches:
        return Verdict("failed", "not launched: the run ended before its turn")
    if checks and not any(launch.ok for launch in checks):
        return _check_verdict(checks[-1])
    if facts.role != "test" and (other := difference(launches, plan)):  # a test engine has no model
        return Verdict("invalid", other)
    if objection := gate_objection(launches, facts.role):
        return Verdict("invalid", _gate_text(objection, launches))
    return _timed_verdict(timed)


def _check_verdict(check: Launch) -> Verdict:
    """An engine that says that it cannot do this here has not failed."""
    if check.failure is not None and check.failure.reason == "unsupported":
        hint = f" ({check.failure.hint})" if check.failure.hint else ""
        return Verdict("unavailable", check.failure.message + hint)
    return Verdict("failed", _failure_text(check))


def _timed_verdict(timed: Sequence[Launch]) -> Verdict:
    failed = [launch for launch in timed if not launch.ok]
    if not timed:
        return Verdict("failed", "not timed: the run ended before its turn")
    if len(failed) == len(timed):
        return Verdict("failed", _failure_text(failed[-1]))
    if not any(not request.doubts for launch in timed if launch.ok for request in launch.measured):
        return Verdict("invalid", "no measured request is free of doubt")
    if failed:
        return Verdict("ok", f"{len(failed)} of {len(timed)} timed launches failed: {_failure_text(failed[-1])}")
    return Verdict("ok")


def _failure_text(launch: Launch) -> str:
    failure = launch.failure
    if failure is None:
        return "no failure was recorded"
    stage = f" during {failure.stage}" if failure.stage else ""
    return f"{failure.reason}{stage}: {failure.message}" + (f" ({failure.hint})" if failure.hint else "")


def _gate_text(objection: str, launches: Sequence[Launch]) -> str:
    if objection != GATE_FAILED:
        return objection
    reasons = [reason for launch in launches if launch.fidelity for reason in launch.fidelity.reasons]
    return ": ".join([objection, "; ".join(reasons)]) if reasons else objection


def _work(case: Case) -> tuple[str, str]:
    return case.model, case.workload.name


def _case_result(
    facts: CaseFacts, launches: Sequence[Launch], plan: Mapping[str, Any], limit: Limit | None
) -> dict[str, Any]:
    verdict = judge(facts, launches, plan)
    loaded = _last_loaded(launches)
    return {
        "engine": facts.case.engine,
        "configuration": facts.case.configuration,
        "model": facts.case.model,
        "workload": facts.case.workload.name,
        "role": facts.role,
        "status": verdict.status,
        "reason": None if verdict.reason is None else anonymous(verdict.reason),
        "metrics": case_metrics(launches, facts.role, limit),
        "fidelity": _fidelity(launches),
        "loaded": loaded,
        "versions": {**facts.versions, **(loaded.versions if loaded else {})},
        "pins_sha256": facts.pins_sha256,
        "launches": [_anonymous_launch(launch) for launch in launches],
    }


def _fidelity(launches: Sequence[Launch]) -> FidelityReading | None:
    return next((launch.fidelity for launch in reversed(launches) if launch.fidelity), None)


def _last_loaded(launches: Sequence[Launch]) -> LoadedFacts | None:
    return next((launch.loaded for launch in reversed(launches) if launch.loaded), None)


# ---- nothing of this machine ----------------------------------------------------------------------------------


def anonymous(text: str) -> str:
    """`text` with the folders of this machine and its host name replaced by what they are."""
    for place, name in _places():
        text = re.sub(place, name, text)
    return text


@cache
def _places() -> list[tuple[str, str]]:
    """(pattern, name), longest folder first: the checkout may lie in the home folder."""
    folders = {
        str(ROOT): "<checkout>",
        str(cache_folder()): "<cache>",
        tempfile.gettempdir(): "<tmp>",
        str(Path.home()): "~",
    }
    places = [(re.escape(folder), name) for folder, name in folders.items() if len(folder) > 1]
    places.sort(key=lambda place: -len(place[0]))
    return [*places, (rf"\b{re.escape(socket.gethostname())}\b", "<host>")]


def _anonymous_launch(launch: Launch) -> Launch:
    failure = launch.failure
    if failure is None:
        return launch
    cleaned = msgspec.structs.replace(
        failure,
        message=anonymous(failure.message),
        hint=anonymous(failure.hint),
        detail=anonymous(failure.detail),
        stderr_tail=[anonymous(line) for line in failure.stderr_tail],
    )
    return msgspec.structs.replace(launch, failure=cleaned)


# ---- the file -------------------------------------------------------------------------------------------------


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """A reader sees the old file or the whole new one. Raises BenchError if `result` breaks the schema."""
    fault = schema_fault(result)
    if fault is not None:
        raise BenchError(f"the result breaks its own schema at {fault}; the raw data is in the journal beside it")
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(dumped(result))
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read_result(path: Path) -> dict[str, Any]:
    """Raises UsageError for what is no result, is damaged, or was written by a newer version."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}; give the result.json of a run") from None
    if not isinstance(result, dict):
        raise UsageError(f"{path} holds no result of a run: give a result.json")
    refuse_newer(result.get("schema_version"), path.name)
    fault = schema_fault(result)
    if fault is not None:
        raise UsageError(f"{path} is damaged at {fault}")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def schema_fault(result: Mapping[str, Any]) -> str | None:
    """The place and nature of the most telling violation of the schema; None if there is none."""
    error = jsonschema.exceptions.best_match(_validator().iter_errors(result))
    if error is None:
        return None
    return f"{error.json_path}: {error.message[:300]}"


@cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


_NUMBER_LIST = re.compile(r"\[\n\s+(-?\d[\d.eE+-]*(?:,\n\s+-?\d[\d.eE+-]*)*)\n\s+\]")
"""A list of plain numbers as json.dumps indents it. A string cannot match: its line breaks are escaped."""


def dumped(result: Mapping[str, Any]) -> str:
    """Indented JSON with each list of numbers on one line. Raises ValueError on NaN."""
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    return _NUMBER_LIST.sub(lambda match: "[" + re.sub(r"\s+", " ", match[1]) + "]", text) + "\n"
