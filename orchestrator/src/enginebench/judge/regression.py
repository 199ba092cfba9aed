"""Two runs, case by case: what became faster or slower from BASE to NEW, and whether that is a regression.

Launches of different runs share no block, so they are compared unpaired (`judge.comparison`), corrected for all that
was asked. Runs that did not do the same work on the same kind of machine are refused, or marked where that is forced.
The limits are stated in docs/methodology.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from enginebench.errors import UsageError
from enginebench.store.record import Launch

from .comparison import FEWEST_FOR_VERDICT, Comparison, compare_unpaired, holm
from .evidence import median_of
from .metrics import LAUNCH_FACTS, TIMES, prefill_token_ns
from .plain_case import case_id, model_of, workload_of
from .rows import machine_of
from .stored_run import StoredRun

Outcome = Literal["ok", "regression", "inconclusive"]

SPEED_LIMIT = 0.02
LOAD_LIMIT = 0.05
MEMORY_LIMIT = 0.01
MEMORY_GRAIN_BYTES = 16 * 2**20
"""Growth within this is what one reading of the same process differs from the next."""
MEMORY = "peak_memory_bytes"


@dataclass(frozen=True)
class Asked:
    """A metric that is compared: the value of a launch, a time."""

    metric: str
    unit: str
    value_of: Callable[[Launch], float | None]
    least_limit: float = 0.0


ASKED = (
    Asked("decode_tps", "tok/s", median_of(TIMES["tpot_ns"])),
    Asked("prefill_tps", "tok/s", prefill_token_ns),
    Asked("load_ns", "ns", LAUNCH_FACTS["load_ns"], LOAD_LIMIT),
)


@dataclass(frozen=True)
class Row:
    """One metric of one case in both runs. `ratio` is of speeds (of memory: base ÷ new): above 1 NEW is better."""

    case_id: str
    metric: str
    unit: str
    base: float | None
    new: float | None
    outcome: Outcome
    limit: float
    ratio: float | None = None
    verdict: str = "INCONCLUSIVE"
    comparison: Comparison | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def interval(self) -> list[float] | None:
        return self.comparison.interval_95 if self.comparison else None


@dataclass(frozen=True)
class Regression:
    """`facts`: what each run says of itself, in one order. `objections`: why the runs are not comparable."""

    base: StoredRun
    new: StoredRun
    facts: dict[str, tuple[Any, Any]]
    objections: list[str]
    rows: list[Row]
    only_base: list[str]
    only_new: list[str]
    without_base: list[str]
    """Cases that had no speed in BASE: there is nothing to hold NEW against."""

    @property
    def outcome(self) -> Outcome:
        """A case that is gone is not known to be as fast as before."""
        outcomes = {row.outcome for row in self.rows} | ({"inconclusive"} if self.only_base else set())
        if "regression" in outcomes:
            return "regression"
        return "inconclusive" if "inconclusive" in outcomes else "ok"


def compare_runs(base: StoredRun, new: StoredRun, limit: float = SPEED_LIMIT, force: bool = False) -> Regression:
    """`limit`: slow-down that counts as a regression. Raises UsageError for incomparable runs unless `force`."""
    pairs, only_base, only_new = matched(base.result, new.result, force)
    of_runs = run_objections(base.result, new.result)
    of_cases = {case_id(b): case_objections(b, n, base.result, new.result) for b, n in pairs}
    objections = list(dict.fromkeys([*of_runs, *(text for texts in of_cases.values() for text in texts)]))
    if objections and not force:
        why = "; ".join(objections)
        raise UsageError(f"these runs cannot be compared: {why}. --force compares and marks every row")
    rows = [row for b, n in pairs for row in _case_rows(b, n, limit, [*of_runs, *of_cases[case_id(b)]])]
    without = [case_id(b) for b, _ in pairs if b["status"] != "ok"]
    told = facts(base, new, pairs)
    return Regression(base, new, told, objections, _decided(rows), only_base, only_new, without)


# ---- what belongs together ------------------------------------------------------------------------------------

Pair = tuple[dict[str, Any], dict[str, Any]]


def matched(base: Mapping[str, Any], new: Mapping[str, Any], force: bool) -> tuple[list[Pair], list[str], list[str]]:
    """Cases of the same id; forced, also those that share engine and configuration alone. Then what only one has."""
    of_base, of_new = ({case_id(case): case for case in result["cases"]} for result in (base, new))
    pairs = [(of_base.pop(id_), of_new.pop(id_)) for id_ in list(of_base) if id_ in of_new]
    if force:
        pairs += _same_label(of_base, of_new)
    if not pairs:
        raise UsageError(
            f"no case in common: BASE has {_some(of_base)}, NEW has {_some(of_new)}; "
            "--force compares the same engine and configuration with other work"
        )
    return pairs, list(of_base), list(of_new)


def _same_label(of_base: dict[str, dict[str, Any]], of_new: dict[str, dict[str, Any]]) -> list[Pair]:
    """Takes out of both what has one counterpart only."""
    found = []
    for id_ in list(of_base):
        label = id_.partition("/")[0]
        here, there = ([i for i in cases if i.partition("/")[0] == label] for cases in (of_base, of_new))
        if len(here) == len(there) == 1:
            found.append((of_base.pop(id_), of_new.pop(there[0])))
    return found


def _some(cases: Mapping[str, Any]) -> str:
    names = list(cases)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none"


def run_objections(base: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What must be equal for every case of two runs."""
    machines = [machine_of(result["environment"]) for result in (base, new)]
    devices = [result["plan"]["device"] for result in (base, new)]
    return [*_other("machine", *machines), *_other("device", *devices)]


