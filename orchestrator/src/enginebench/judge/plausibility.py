"""Can a number be true? Each case's bytes and operations per token against the limit of its device, and cases against
each other.

Works on the plain cases of a result, so that published numbers can be fed in as well: bytes per token from a model's
shape, a data-sheet figure as the instrument's case. What is above the limit is invalid; what is merely odd is a
suspicion, which marks the row and takes nothing away. Necessary, not sufficient: counting errors below the limit are
for the audits to find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .plain_case import mean_context, memories, model_of

ABOVE_LIMIT = "above-limit"
NOT_FASTER = "launch-bound-or-dtype-not-applied"
PATH_NOT_TAKEN = "path-not-taken"

FEWER_BYTES = 1.6
"""So many times the bytes must pay. The smallest real step between precisions is float16 ÷ q8_0 = 16 ÷ 8.5 = 1.88."""
SAME_SPEED = 0.95
"""Time at the fewer bytes ÷ time at the more. Published rows that stood still: PyTorch 24.28 ÷ 24.43 ms = 0.994,
vLLM's "fp32" 84.91 ÷ 84.89 tok/s = 1.000, Optimum-NVIDIA 50.77 ÷ 50.91 = 0.997."""
SAME_SPEED_OF_OTHERS = 0.97
BUSY_SHARE = 0.5
"""Another engine's row may be as fast by chance: it counts from 3 % on, and where less than half of the limit was
reached."""
PATH_SHARE = 0.15
"""Of the limit. Between a GPU row that had really run on the processor (10.6 %, paiml/aprender #2846) and slow kernels
that really ran (vLLM's int4 in premAI/benchmarks: 18 %)."""
LAUNCHING_NS_PER_LAYER = 2_000_000.0
"""What launching alone may cost: PyTorch's published 24.28 ms for 16 layers is 1.5 ms each, the slowest path known to
have been taken."""
CACHED_BYTES = 256e6
"""Less may stay in a last-level cache, and costs an instrument mostly its launches: such a limit is none."""
ONE_LAUNCH = 1.1
"""An instrument's rate without an interval may be so much too low: one launch on a shared machine."""
ROUNDING = 1e-9
SPEEDS = (
    "ttft_ns", "tpot_ns", "min_itl_ns", "max_itl_ns", "e2e_ns", "prefill_tps", "decode_tps", "peak_decode_tps",
    "tokens_per_second_per_gb",
)  # fmt: skip
"""What must not be used of a case above the limit; `mbu` says so itself."""


@dataclass(frozen=True)
class Ceiling:
    """What the device can do. `highest`: the upper end of what is known of `bytes_per_second`."""

    label: str
    bytes_per_second: float
    highest: float


@dataclass(frozen=True)
class Row:
    """One claim: so many bytes read for each token, in so much time. `slowest_*`: the upper end where one is known.

    `work`: model, workload, threads and shards; rows of another one are no comparison.
    """

    engine: str
    configuration: str
    work: tuple[Any, ...]
    bytes_per_token: float
    ns_per_token: float
    slowest_ns_per_token: float
    ceiling: Ceiling | None = None
    n_layers: int | None = None
    weight_bytes: float = 0.0
    slowest_ttft_ns: float | None = None

    @property
    def label(self) -> str:
        return f"{self.engine}:{self.configuration}"

    @property
    def share(self) -> float | None:
        """Of the limit; None without one."""
        if self.ceiling is None:
            return None
        return self.bytes_per_token / self.ns_per_token * 1e9 / self.ceiling.bytes_per_second


@dataclass(frozen=True)
class Suspicion:
    """`code` is one of the three above."""

    code: str
    text: str


@dataclass(frozen=True)
class Finding:
    """`invalid`: why the number cannot be true; None if it can."""

    invalid: str | None = None
    suspicions: tuple[Suspicion, ...] = ()


