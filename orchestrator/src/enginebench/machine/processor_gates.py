"""Noise gates of processor, memory and kernel. Thresholds and their sources: docs/methodology.md, "Noise"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

from enginebench.counted import counted
from enginebench.store.surroundings import NoiseSnapshot

from .facts import Environment
from .noise import TICK_NS, grown
from .view import Gate, Sight, View, unreadable

T = TypeVar("T")
RUNNABLE = 1
"""Threads besides our own (pyperf's test)."""
PRESSURE_PERCENT = 1.0
STEAL_SHARE = 0.001
FOREIGN_SHARE = 0.02
"""Of all processors: below it, ordinary housekeeping of a kernel that has nothing else to do."""
SWITCHES_PER_SECOND = 100.0
BASE_CLOCK_SHARE = 0.97
SHORTEST_SECONDS = 0.5
"""Processor time is counted in ticks of 10 ms: shares of a shorter time say nothing."""
STABLE_CLOCKS = ("tsc", "arch_sys_counter")
"""Read in user space within nanoseconds; the second is that of Arm."""


def governor(view: View) -> Sight:
    return _of_machine(view, lambda m: m.cpu.governor, "no frequency driver", lambda g: g != "performance", "it is {}")


def turbo(view: View) -> Sight:
    return _of_machine(view, lambda m: m.cpu.turbo, "no turbo switch", lambda on: on, "turbo {}")


def frequency_limit(view: View) -> Sight:
    cpu = view.machine.cpu if view.machine else None
    if cpu is None or cpu.frequency_limit_khz is None or cpu.max_frequency_khz is None:
        return unreadable("no frequency driver")
    limit, highest = cpu.frequency_limit_khz / 1000, cpu.max_frequency_khz / 1000
    return Sight(limit < highest, f"limited to {limit:.0f} of {highest:.0f} MHz")


def smt(view: View) -> Sight:
    return _of_machine(view, lambda m: m.cpu.smt, "no SMT switch", lambda on: on, "SMT {}")


def numa(view: View) -> Sight:
    return _of_machine(view, lambda m: m.cpu.numa_nodes, "no list of nodes", lambda n: n > 1, "NUMA nodes: {}")


def clocksource(view: View) -> Sight:
    return _of_machine(view, lambda m: m.clocksource, "no clock source", lambda c: c not in STABLE_CLOCKS, "clock {}")


def battery(view: View) -> Sight:
    return _of_machine(view, lambda m: m.on_battery, "no battery", lambda on: on, "running on battery: {}")


def runnable(view: View) -> Sight:
    count = None if view.now is None else view.now.runnable
    if count is None:
        return unreadable("no /proc/loadavg")
    return Sight(count > RUNNABLE, f"{count} other threads were runnable", count)


def pressure_cpu(view: View) -> Sight:
    """Before the work only: an engine with a thread for each processor makes its own pressure."""
    return _recent_pressure(view, "cpu")


def pressure_memory(view: View) -> Sight:
    return _waited(view, "memory") or _recent_pressure(view, "memory")


def pressure_io(view: View) -> Sight:
    return _waited(view, "io") or _recent_pressure(view, "io")


def steal(view: View) -> Sight:
    ticks, stolen = _grown(view, "cpu_ticks"), _grown(view, "steal_ticks")
    if not ticks or stolen is None or (view.seconds or SHORTEST_SECONDS) < SHORTEST_SECONDS:
        return unreadable("no steal counter, or too short a time")
    share = stolen / ticks
    return Sight(share > STEAL_SHARE, f"the hypervisor gave {share:.1%} of the processor time to others", share)


def foreign_cpu(view: View) -> Sight:
    """Busy time that was neither the engine's nor ours, as a share of all processors."""
    ticks, idle, stolen = (_grown(view, name) for name in ("cpu_ticks", "idle_ticks", "steal_ticks"))
    if not ticks or idle is None or view.engine is None or (view.seconds or 0) < SHORTEST_SECONDS:
        return unreadable("no counter of idle time, or too short a time")
    ours = (view.engine.cpu_ns + (view.harness_cpu_ns or 0)) / TICK_NS
    share = max(0.0, ticks - idle - (stolen or 0) - ours) / ticks
    return Sight(share > FOREIGN_SHARE, f"other programs used {share:.1%} of all processors", share)


def involuntary_switches(view: View) -> Sight:
    seconds = view.seconds
    if view.engine is None or not seconds:
        return unreadable("no counters of the process")
    rate = view.engine.involuntary_switches / seconds
    return Sight(rate > SWITCHES_PER_SECOND, f"threads were displaced {rate:.0f} times per second", rate)


def swap(view: View) -> Sight:
    moved = [_grown(view, name) for name in ("swapped_in_pages", "swapped_out_pages")]
    if None in moved:
        return unreadable("no swap counters")
    pages = sum(count or 0 for count in moved)
    return Sight(pages > 0, f"the machine swapped {pages} pages", pages)


def major_faults(view: View) -> Sight:
    if view.engine is None:
        return unreadable("no counters of the process")
    count = view.engine.major_faults
    return Sight(count > 0, f"the process waited for the disk at {count} page faults", count)


def thermal_throttle(view: View) -> Sight:
    count = _grown(view, "thermal_throttles")
    if count is None:
        return unreadable("no throttle counters")
    return Sight(count > 0, f"the processors throttled for heat {counted(count, 'time')}", count)


def clock_speed(view: View) -> Sight:
    """The fastest processor right after the work against the base frequency: idle ones are slow by design."""
    reached = None if view.end is None else view.end.highest_mhz
    base = None if view.end is None else view.end.base_mhz
    if base is None and view.machine is not None and view.machine.cpu.base_frequency_khz:
        base = view.machine.cpu.base_frequency_khz / 1000
    if base is None or reached is None:
        return unreadable("no base frequency is told")
    share = reached / base
    return Sight(share < BASE_CLOCK_SHARE, f"the fastest processor ran at {share:.0%} of the base frequency", -share)


# ---- how they read ----------------------------------------------------------------------------------------------


def _of_machine(
    view: View, fact: Callable[[Environment], T | None], lack: str, bad: Callable[[T], bool], text: str
) -> Sight:
    value = None if view.machine is None else fact(view.machine)
    if value is None:
        return unreadable(lack)
    told = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
    return Sight(bad(value), text.format(told))


def _grown(view: View, name: str) -> int | None:
    return None if view.start is None or view.end is None else grown(view.start, view.end, name)


def _recent_pressure(view: View, name: Literal["cpu", "memory", "io"]) -> Sight:
    percent = None if view.now is None else _pressure_of(view.now, name)
    if percent is None:
        return unreadable("no pressure-stall information in this kernel")
    return Sight(percent > PRESSURE_PERCENT, f"some task waited for {_NAMES[name]} {percent:.0f} % of 10 s", percent)


def _waited(view: View, name: Literal["memory", "io"]) -> Sight | None:
    waited, seconds = _grown(view, f"waited_{name}_us"), view.seconds
    if waited is None or not seconds:
        return None
    percent = waited / 1e4 / seconds
    seen = f"some task waited for {_NAMES[name]} {percent:.1f} % of the time"
    return Sight(percent > PRESSURE_PERCENT, seen, percent)


def _pressure_of(snapshot: NoiseSnapshot, name: str) -> float | None:
    pressure: float | None = getattr(snapshot, f"pressure_{name}")
    return pressure


_NAMES = {"cpu": "a processor", "memory": "memory", "io": "the disk"}

GATES = (
    Gate(
        "runnable", "warn", runnable,
        "other work takes processors, caches and memory bandwidth from the engine",
        "end other programs, or wait until they are done",
    ),
    Gate(
        "pressure-cpu", "warn", pressure_cpu,
        "tasks queue for processors already, before an engine runs",
        "end other programs; in a container, ask for more processors",
    ),
    Gate(
        "pressure-memory", "warn", pressure_memory,
        "the kernel reclaims memory while the engine runs: pages of weights may go",
        "close what holds memory, or choose a smaller model",
    ),
    Gate(
        "pressure-io", "warn", pressure_io,
        "something waits for the disk: loading is slower, and so is whatever was not read yet",
        "let copies, updates and back-ups end first",
    ),
    Gate(
        "foreign-cpu", "warn", foreign_cpu,
        "other programs ran while requests were timed",
        "end them; --threads below the number of processors leaves room for the rest",
    ),
    Gate(
        "involuntary-switches", "warn", involuntary_switches,
        "threads of the engine had to leave their processors while they could have gone on; all of a step wait for one",
        "use fewer threads than processors, and end other programs",
    ),
    Gate(
        "steal", "warn", steal,
        "the hypervisor runs other machines on these processors: times vary with their work",
        "use a machine with processors of its own, or measure at another hour",
    ),
    Gate(
        "swap", "invalid", swap,
        "a page read back from the disk costs as much as many tokens",
        "free memory, choose a smaller model, or turn swap off",
    ),
    Gate(
        "major-faults", "invalid", major_faults,
        "weights or code were read from the disk during a request that counts as warm",
        "free memory so that the model's file stays cached, or put it on a local disk",
    ),
    Gate(
        "thermal-throttle", "invalid", thermal_throttle,
        "the processor lowered its clock against heat: later requests are slower than earlier ones",
        "cool the machine, or lower the sustained clock (turbo off)",
    ),
    Gate(
        "cpu-clock", "warn", clock_speed,
        "the processor ran below what its maker promises: a power or heat limit holds it down",
        "look at power profile, power limit and cooling",
    ),
    Gate(
        "governor", "warn", governor,
        "the clock follows the load with a delay: short requests run slower than long ones",
        "cpupower frequency-set -g performance",
    ),
    Gate(
        "turbo", "warn", turbo,
        "the clock depends on heat and on how many processors are busy: it differs between runs",
        "for comparisons over days turn it off (intel_pstate/no_turbo or cpufreq/boost)",
    ),
    Gate(
        "frequency-limit", "warn", frequency_limit,
        "somebody limited the clock: numbers do not compare with those of the full clock",
        "cpupower frequency-set --max to the processor's maximum, or state it",
    ),
    Gate(
        "smt", "warn", smt,
        "two threads share one core: how they are placed changes speed between launches",
        "--threads with the number of cores, or turn SMT off",
    ),
    Gate(
        "numa", "warn", numa,
        "memory of another node is slower: where pages lie changes speed between launches",
        "run under numactl --cpunodebind=0 --membind=0",
    ),
    Gate(
        "clocksource", "warn", clocksource,
        "reading the clock costs a system call and may jump",
        "boot with clocksource=tsc where the processor has a constant one",
    ),
    Gate("battery", "warn", battery, "a laptop on battery lowers its clocks", "plug it in"),
)  # fmt: skip
