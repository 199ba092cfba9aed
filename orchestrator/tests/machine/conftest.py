"""A quiet machine: folders that look like /proc and /sys, and a GPU that is nobody's, for tests to disturb."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
from enginebench.machine import nvml
from enginebench.machine.facts import read_environment
from enginebench.machine.gates import Finding, findings, launch_view
from enginebench.machine.nvml import open_gpu
from enginebench.machine.watch import LaunchWatch, Watch

from .fake_nvml import FakeNvml

CPU = "devices/system/cpu"
QUIET_PROC = {
    "loadavg": "0.00 0.00 0.00 1/96 16207\n",
    "stat": "cpu  100 0 20 300 0 0 0 0 0 0\n",
    "vmstat": "pswpin 3\npswpout 4\npgmajfault 6\n",
    "pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000\n",
    "pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000\n",
    "pressure/io": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000\n",
    "cpuinfo": "model name\t: Some CPU\ncpu MHz\t\t: 3000.0\n",
}
QUIET_SYS = {
    f"{CPU}/cpu0/cpufreq/scaling_governor": "performance\n",
    f"{CPU}/cpu0/cpufreq/cpuinfo_max_freq": "3500000\n",
    f"{CPU}/cpu0/cpufreq/scaling_max_freq": "3500000\n",
    f"{CPU}/cpu0/cpufreq/base_frequency": "3000000\n",
    f"{CPU}/intel_pstate/no_turbo": "1\n",
    f"{CPU}/smt/active": "0\n",
    f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "2\n",
    "devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
    "devices/system/node/node0/cpulist": "0\n",
    "class/power_supply/BAT0/type": "Battery\n",
    "class/power_supply/BAT0/status": "Charging\n",
}


def engine_files(ticks: int = 10, major_faults: int = 0, switches: int = 0, pid: int | None = None) -> dict[str, str]:
    """/proc files of one process of two threads; the name shows that it may hold a bracket."""
    number = os.getpid() if pid is None else pid
    fields = f"S 1 1 1 0 -1 0 77 0 {major_faults} 0 {ticks} 0 0 0 20 0 2 0"
    return {
        f"{number}/stat": f"{number} (an (engine) R) {fields}\n",
        f"{number}/task/1/status": f"Name:\tx\nvoluntary_ctxt_switches:\t99\nnonvoluntary_ctxt_switches:\t{switches}\n",
        f"{number}/task/2/status": "Name:\tx\nnonvoluntary_ctxt_switches:\t0\n",
    }


@dataclass
class FakeMachine:
    """`nvml` None: no GPU."""

    proc: Path
    sys: Path
    nvml: FakeNvml | None

    def write(self, proc: dict[str, str] | None = None, sys: dict[str, str] | None = None) -> None:
        for root, files in ((self.proc, proc or {}), (self.sys, sys or {})):
            for name, text in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)

    def watch(self) -> Watch:
        return Watch(open_gpu("0") if self.nvml else None, self.proc, self.sys)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    fake = FakeMachine(tmp_path / "proc", tmp_path / "sys", FakeNvml())
    fake.write({**QUIET_PROC, **engine_files()}, QUIET_SYS)
    monkeypatch.setattr(nvml, "_library", lambda: cast("ModuleType", fake.nvml))
    return fake


@dataclass
class Launched:
    """A launch around which a test changes the machine: what is quiet stays as it was."""

    machine: FakeMachine
    seconds: float = 2.0

    def findings(self, **changes: Any) -> dict[str, Finding]:
        """Gate → what it saw. `changes`: before, during and after: callables on the machine."""
        return {finding.gate.name: finding for finding in self._look(**changes)}

    def _look(self, before: Any = None, during: Any = None) -> list[Finding]:
        if before:
            before(self.machine)
        watch = self.machine.watch()
        watch.settle = lambda *_: None  # type: ignore[method-assign]
        launch = LaunchWatch(watch)
        launch.start(os.getpid())
        if during:
            during(self.machine)
        launch.after_request()
        # Between the two snapshots: 400 ticks of two processors, of which the engine took 390 and nobody 10.
        if not during or not getattr(during, "own_ticks", False):
            self.machine.write({"stat": "cpu  490 0 20 310 0 0 0 0 0 0\n"})
        launch.end(os.getpid())
        noise = _two_seconds(launch.noise, self.seconds)
        return findings(launch_view(noise, read_environment(self.machine.proc, self.machine.sys)))


def _two_seconds(noise: Any, seconds: float) -> Any:
    import msgspec

    end = msgspec.structs.replace(noise.end, t_ns=noise.start.t_ns + int(seconds * 1e9))
    return msgspec.structs.replace(noise, end=end, harness_cpu_ns=0)


@pytest.fixture
def launched(machine: FakeMachine) -> Launched:
    return Launched(machine)
