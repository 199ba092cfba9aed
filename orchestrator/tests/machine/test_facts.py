"""Facts of a machine, read from folders that look like /proc and /sys."""

from __future__ import annotations

import getpass
import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from enginebench.machine import facts as machine
from enginebench.machine.facts import Gpu, parse_gpus, read_environment
from enginebench.machine.gates import noise_warnings
from enginebench.machine.noise import noise, read_noise
from enginebench.store.result import schema_fault


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    files = {
        "loadavg": "1.60 2.56 2.42 5/96 16207\n",
        "stat": "cpu  100 1 20 300 4 0 5 70 9 9\ncpu0 1 1 1 1\n",
        "vmstat": "nr_free_pages 5\npswpin 3\npswpout 4\npgmajfault 6\n",
        "pressure/cpu": "some avg10=1.25 avg60=4.97 avg300=32.52 total=9\nfull avg10=0.00 avg60=0 avg300=0 total=0\n",
        "pressure/io": "some avg10=0.50 avg60=0.00 avg300=0.00 total=0\n",
        "cpuinfo": "processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz\ncpu MHz\t\t: 1500.0\nprocessor\t: 1\n"
        "model name\t: Other\ncpu MHz\t\t: 2500.0\n",
    }
    return _tree(tmp_path / "proc", files)


@pytest.fixture
def sys_(tmp_path: Path) -> Path:
    cpu = "devices/system/cpu"
    files = {
        f"{cpu}/cpu0/cpufreq/scaling_governor": "powersave\n",
        f"{cpu}/cpu0/cpufreq/cpuinfo_max_freq": "3500000\n",
        f"{cpu}/intel_pstate/no_turbo": "0\n",
        f"{cpu}/smt/active": "1\n",
        f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "2\n",
        f"{cpu}/cpu1/thermal_throttle/core_throttle_count": "5\n",
        "devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
    }
    return _tree(tmp_path / "sys", files)


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_snapshot_of_noise_reads_every_counter(proc: Path, sys_: Path) -> None:
    noise = read_noise(proc, sys_)
    assert (noise.waited_cpu_us, noise.waited_io_us, noise.major_faults, noise.idle_ticks) == (9, 0, 6, 304)
    assert (noise.mean_mhz, noise.highest_mhz) == (2000.0, 2500.0)
    assert (noise.load_1min, noise.runnable) == (1.6, 4)
    assert (noise.pressure_cpu, noise.pressure_memory, noise.pressure_io) == (1.25, None, 0.5)
    assert (noise.cpu_ticks, noise.steal_ticks) == (500, 70)
    assert (noise.swapped_in_pages, noise.swapped_out_pages) == (3, 4)
    assert noise.thermal_throttles == 7


def test_the_processor_is_described(proc: Path, sys_: Path, tmp_path: Path) -> None:
    facts = read_environment(proc, sys_, tmp_path)
    assert facts.cpu.model == "Some CPU @ 2.0GHz"
    assert (facts.cpu.governor, facts.cpu.turbo, facts.cpu.smt) == ("powersave", True, True)
    assert facts.cpu.max_frequency_khz == 3_500_000
    assert facts.clocksource == "tsc"


def test_what_cannot_be_read_is_none_and_no_error(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    noise, facts = read_noise(nothing, nothing), read_environment(nothing, nothing, nothing)
    assert (noise.load_1min, noise.runnable, noise.pressure_cpu, noise.steal_ticks) == (None,) * 4
    assert (facts.cpu.governor, facts.cpu.turbo, facts.clocksource, facts.repository) == (None,) * 4
    assert facts.cpu.model


def test_a_repository_has_its_commit_and_says_if_it_is_dirty(tmp_path: Path, proc: Path, sys_: Path) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", *identity, "-C", str(tmp_path / "repo"), *words], check=True, capture_output=True)

    (tmp_path / "repo").mkdir()
    git("init")
    unborn = read_environment(proc, sys_, tmp_path / "repo").repository
    assert unborn is not None
    assert (unborn.commit, unborn.dirty) == (None, False)
    git("commit", "--allow-empty", "-m", "first")
    clean = read_environment(proc, sys_, tmp_path / "repo").repository
    assert clean is not None
    assert clean.commit is not None
    assert len(clean.commit) == 40
    assert not clean.dirty
    (tmp_path / "repo" / "new").write_text("x")
    dirty = read_environment(proc, sys_, tmp_path / "repo").repository
    assert dirty is not None
    assert dirty.dirty


def test_gpus_are_read_from_the_drivers_table() -> None:
    text = "NVIDIA H200, 570.1, 143771\nNVIDIA GB10, 580.95, [N/A]\nsome warning\n"
    assert parse_gpus(text) == [
        Gpu(name="NVIDIA H200", driver="570.1", memory_bytes=143771 * 2**20),
        Gpu(name="NVIDIA GB10", driver="580.95", memory_bytes=None),
    ]


def test_a_machine_without_the_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert read_environment().gpus is None


def test_this_machine_fits_the_schema_and_names_neither_host_nor_user_nor_folder(records: Any) -> None:
    facts = {**machine.environment(), "noise_before": noise(), "noise_after": noise()}
    result = {
        "schema_version": 1,
        "run_id": "r",
        "environment": facts,
        "plan": records.plan(),
        "cases": [],
        "comparisons": [],
    }
    assert schema_fault(result) is None
    values = json.dumps(facts).replace(facts["kernel"], "")
    assert f'"{socket.gethostname()}"' not in values
    assert f'"{getpass.getuser()}"' not in values
    assert str(Path.home()) not in values


def quiet() -> dict[str, Any]:
    return {
        "runnable": 0,
        "pressure_cpu": 0.0,
        "cpu_ticks": 1000,
        "steal_ticks": 0,
        "swapped_in_pages": 5,
        "swapped_out_pages": 5,
        "thermal_throttles": None,
    }


def test_a_quiet_machine_gives_no_warning() -> None:
    assert noise_warnings(quiet(), {**quiet(), "cpu_ticks": 9000, "pressure_cpu": 80.0}) == []


@pytest.mark.parametrize(
    ("before", "after", "warning"),
    [
        ({"runnable": 3}, {}, "3 other threads were runnable"),
        ({"pressure_cpu": 35.2}, {}, "some task waited for a processor 35 % of 10 s"),
        ({}, {"swapped_out_pages": 12}, "the machine swapped 7 pages"),
        ({}, {"cpu_ticks": 2000, "steal_ticks": 50}, "gave 5.0% of the processor time to others"),
        ({"thermal_throttles": 1}, {"thermal_throttles": 3}, "throttled for heat 2 times"),
    ],
)
def test_a_noisy_machine_is_named(before: dict[str, Any], after: dict[str, Any], warning: str) -> None:
    found = noise_warnings({**quiet(), **before}, {**quiet(), **after})
    assert len(found) == 1
    assert warning in found[0]


def test_missing_snapshots_accuse_nobody() -> None:
    assert noise_warnings(None, quiet()) == []
    assert noise_warnings({}, {}) == []
