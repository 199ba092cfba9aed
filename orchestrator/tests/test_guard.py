"""What a killed orchestrator leaves is ended: by its watchdog, or by the next one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from enginebench.run import watchdog
from enginebench.run.guard import Watchdog, guarded, is_tracker

SLEEP = ["sleep", "1000"]
SCRIPT = Path(watchdog.__file__)
ENDS = {"broken off": "time.sleep(1000)", "by itself": "", "by a crash": "import os\nos._exit(3)"}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def is_gone(process: subprocess.Popen[bytes], within: float = 5.0) -> bool:
    """We are its parent, so its end shows as an exit code."""
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def dies(guard: Watchdog) -> None:
    """What its watchdog sees of an orchestrator's death: the pipe closes, the lock is free."""
    os.close(guard._lock)
    guard._stdin.close()
    guard._process.wait(10)


def test_the_folder_of_a_run_goes_with_it(temporary: Path) -> None:
    with Watchdog() as guard:
        assert list(temporary.iterdir()) == [guard.folder]
        (guard.folder / "launch").mkdir()
    assert list(temporary.iterdir()) == []


def until_it_has_read(guard: Watchdog) -> None:
    """All that it was told: it may have been started only now."""
    left, ends = array("i", [1]), time.monotonic() + 30
    while left[0]:
        assert time.monotonic() < ends
        time.sleep(0.01)
        fcntl.ioctl(guard._stdin, termios.FIONREAD, left)


def in_group(folder: Path, guard: Watchdog) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(SLEEP, start_new_session=True)
    guard.guard(process.pid)
    return process


def told_the_folder(folder: Path, guard: Watchdog) -> subprocess.Popen[bytes]:
    return subprocess.Popen(SLEEP, start_new_session=True, env={**os.environ, "TMPDIR": str(folder / "launch")})


def holds_stderr(folder: Path, guard: Watchdog) -> subprocess.Popen[bytes]:
    """An engine with a grandchild that has forgotten everything but its stderr."""
    ours, theirs = os.pipe()
    engine = subprocess.Popen(SLEEP, start_new_session=True, stderr=theirs)
    guard.guard(engine.pid)
    other = subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True, stderr=theirs, env={}, cwd="/")
    os.close(theirs)
    until_it_has_read(guard)
    time.sleep(0.2)  # it looks at the engine
    engine.kill()
    engine.wait()
    os.close(ours)
    return other


@pytest.mark.parametrize("start", [in_group, told_the_folder, holds_stderr])
def test_what_belongs_to_a_run_ends_with_it(
    start: Callable[[Path, Watchdog], subprocess.Popen[bytes]], temporary: Path
) -> None:
    guard = Watchdog()
    process = start(guard.folder, guard)
    dies(guard)
    assert is_gone(process, 0.5)
    assert list(temporary.iterdir()) == []


def test_a_bystander_is_left_alone(temporary: Path) -> None:
    guard = Watchdog()
    bystander = subprocess.Popen(SLEEP, start_new_session=True, cwd=guard.folder)
    dies(guard)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_who_cleans_up_after_a_dead_engine_has_time_to(temporary: Path) -> None:
    """Python's resource tracker unlinks shared memory once the process that made it is gone."""
    code = (
        "import time\nfrom multiprocessing.shared_memory import SharedMemory\n"
        "print(SharedMemory(create=True, size=4096).name, flush=True)\ntime.sleep(1000)"
    )
    guard = Watchdog()
    engine = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    guard.guard(engine.pid)
    assert engine.stdout is not None
    segment = Path("/dev/shm") / engine.stdout.readline().decode().strip().lstrip("/")
    assert segment.exists()
    dies(guard)
    engine.stdout.close()
    assert is_gone(engine)
    assert not segment.exists()


def test_a_watchdog_that_was_killed_is_replaced_and_told_everything(temporary: Path) -> None:
    guard = Watchdog()
    first = in_group(guard.folder, guard)
    os.kill(guard.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(guard.pid)], timeout=5)
    second = in_group(guard.folder, guard)
    dies(guard)
    assert is_gone(first, 0.5)
    assert is_gone(second, 0.5)


