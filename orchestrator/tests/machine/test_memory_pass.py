"""The control group and the GPU beside ΣPSS: each right by a known amount, or null with its reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from enginebench.machine.cgroup import MemoryCgroup, NoCgroup
from enginebench.machine.device_memory import NO_PROCESS, NO_SIZE, DeviceMemorySampler
from enginebench.machine.memory_pass import MemoryPass
from enginebench.machine.nvml import open_gpu
from enginebench.store.record import MemoryReading
from enginebench_protocol.messages import Account

from .conftest import FakeMachine
from .fake_nvml import GIB

ACCOUNT = Account(id=1, weights_bytes=2 * GIB, kv_cache_bytes=GIB, workspace_bytes=7, device_peak_bytes=3 * GIB)


def test_a_process_on_the_gpu_is_measured_by_nvml_and_by_the_growth_of_the_device(machine: FakeMachine) -> None:
    """Known amounts: 1 GiB in use before; a context of 0.5 GiB, 3 GiB of weights and cache at the peak."""
    nvml = machine.nvml
    assert nvml is not None
    watch = machine.watch()
    memory = MemoryPass(os.getpid(), watch)
    nvml.used_bytes += GIB // 2
    nvml.compute = {os.getpid(): GIB // 2}
    with memory:
        nvml.used_bytes, nvml.compute = GIB + 3 * GIB, {os.getpid(): 3 * GIB, 999_999: GIB}
        memory.loaded()
        nvml.used_bytes, nvml.compute = GIB + 2 * GIB, {os.getpid(): 2 * GIB}
    reading = memory.reading(ACCOUNT)
    nvml.used_bytes = GIB + GIB // 2
    device = memory.after_unload(reading).device
    assert device is not None
    assert (device.baseline_bytes, device.peak_growth_bytes, device.peak_of_processes_bytes) == (GIB, 3 * GIB, 3 * GIB)
    assert (device.ready_growth_bytes, device.loaded_growth_bytes) == (GIB // 2, 3 * GIB)
    assert device.unloaded_growth_bytes == GIB // 2


@pytest.mark.parametrize(("listed", "lack"), [({}, NO_PROCESS), ({999_999: GIB}, NO_PROCESS), (None, NO_SIZE)])
def test_processes_that_nvml_does_not_show_have_no_size_but_a_reason(
    machine: FakeMachine, listed: dict[int, int | None] | None, lack: str
) -> None:
    nvml = machine.nvml
    assert nvml is not None
    nvml.compute = {os.getpid(): None} if listed is None else listed
    sampler = DeviceMemorySampler(open_gpu("0"), os.getpid(), GIB)
    nvml.used_bytes = 2 * GIB
    assert sampler.mark() == GIB
    assert (sampler.peak_of_processes_bytes, sampler.lack) == (None, lack)


def test_a_run_on_the_processor_reads_no_device() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])
    try:
        memory = MemoryPass(process.pid, None)
        with memory:
            memory.loaded()
        reading = memory.reading(ACCOUNT)
    finally:
        process.kill()
        process.wait()
        memory.close()
    assert (reading.device, reading.engine_workspace_bytes) == (None, 7)
    assert reading.peak_pss_bytes > 1_000_000
    assert (reading.cgroup_peak_bytes is None) == bool(reading.cgroup_lack)


def read_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryReading:
    """With this folder as the control group of the engine, which is ourselves."""
    monkeypatch.setattr(MemoryCgroup, "create", lambda: MemoryCgroup(folder))
    return MemoryPass(os.getpid(), None).reading(ACCOUNT)


def test_a_group_with_a_peak_has_no_reason_against_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.peak").write_text("268435456\n")
    reading = read_in(tmp_path, monkeypatch)
    assert (reading.cgroup_peak_bytes, reading.cgroup_lack) == (256 * 2**20, "")


def test_a_group_that_took_nobody_in_has_no_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.peak").write_text("0\n")
    (tmp_path / "cgroup.procs").mkdir()  # nothing can be written to it
    reading = read_in(tmp_path, monkeypatch)
    assert reading.cgroup_peak_bytes is None
    assert "cannot be moved to its control group" in reading.cgroup_lack


def hierarchy(root: Path, own: str, controllers: dict[str, str]) -> Path:
    """A /proc whose process is in `own`, of a cgroup2 mounted at root/cgroup; controllers: group → subtree_control."""
    proc = root / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text(f"4:memory:/elsewhere\n0::{own}\n")
    mount = f"36 35 0:30 / {root / 'cgroup'} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
    (proc / "self/mountinfo").write_text(f"22 1 8:1 / / rw - ext4 /dev/sda rw\n{mount}")
    for group, text in controllers.items():
        folder = root / "cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.subtree_control").write_text(text)
    return proc


def test_a_group_is_made_beside_ours_where_the_parent_is_delegated(tmp_path: Path) -> None:
    """As in a user's session under systemd: our own scope holds processes, the slice above hands out controllers."""
    proc = hierarchy(tmp_path, "/app.slice/ours.scope", {"app.slice": "memory pids\n", "app.slice/ours.scope": ""})
    group = MemoryCgroup.create(proc)
    assert group.folder.parent == tmp_path / "cgroup/app.slice"
    group.take_in(4711)
    assert (group.folder / "cgroup.procs").read_text() == "4711\n"
    assert group.peak_bytes() is None
    (group.folder / "memory.peak").write_text("268435456\n")
    assert group.peak_bytes() == 256 * 2**20


def test_a_group_that_is_empty_again_is_removed(tmp_path: Path) -> None:
    group = MemoryCgroup.create(hierarchy(tmp_path, "/", {"": "cpu memory\n"}))
    group.close()
    assert not group.folder.exists()


def test_without_a_delegated_controller_or_version_2_there_is_a_reason(tmp_path: Path) -> None:
    proc = hierarchy(tmp_path / "a", "/ours", {"": "cpu pids\n", "ours": ""})
    with pytest.raises(NoCgroup, match="memory controller is delegated"):
        MemoryCgroup.create(proc)
    assert not list((tmp_path / "a/cgroup").rglob("enginebench-*"))
    with pytest.raises(NoCgroup, match="not mounted"):
        MemoryCgroup.create(tmp_path / "nothing")


def test_a_process_that_cannot_be_moved_is_a_reason(tmp_path: Path) -> None:
    group = MemoryCgroup(tmp_path / "gone")
    with pytest.raises(NoCgroup, match="cannot be moved to its control group: No such file"):
        group.take_in(1)


def test_the_group_of_a_process_that_cannot_be_moved_is_removed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, text: str) -> None:
        raise OSError(16, "Device or resource busy", str(path))

    group = MemoryCgroup.create(hierarchy(tmp_path, "/", {"": "memory\n"}))
    monkeypatch.setattr(Path, "write_text", refused)
    with pytest.raises(NoCgroup, match="resource busy"):
        group.take_in(1)
    assert not group.folder.exists()
