"""What a row says of devices that share its model: what each one holds, by the engine and from outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def shard_remark(case: dict[str, Any]) -> str | None:
    """None for a case on one device."""
    shards, told = case.get("shards"), case["loaded"].get("device_bytes", [])
    if not shards:
        return None
    held = f"weights and cache {_gigabytes(told)} GB" if told else "the engine does not tell what each one holds"
    readings = [launch["memory"] for launch in case["launches"] if launch["memory"]]
    peaks = readings[0].get("process_peaks_bytes", []) if readings else []
    seen = f"; processes peaked at {_gigabytes(peaks)} GB, each on its own" if len(peaks) == shards else ""
    where = "ranks on one processor: no speed-up" if case["loaded"]["device"].startswith("cpu") else "devices"
    return f"{shards} {where}; {held}{seen}"


def _gigabytes(sizes: Sequence[int]) -> str:
    return " + ".join(f"{size / 1e9:.3g}" for size in sizes)
