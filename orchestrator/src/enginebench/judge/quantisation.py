"""What quantising costs and gives, side by side: bytes, speed, divergence and perplexity of each quantised case.

Works on the plain cases and comparisons of a result. Speeds are those of the comparisons named `quantisation impact`;
divergence and perplexity are those of the fidelity reading, against the weights before quantising (`judge.impact`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from .plain_case import case_id
from .verdicts import QUANTISATION, TPOT, TTFT

NO_BASE = "its unquantised case was not run"
NO_READING = "no logits of the weights before quantising: the model file holds blocks already"

Case = Mapping[str, Any]


class QuantisationImpact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`new` is the quantised case; ratios are new ÷ base, of speeds: above 1 it is faster. None: `reasons` says why."""

    new: str
    """Case id."""
    base: str | None
    weights_bytes: int
    base_weights_bytes: int | None = None
    read_bytes_per_token: int
    base_read_bytes_per_token: int | None = None
    decode_ratio: float | None = None
    decode_interval_95: list[float] | None = None
    prefill_ratio: float | None = None
    """Of times to the first token."""
    prefill_interval_95: list[float] | None = None
    mean_kld: float | None = None
    mean_kld_error: float | None = None
    top1: float | None = None
    ppl_ratio: float | None = None
    ppl_ratio_error: float | None = None
    top_logprobs: int = 0
    """The divergence is a lower bound, from so many log-probabilities per position."""
    reasons: list[str] = []


def quantisation_impacts(result: Mapping[str, Any]) -> list[QuantisationImpact]:
    """One for each quantised case that stands, in the order of the plan; with several bases one for each."""
    cases = {case_id(case): case for case in result["cases"] if case["status"] == "ok" and case["loaded"]}
    return [_impact(cases[new], base, cases, result) for new in cases for base in _bases(new, cases[new], result)]


def _bases(new: str, case: Case, result: Mapping[str, Any]) -> Iterator[str | None]:
    """None: quantised, and without a base in this run."""
    compared = [c["base"] for c in result["comparisons"] if c["name"] == QUANTISATION and c["new"] == new]
    if compared:
        yield from dict.fromkeys(compared)
    elif _reading(case):
        yield None


def _impact(case: Case, base: str | None, cases: Mapping[str, Case], result: Mapping[str, Any]) -> QuantisationImpact:
    new, reading, wide = case_id(case), _reading(case), cases[base]["loaded"] if base else {}
    lacks = {NO_BASE: base is None, NO_READING: not reading}
    return QuantisationImpact(
        new=new,
        base=base,
        weights_bytes=case["loaded"]["weights_bytes"],
        base_weights_bytes=wide.get("weights_bytes"),
        read_bytes_per_token=case["loaded"]["read_bytes_per_token"],
        base_read_bytes_per_token=wide.get("read_bytes_per_token"),
        **_speed("decode", TPOT, new, base, result),
        **_speed("prefill", TTFT, new, base, result),
        **{name: value for name, value in reading.items() if name != "n_positions"},
        reasons=[reason for reason, holds in lacks.items() if holds],
    )


def _reading(case: Case) -> Mapping[str, Any]:
    return (case["fidelity"] or {}).get("impact") or {}


def _speed(word: str, metric: str, new: str, base: str | None, result: Mapping[str, Any]) -> dict[str, Any]:
    for c in result["comparisons"]:
        if (c["name"], c["metric"], c["new"], c["base"]) == (QUANTISATION, metric, new, base):
            return {f"{word}_ratio": c["ratio"], f"{word}_interval_95": c["interval_95"]}
    return {}
