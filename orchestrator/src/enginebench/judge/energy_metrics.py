"""Joules per token of one case, with what the idle machine draws subtracted, and with it: both are told.

Prefill: the requests of one generated token, ÷ prompt tokens sent. Decode: full requests minus as many prefills, ÷ the
tokens after the first. Missing is None with the reason, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from enginebench.store.record import EnergyReading, EnergyWindow, Launch

from .metric import Metric, missing

SHORTEST_SECONDS = 10.0
NO_PASS = "no energy pass: --energy asks for one"  # noqa: S105 (not a password)
NAMES = {
    "idle_power_w": "W",
    "prefill_j_per_token": "J/tok",
    "decode_j_per_token": "J/tok",
    "prefill_gross_j_per_token": "J/tok",
    "decode_gross_j_per_token": "J/tok",
}


def energy_metrics(launches: Sequence[Launch], environment: Mapping[str, Any]) -> dict[str, Metric]:
    passes = [launch for launch in launches if launch.kind == "energy"]
    reading = next((launch.energy for launch in reversed(passes) if launch.energy), None)
    if reading is None or reading.idle is None or reading.prefill is None:
        why = "the energy pass failed" if passes else environment.get("energy_lack") or NO_PASS
        return {name: missing(unit, why) for name, unit in NAMES.items()}
    return _metrics(reading, reading.idle, reading.prefill, [doubt for launch in passes for doubt in launch.doubts])


def _metrics(
    reading: EnergyReading, idle: EnergyWindow, prefill: EnergyWindow, doubts: Sequence[str]
) -> dict[str, Metric]:
    idle_w = idle.total_j / idle.seconds
    boundary = f"counted: {', '.join(reading.counters)}; not the wall"
    faults = [*doubts, *_short(idle), *_short(prefill)]

    def metric(value: float | None, unit: str, more: Sequence[str] = ()) -> Metric:
        found = [*faults, *more]
        if value is None:
            return missing(unit, *found)
        if value < 0:
            found.append("less than the idle machine drew: too short, or something else ran while it idled")
        return Metric(value=value, unit=unit, valid=not found, reasons=[*found, boundary])

    found = {"idle_power_w": metric(idle_w, "W")}
    for name, subtracted in (("", idle_w), ("gross_", 0.0)):
        per_prefill = _per_request(prefill, subtracted)
        found[f"prefill_{name}j_per_token"] = metric(per_prefill / reading.n_sent, "J/tok")
        decode, lack = None, ["one generated token: nothing is decoded"]
        if reading.full is not None:
            decode = (_per_request(reading.full, subtracted) - per_prefill) / (reading.n_gen - 1)
            lack = _short(reading.full)
        found[f"decode_{name}j_per_token"] = metric(decode, "J/tok", lack)
    return found


def _per_request(window: EnergyWindow, idle_w: float) -> float:
    return (window.total_j - idle_w * window.seconds) / window.n_requests


def _short(window: EnergyWindow) -> list[str]:
    if window.seconds >= SHORTEST_SECONDS:
        return []
    return [f"measured over {window.seconds:.1f} s: below {SHORTEST_SECONDS:.0f} s a counter is too coarse"]