def judged(result: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the result with `suspicions` filled in, and `invalid` where a number cannot be true."""
    return {**result, "cases": [_marked(*pair) for pair in zip(result["cases"], findings(result), strict=True)]}


def _marked(case: Mapping[str, Any], found: Finding) -> dict[str, Any]:
    marked = {**case, "suspicions": [{"code": s.code, "text": s.text} for s in found.suspicions]}
    if found.invalid is None:
        return marked
    metrics = {name: _objected(metric) if name in SPEEDS else metric for name, metric in case["metrics"].items()}
    return {**marked, "status": "invalid", "reason": found.invalid, "metrics": metrics}


def _objected(metric: Mapping[str, Any]) -> dict[str, Any]:
    return {**metric, "valid": False, "reasons": [ABOVE_LIMIT, *metric["reasons"]]}


def findings(result: Mapping[str, Any]) -> list[Finding]:
    """One for each case, in their order. A case that is not ok, or that tells no bytes or speed, has none."""
    rows = [_row(case, result) for case in result["cases"]]
    present = [row for row in rows if row is not None]
    return [Finding() if row is None else finding(row, present) for row in rows]


def finding(row: Row, rows: Sequence[Row]) -> Finding:
    """`rows`: all of the table, `row` itself among them or not."""
    if reason := above_limit(row):
        return Finding(invalid=reason)
    others = [other for other in rows if other is not row and other.work == row.work]
    found = [_at_the_limit(row), *(not_faster(row, other) for other in others)]
    known = tuple(suspicion for suspicion in found if suspicion)
    slow = path_not_taken(row)
    return Finding(suspicions=known or ((slow,) if slow else ()))


# ---- against the limit ----------------------------------------------------------------------------------------


def above_limit(row: Row) -> str | None:
    """Why the claim cannot be true: more than 100 % even at the slow end of its interval and the limit's high end."""
    if row.ceiling is None or row.bytes_per_token < CACHED_BYTES:
        return None
    decode = row.bytes_per_token / row.slowest_ns_per_token * 1e9 / row.ceiling.highest
    if decode > 1 + ROUNDING:
        return f"{ABOVE_LIMIT}: {_claim(row)}: work was skipped, or counted or timed wrongly"
    if row.slowest_ttft_ns and row.weight_bytes / row.slowest_ttft_ns * 1e9 / row.ceiling.highest > 1 + ROUNDING:
        return (
            f"{ABOVE_LIMIT}: a prefill reads {row.weight_bytes / 1e9:.3g} GB of weights at least once, the first token "
            f"came after {row.slowest_ttft_ns / 1e6:.4g} ms: sooner than {row.ceiling.label} reads them"
        )
    return None


def _at_the_limit(row: Row) -> Suspicion | None:
    if row.share is None or row.share <= 1 + ROUNDING:
        return None
    return Suspicion(ABOVE_LIMIT, f"{_claim(row)}: more than it can be, within what is known of both")


def _claim(row: Row) -> str:
    assert row.ceiling and row.share
    return (
        f"{row.bytes_per_token / 1e9:.4g} GB per token in {row.ns_per_token / 1e6:.4g} ms is {row.share:.1%} of the "
        f"{row.ceiling.bytes_per_second / 1e9:.4g} GB/s of {row.ceiling.label}"
    )


def path_not_taken(row: Row) -> Suspicion | None:
    """Far below the limit, by more than launching the kernels of all layers can explain."""
    if row.ceiling is None or row.share is None or row.share >= PATH_SHARE:
        return None
    at_limit_ns = row.bytes_per_token / row.ceiling.bytes_per_second * 1e9
    if row.ns_per_token - at_limit_ns <= LAUNCHING_NS_PER_LAYER * (row.n_layers or 0):
        return None
    return Suspicion(PATH_NOT_TAKEN, f"{_claim(row)}: far below what the claimed path allows; was it taken?")


# ---- against each other ---------------------------------------------------------------------------------------


def not_faster(row: Row, other: Row) -> Suspicion | None:
    """About half the bytes and no gain: launches are the cost, or the precision is only a name.

    In one engine both rows are marked where they are as fast as each other, since either may be the wrong one. Of two
    engines only the one that reads less is, unless it is busy with reading.
    """
    less, more = sorted([row, other], key=lambda r: r.bytes_per_token)
    if more.bytes_per_token < FEWER_BYTES * less.bytes_per_token:
        return None
    ratio = less.ns_per_token / more.ns_per_token
    if row.engine == other.engine:
        odd = ratio >= SAME_SPEED and (row is less or ratio <= 1 / SAME_SPEED)
    else:
        believable = more.share is None or more.share <= 1 + ROUNDING
        as_fast = SAME_SPEED_OF_OTHERS <= ratio <= 1 / SAME_SPEED_OF_OTHERS
        odd = row is less and believable and as_fast and (less.share is None or less.share < BUSY_SHARE)
    return Suspicion(NOT_FASTER, _standstill(row, other)) if odd else None


def _standstill(row: Row, other: Row) -> str:
    return (
        f"{row.ns_per_token / 1e6:.4g} ms per token at {row.bytes_per_token / 1e9:.4g} GB, {other.label} "
        f"{other.ns_per_token / 1e6:.4g} ms at {other.bytes_per_token / 1e9:.4g} GB: other bytes, not another speed; "
        "launches or conversion bound it, or the precision was not applied"
    )


# ---- from a result --------------------------------------------------------------------------------------------


def _row(case: Mapping[str, Any], result: Mapping[str, Any]) -> Row | None:
    loaded, rate = case["loaded"], case["metrics"].get("decode_tps")
    if case["role"] != "engine" or case["status"] != "ok" or not loaded or not rate or not rate["value"]:
        return None
    if not loaded["read_bytes_per_token"]:
        return None
    ttft = case["metrics"].get("ttft_ns")
    return Row(
        engine=case["engine"],
        configuration=case["configuration"],
        work=(case["model"], case["workload"], case.get("threads"), case.get("shards")),
        bytes_per_token=loaded["read_bytes_per_token"] + cache_bytes(case, result["plan"]),
        ns_per_token=1e9 / rate["value"],
        slowest_ns_per_token=1e9 / (rate["interval"] or [rate["value"]])[0],
        ceiling=ceiling(case, result["cases"], memories(case, result["plan"])),
        n_layers=model_of(case, result["plan"]).get("shape", {}).get("n_layers"),
        weight_bytes=loaded["read_bytes_per_token"],
        slowest_ttft_ns=(ttft["interval"] or [ttft["value"]])[-1] if ttft else None,
    )


def cache_bytes(case: Mapping[str, Any], plan: Mapping[str, Any]) -> float:
    """KV bytes that one token reads at the mean context of the decode phase."""
    context, loaded = mean_context(case, plan), case["loaded"]
    if context is None or not loaded["n_ctx"]:
        return 0.0
    return float(loaded["kv_cache_bytes"] / loaded["n_ctx"] * context)


def ceiling(case: Mapping[str, Any], cases: Sequence[Mapping[str, Any]], devices: int) -> Ceiling | None:
    """The fastest instrument for the same model and workload, on each of the devices; None if none was measured."""
    found = [
        _ceiling_of(other, devices)
        for other in cases
        if other["role"] == "instrument"
        and (other["model"], other["workload"]) == (case["model"], case["workload"])
        and other["loaded"]
        and other["metrics"]["decode_tps"]["value"]
    ]
    return max(found, key=lambda c: c.bytes_per_second, default=None)


def _ceiling_of(case: Mapping[str, Any], devices: int) -> Ceiling:
    rate, n_bytes = case["metrics"]["decode_tps"], case["loaded"]["read_bytes_per_token"] * devices
    highest = rate["interval"][-1] if rate["interval"] else rate["value"] * ONE_LAUNCH
    name = f"{case['engine']}:{case['configuration']}" + (f" on each of {devices} GPUs" if devices > 1 else "")
    return Ceiling(name, n_bytes * rate["value"], n_bytes * highest)
