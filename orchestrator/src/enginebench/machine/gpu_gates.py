"""Noise gates of a GPU. Thresholds and their sources: docs/methodology.md, "Noise"."""

from __future__ import annotations

from enginebench.counted import counted
from enginebench.store.surroundings import GpuState

from .view import Gate, Sight, View, unreadable

VOID_CLOCK_SHARE, WARN_CLOCK_SHARE = 0.75, 0.97
"""Of the default SM clock: below the first NVBench discards a sample."""
BUSY_PERCENT = 1
NO_GPU = "no GPU is read here"

# Bits of nvmlClocksEventReason* (nvml.h); those not named here, like GpuIdle, are no noise.
SW_POWER_CAP, HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, HW_POWER_BRAKE = 0x4, 0x8, 0x20, 0x40, 0x80
THROTTLES = {
    HW_SLOWDOWN: "hardware slowdown",
    SW_THERMAL: "thermal slowdown by the driver",
    HW_THERMAL: "thermal slowdown by the hardware",
    HW_POWER_BRAKE: "power brake",
}


def processes(view: View) -> Sight:
    gpu = _before(view)
    if gpu is None or gpu.compute_processes is None:
        return unreadable(NO_GPU)
    count = gpu.compute_processes
    return Sight(count > 0, f"{count} other processes computed on the GPU", count)


def displays(view: View) -> Sight:
    gpu = _before(view)
    if gpu is None or gpu.graphics_processes is None:
        return unreadable(NO_GPU)
    count = gpu.graphics_processes
    return Sight(count > 0, f"{counted(count, 'process')} drew with the GPU", count)


def busy(view: View) -> Sight:
    gpu = _before(view)
    if gpu is None or gpu.utilisation_percent is None:
        return unreadable(NO_GPU)
    percent = gpu.utilisation_percent
    return Sight(percent > BUSY_PERCENT, f"the GPU was {percent} % busy before the launch", percent)


def void_clock(view: View) -> Sight:
    share = _lowest_clock(view)
    if share is None:
        return unreadable("no SM clock after a request")
    return Sight(share < VOID_CLOCK_SHARE, f"the SM clock fell to {share:.0%} of its default", -share)


def low_clock(view: View) -> Sight:
    share = _lowest_clock(view)
    if share is None:
        return unreadable("no SM clock after a request")
    low = VOID_CLOCK_SHARE <= share < WARN_CLOCK_SHARE
    return Sight(low, f"the SM clock was at {share:.0%} of its default", -share)


def throttled(view: View) -> Sight:
    reasons = _reasons(view)
    held_ns = _violation(view, "thermal_violation_ns")
    if reasons is None and held_ns is None:
        return unreadable("no clock event reasons after a request")
    names = [name for bit, name in THROTTLES.items() if (reasons or 0) & bit]
    if held_ns:
        names.append(f"heat held the clock down for {held_ns / 1e6:.0f} ms")
    return Sight(bool(names), ", ".join(names) or "not throttled", len(names))


def power_capped(view: View) -> Sight:
    reasons = _reasons(view)
    held_ns = _violation(view, "power_violation_ns")
    if reasons is None and held_ns is None:
        return unreadable("no clock event reasons after a request")
    capped = bool((reasons or 0) & SW_POWER_CAP) or bool(held_ns)
    return Sight(capped, "the power limit held the clock down" if capped else "not at the power limit", held_ns or 0)


def persistence(view: View) -> Sight:
    gpu = _before(view)
    if gpu is None or gpu.persistence is None:
        return unreadable(NO_GPU)
    return Sight(not gpu.persistence, f"persistence mode is {_on(gpu.persistence)}")


def power_limit(view: View) -> Sight:
    gpu = _before(view)
    if gpu is None or gpu.power_limit_mw is None or gpu.default_power_limit_mw is None:
        return unreadable(NO_GPU)
    limit, default = gpu.power_limit_mw / 1000, gpu.default_power_limit_mw / 1000
    return Sight(limit != default, f"power limit {limit:.0f} W, default {default:.0f} W")