def test_a_watchdog_that_stands_still_holds_nobody_up(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginebench.run.guard.GIVE_UP_SECONDS", -1.5)
    guard = Watchdog()
    os.kill(guard.pid, signal.SIGSTOP)
    guard.close()
    assert not psutil.pid_exists(guard.pid)


def test_the_orchestrator_itself_is_spared_if_it_lives(temporary: Path) -> None:
    """It holds the other end of the engine's stderr."""
    ours, theirs = os.pipe()
    engine = subprocess.Popen(SLEEP, start_new_session=True, stderr=theirs)
    os.close(theirs)
    guard = Watchdog()
    guard.guard(engine.pid)
    guard.close()
    assert is_gone(engine, 0.5)
    os.close(ours)


@pytest.mark.parametrize(("state", "ends"), [("abandoned", True), ("locked", False), ("young", False)])
def test_the_next_run_ends_what_was_killed_together_with_its_watchdog(state: str, ends: bool, temporary: Path) -> None:
    guard = Watchdog()
    process = told_the_folder(guard.folder, guard)
    os.kill(guard.pid, signal.SIGKILL)
    guard._process.wait()
    if state != "young":
        old = time.time() - 2 * watchdog.YOUNG_SECONDS
        os.utime(guard.folder, (old, old))
    if state != "locked":
        os.close(guard._lock)
    subprocess.run([sys.executable, "-I", str(SCRIPT), str(temporary / "next")], stdin=subprocess.DEVNULL, check=True)
    guard._stdin.close()
    assert is_gone(process, 0.5) is ends
    assert guard.folder.exists() is not ends


def test_nothing_of_a_guarded_program_is_left_if_it_is_left_early(temporary: Path) -> None:
    with Watchdog() as guard:
        process = subprocess.Popen(SLEEP, start_new_session=True)
        with pytest.raises(KeyboardInterrupt), guarded(process, guard):
            raise KeyboardInterrupt
        assert process.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("subreaper")
@pytest.mark.parametrize("end", [*ENDS])
def test_shared_memory_of_a_guarded_program_is_unlinked(end: str) -> None:
    code = (
        "import time\nfrom multiprocessing.shared_memory import SharedMemory\n"
        f"s = SharedMemory(create=True, size=4096)\nprint(s.name.lstrip('/'), flush=True)\n{ENDS[end]}"
    )
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert program.stdout is not None
    with program.stdout, contextlib.suppress(KeyboardInterrupt), guarded(program, None):
        name = program.stdout.readline().strip()
        assert (Path("/dev/shm") / name).exists()
        if end == "broken off":
            raise KeyboardInterrupt
        program.wait()
    assert not (Path("/dev/shm") / name).exists()


def test_a_process_that_is_being_started_may_become_a_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of exec it has no command line: whoever unlinks shared memory was killed there."""
    pipe, code = subprocess.PIPE, "print(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as popen:
        assert popen.stdin is not None
        assert popen.stdout is not None
        popen.stdout.readline()
        process = psutil.Process(popen.pid)
        assert not is_tracker(process)
        monkeypatch.setattr(psutil.Process, "cmdline", lambda _: [])
        assert is_tracker(process)
        monkeypatch.undo()
        popen.stdin.write(b"\n")
        popen.stdin.close()
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert not is_tracker(process)


def test_the_control_group_of_an_engine_goes_with_the_run(tmp_path: Path) -> None:
    """Folders stand for groups: none with the memory controller can be made on every machine."""
    proc, mount = tmp_path / "proc", tmp_path / "mount"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("1:name=systemd:/x\n0::/base/user/run\n")
    (proc / "self" / "mountinfo").write_text(f"30 23 0:26 /base {mount} rw - cgroup2 cgroup2 rw\n")
    other = mount / "user" / "enginebench-78-ab"
    for folder in (mount / "user" / "run" / "enginebench-77-ab", mount / "user" / "enginebench-77-cd", other):
        folder.mkdir(parents=True)
    watchdog.remove_control_groups(77, proc)
    killed = sorted(path.parent.name for path in mount.rglob("cgroup.kill"))
    assert killed == ["enginebench-77-ab", "enginebench-77-cd"]