def case_objections(
    base_case: Mapping[str, Any], new_case: Mapping[str, Any], base: Mapping[str, Any], new: Mapping[str, Any]
) -> list[str]:
    """Weights, work, threads and the dtypes that were really in use."""
    of_base, of_new = _work(base_case, base["plan"]), _work(new_case, new["plan"])
    name = f"{base_case['engine']}:{base_case['configuration']}"
    told = [text for key in of_base for text in _other(key, of_base[key], of_new[key])]
    return [f"{name}: {text}" for text in told]


def _work(case: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    model, workload = model_of(case, plan), workload_of(case, plan)
    loaded = case["loaded"] or {}
    counts = {name: workload.get(name) for name in ("n_prompt", "n_gen", "n_depth", "batch_size")}
    return {
        "weights": str(model.get("fingerprint"))[:12],
        "workload": ", ".join(f"{name} {value}" for name, value in counts.items()),
        "threads": case.get("threads") or plan["threads"],
        **{name: loaded.get(name) for name in ("weight_dtype", "activation_dtype", "kv_dtype")},
    }


def _other(what: str, base: Any, new: Any) -> list[str]:
    """A case that loaded nothing says nothing about its dtypes."""
    return [f"other {what}: {base} and {new}"] if base != new and None not in (base, new) else []


# ---- what became of a case ------------------------------------------------------------------------------------


def _case_rows(base: dict[str, Any], new: dict[str, Any], limit: float, marks: list[str]) -> Iterator[Row]:
    if base["status"] != "ok":
        return
    if new["status"] != "ok":
        yield _lost(base, new, limit, marks)
        return
    launches = [msgspec.convert(case["launches"], list[Launch]) for case in (base, new)]
    for asked in ASKED:
        yield _speed(asked, base, new, launches, max(limit, asked.least_limit), marks)
    yield _memory(base, new, marks)


def _lost(base: dict[str, Any], new: dict[str, Any], limit: float, marks: list[str]) -> Row:
    """What ran and does not any more is a regression; what cannot run on this machine is only not known."""
    outcome: Outcome = "inconclusive" if new["status"] == "unavailable" else "regression"
    value = base["metrics"]["decode_tps"]["value"]
    note = f"{new['status']} in NEW: {new['reason']}"
    return Row(case_id(base), "decode_tps", "tok/s", value, None, outcome, limit, notes=[note, *marks])


def _speed(
    asked: Asked,
    base: dict[str, Any],
    new: dict[str, Any],
    launches: list[list[Launch]],
    limit: float,
    marks: list[str],
) -> Row:
    metrics = [case["metrics"].get(asked.metric) for case in (base, new)]
    values = [metric["value"] if metric else None for metric in metrics]
    invalid = [reason for metric in metrics if metric and not metric["valid"] for reason in metric["reasons"]]
    compared = compare_unpaired(
        *(_times(asked, of_case) if not invalid else [] for of_case in launches),
        base_id=case_id(base),
        new_id=case_id(new),
        metric=asked.metric,
    )
    notes = [*dict.fromkeys([*invalid, *([INSTRUMENT] if base["role"] == "instrument" else [])]), *marks]
    before, after = values
    return Row(
        case_id(base), asked.metric, asked.unit, before, after, "inconclusive", limit, comparison=compared, notes=notes
    )


INSTRUMENT = "an instrument: shows what the machine did, and counts for no regression"


def _times(asked: Asked, launches: Sequence[Launch]) -> list[float]:
    found = [asked.value_of(launch) for launch in launches if launch.counts]
    return [value for value in found if value is not None]


def _memory(base: dict[str, Any], new: dict[str, Any], marks: list[str]) -> Row:
    """One reading each, no interval: growth counts beyond 1 %, and beyond 16 MiB."""
    before, after = _peak(base), _peak(new)
    row = Row(case_id(base), MEMORY, "bytes", before, after, "ok", MEMORY_LIMIT, notes=marks)
    if not before or not after:
        return replace(row, notes=["no reading in one of them", *marks])
    growth = after - before
    counts = abs(growth) > max(MEMORY_GRAIN_BYTES, MEMORY_LIMIT * before)
    verdict = ("MORE" if growth > 0 else "LESS") if counts else "SAME"
    worse = verdict == "MORE" and base["role"] != "instrument"
    return replace(row, ratio=before / after, verdict=verdict, outcome="regression" if worse else "ok")


def _peak(case: dict[str, Any]) -> float | None:
    device, host = (case["metrics"].get(name) for name in ("device_peak_memory_bytes", MEMORY))
    metric = device if device and device["value"] is not None else host
    return metric["value"] if metric else None


# ---- verdicts -------------------------------------------------------------------------------------------------


def _decided(rows: list[Row]) -> list[Row]:
    """Holm over everything that was asked, then each row against its limit."""
    compared = iter(holm([row.comparison for row in rows if row.comparison]))
    return [_against_limit(row, next(compared)) if row.comparison else row for row in rows]


def _against_limit(row: Row, comparison: Comparison) -> Row:
    outcome: Outcome = "ok" if INSTRUMENT in row.notes else outcome_of(comparison, row.limit)
    notes = [*comparison.reasons, *row.notes]
    ratio, verdict = comparison.ratio, comparison.verdict
    return replace(row, outcome=outcome, ratio=ratio, verdict=verdict, comparison=comparison, notes=notes)


def outcome_of(comparison: Comparison, limit: float) -> Outcome:
    """Regression: slower for certain, by more than the limit. Ok: a slow-down beyond the limit is excluded."""
    bounds = comparison.interval_95
    if bounds is None or comparison.n < FEWEST_FOR_VERDICT:
        return "inconclusive"
    least, most = 1 / bounds[1] - 1, 1 / bounds[0] - 1
    if comparison.verdict == "SLOWER" and least > limit:
        return "regression"
    return "ok" if most <= limit else "inconclusive"


# ---- facts ----------------------------------------------------------------------------------------------------


def facts(base: StoredRun, new: StoredRun, pairs: Sequence[Pair]) -> dict[str, tuple[Any, Any]]:
    """Name → what BASE and NEW say. Versions: those that an engine reports of itself."""
    found = [_facts(run.result) for run in (base, new)]
    told = {name: (found[0][name], found[1][name]) for name in found[0]}
    for of_base, of_new in pairs:
        versions = [_versions(case) for case in (of_base, of_new)]
        told[f"{of_base['engine']} is"] = (versions[0], versions[1])
    return told


def _facts(result: Mapping[str, Any]) -> dict[str, Any]:
    environment, plan = result["environment"], result["plan"]
    repository = environment["repository"] or {}
    gpus = environment["gpus"] or []
    return {
        "run": result["run_id"],
        "date": environment["date"],
        "commit": f"{str(repository.get('commit'))[:12]}{' and changes' if repository.get('dirty') else ''}",
        "machine": machine_of(environment),
        "driver": gpus[0]["driver"] if gpus else None,
        **{name: environment.get(name) for name in ("kernel", "distribution", "python")},
        **{name: plan[name] for name in ("device", "threads", "preset", "launches", "iterations", "warmup", "seed")},
    }


def _versions(case: Mapping[str, Any]) -> str | None:
    versions = (case["loaded"] or {}).get("versions", {})
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) or None