def ecc(view: View) -> Sight:
    gpu = _before(view)
    if gpu is None or gpu.ecc is None or gpu.default_ecc is None:
        return unreadable("no ECC on this GPU" if gpu else NO_GPU)
    return Sight(gpu.ecc != gpu.default_ecc, f"ECC is {_on(gpu.ecc)}, default {_on(gpu.default_ecc)}")


def mig(view: View) -> Sight:
    gpu = _before(view)
    if gpu is None or gpu.mig is None:
        return unreadable("no MIG on this GPU" if gpu else NO_GPU)
    return Sight(gpu.mig, f"MIG is {_on(gpu.mig)}")


# ---- how they read ----------------------------------------------------------------------------------------------


def _before(view: View) -> GpuState | None:
    return None if view.now is None else view.now.gpu


def _lowest_clock(view: View) -> float | None:
    """Of the samples right after requests; an idle GPU lowers its clock and says nothing."""
    shares = [
        gpu.sm_clock_mhz / gpu.default_sm_clock_mhz
        for gpu in view.gpu_after_requests
        if gpu.sm_clock_mhz is not None and gpu.default_sm_clock_mhz
    ]
    return min(shares, default=None)


def _reasons(view: View) -> int | None:
    """All bits that were set after some request."""
    told = [gpu.event_reasons for gpu in view.gpu_after_requests if gpu.event_reasons is not None]
    if not told:
        return None
    united = 0
    for bits in told:
        united |= bits
    return united


def _violation(view: View, name: str) -> int | None:
    first, last = (None if moment is None else moment.gpu for moment in (view.start, view.end))
    if first is None or last is None or getattr(first, name) is None or getattr(last, name) is None:
        return None
    return int(getattr(last, name) - getattr(first, name))


def _on(state: bool) -> str:
    return "on" if state else "off"


GATES = (
    Gate(
        "gpu-processes", "invalid", processes,
        "another program computes on the same GPU: speed and memory are not the engine's alone",
        "end it (nvidia-smi lists it), or choose another GPU with CUDA_VISIBLE_DEVICES",
    ),
    Gate(
        "gpu-busy", "invalid", busy,
        "something used the GPU right before the launch and may go on",
        "end other work on the GPU, desktop effects and browsers among them",
    ),
    Gate(
        "gpu-display", "warn", displays,
        "a display or a browser draws with the GPU now and then",
        "measure without a display, or on a GPU that has none",
    ),
    Gate(
        "gpu-clock-void", "invalid", void_clock,
        "the GPU ran far below its default clock: this is the speed of another GPU",
        "nvidia-smi --reset-gpu-clocks; cool it; look at its power limit",
    ),
    Gate(
        "gpu-clock", "warn", low_clock,
        "the GPU ran somewhat below its default clock: a difference between engines may be one of clocks",
        "compare in cycles, or lock the clock that the GPU can hold (nvidia-smi --lock-gpu-clocks)",
    ),
    Gate(
        "gpu-throttle", "invalid", throttled,
        "heat or a protection lowered the clock while requests were timed",
        "cool the GPU, and check its power supply",
    ),
    Gate(
        "gpu-power-cap", "warn", power_capped,
        "the GPU could run faster with more power: speed depends on how much each engine draws",
        "state the power limit, or raise it (nvidia-smi --power-limit)",
    ),
    Gate(
        "gpu-persistence", "warn", persistence,
        "without it the driver unloads between launches: the first start takes longer and clocks are reset",
        "nvidia-smi --persistence-mode=1",
    ),
    Gate(
        "gpu-power-limit", "warn", power_limit,
        "numbers do not compare with those of the default power limit",
        "nvidia-smi --power-limit with the default, or state it",
    ),
    Gate(
        "gpu-ecc", "warn", ecc,
        "ECC costs bandwidth on some memories: numbers do not compare with those of the default",
        "nvidia-smi --ecc-config with the default, or state it",
    ),
    Gate(
        "gpu-mig", "warn", mig,
        "this is a slice of a GPU: memory, clocks and bandwidth are shared with the other slices",
        "measure on a whole GPU, or state the slice",
    ),
)  # fmt: skip
