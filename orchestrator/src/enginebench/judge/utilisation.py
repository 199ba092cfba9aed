"""The share of its device that a case reaches: bytes read per second, of what the limit's case read per second."""

from __future__ import annotations

from dataclasses import dataclass, replace

from enginebench.store.record import Case, LoadedFacts

from .evidence import Evidence
from .metric import Metric, missing

ABOVE_LIMIT = "above-limit"


@dataclass(frozen=True)
class Limit:
    """What the device was seen to do in the same run: the bytes that one token reads, at so many tokens per second."""

    label: str
    read_bytes_per_token: int
    decode_tps: float
    interval: list[float] | None = None
    devices: int = 1
    """So many, each with a memory of its own and as fast as the one that was measured."""

    @property
    def bytes_per_second(self) -> float:
        return self.read_bytes_per_token * self.decode_tps * self.devices


def over_devices(limit: Limit | None, shards: int, device: str) -> Limit | None:
    """The limit of a case that shares its model: every GPU reads its part; ranks on a processor share one memory."""
    if limit is None or shards == 1 or device != "cuda":
        return limit
    return replace(limit, devices=shards, label=f"{limit.label} on each of {shards} GPUs")


def mbu(evidence: Evidence, rate: Metric, limit: Limit | None, reads_cache: bool) -> Metric:
    """Memory bandwidth utilisation: bytes that decoding must read per second ÷ what the limit's case read per second.

    Above 1, work was skipped or the limit was slowed down by others: invalid either way, with no allowance for noise.
    """
    facts = evidence.loaded
    if rate.value is None or facts is None:
        return missing("ratio", *rate.reasons)
    if limit is None:
        return missing("ratio", "no limit was measured in this run")
    if facts.read_bytes_per_token == 0:
        return missing("ratio", "the engine does not say what a token reads")
    token_bytes = float(facts.read_bytes_per_token)
    if reads_cache:
        token_bytes += cache_bytes_read(facts, evidence.good[0].case)
    scale = token_bytes / limit.bytes_per_second
    value = rate.value * scale
    interval = [bound * scale for bound in rate.interval] if rate.interval else None
    if value <= 1.0 + 1e-9:  # the limit's own row, up to rounding
        return Metric(value=value, unit="ratio", valid=True, reasons=rate.reasons, interval=interval)
    reasons = [ABOVE_LIMIT, _limit_noise(limit), *rate.reasons]
    return Metric(value=value, unit="ratio", valid=False, reasons=reasons, interval=interval)


def cache_bytes_read(facts: LoadedFacts, case: Case) -> float:
    """KV bytes that one token reads at the mean context of the decode phase."""
    return facts.kv_cache_bytes / facts.n_ctx * case.workload.mean_context


def _limit_noise(limit: Limit) -> str:
    rate = limit.bytes_per_second / 1e9
    if limit.interval is None:
        return f"the limit of {rate:.1f} GB/s by {limit.label} has too few launches to know its own noise"
    low, high = (bound / limit.decode_tps for bound in limit.interval)
    return f"the limit of {rate:.1f} GB/s by {limit.label} is itself known to {low - 1:+.1%}/{high - 1:+.1%}"
