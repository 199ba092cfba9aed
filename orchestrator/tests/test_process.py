"""The environment an engine sees, and the kill ladder, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
from enginebench.plain_text import printable
from enginebench.run import process
from enginebench.run.guard import Watchdog
from enginebench.run.limits import Ladder
from enginebench.run.passed_on import engine_environment
from enginebench.run.process import ChildProcess

PYTHON = [sys.executable, "-I", "-c"]
QUICK = Ladder(grace=0.1, term=0.3, abort=0.3)


def start(code: str, folder: Path, ladder: Ladder | None = None) -> ChildProcess:
    return ChildProcess([*PYTHON, code], engine_environment(), folder, ladder=ladder)


def wait_for_line(child: ChildProcess, line: str) -> None:
    for _ in range(500):
        if line in child.last_lines():
            return
        time.sleep(0.01)
    raise AssertionError(f"{line!r} not in {child.last_lines()}")


def test_an_engine_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PATH", "/bin")
    assert "HF_TOKEN" not in engine_environment()
    assert engine_environment()["PATH"] == "/bin"


def test_a_child_that_ends_is_reaped_with_its_exit_code(tmp_path: Path) -> None:
    assert start("raise SystemExit(3)", tmp_path).close() == 3


def test_a_child_that_ignores_everything_is_killed(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\nfor s in (signal.SIGTERM, signal.SIGABRT): signal.signal(s, signal.SIG_IGN)\n"
        "print('ready', file=sys.stderr, flush=True)\ntime.sleep(1000)"
    )
    child = start(code, tmp_path, QUICK)
    wait_for_line(child, "ready")
    assert child.close(grace=0.1) == -signal.SIGKILL


def test_what_an_engine_writes_becomes_text_only_where_somebody_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not line by line while it comes: an engine that writes much would wait for us."""
    text = Mock(side_effect=process._text)
    monkeypatch.setattr(process, "_text", text)
    child = start("import sys\nfor n in range(10_000): print('line', n, file=sys.stderr)", tmp_path)
    assert child.close(grace=5.0) == 0
    text.assert_not_called()
    lines = child.last_lines()
    assert (lines[0], lines[-1], text.call_count) == ("line 0", "line 9999", len(lines))
    assert len(lines) == process.STDERR_HEAD_LINES + process.STDERR_TAIL_LINES


@pytest.mark.usefixtures("subreaper")
def test_a_grandchild_in_the_group_does_not_survive(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\np = subprocess.Popen(['sleep', '1000'])\n"
        "print(p.pid, file=sys.stderr, flush=True)\nsys.stdin.read()"
    )
    child = start(code, tmp_path)
    while not child.last_lines():
        time.sleep(0.01)
    grandchild = int(child.last_lines()[0])
    child.close()
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("spared", [True, False])
def test_the_end_of_one_engine_spares_another_and_what_is_below_it_if_it_is_told_to(
    tmp_path: Path, spared: bool
) -> None:
    code = (
        "import subprocess, sys\np = subprocess.Popen(['sleep', '1000'])\n"
        "print(p.pid, file=sys.stderr, flush=True)\nsys.stdin.read()"
    )
    other = start(code, tmp_path)
    while not other.last_lines():
        time.sleep(0.01)
    below = psutil.Process(int(other.last_lines()[0]))
    start("raise SystemExit(3)", tmp_path).close(spared=[other.pid] if spared else [])
    assert (other.wait(0.2) is None) is spared
    assert (below.is_running() and below.status() != psutil.STATUS_ZOMBIE) is spared
    other.close()


def test_the_last_lines_keep_the_first_and_the_last(tmp_path: Path) -> None:
    child = start("import sys\nfor i in range(1000): print(i, file=sys.stderr)", tmp_path)
    child.close()
    lines = child.last_lines()
    assert (lines[0], lines[-1]) == ("0", "999")
    assert len(lines) == 100


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\tc") == "a?[31mb\tc"


def test_the_watchdog_kills_what_it_guards_when_the_orchestrator_dies(tmp_path: Path) -> None:
    """The orchestrator is a process of its own here, so that it can be killed."""
    code = (
        "import subprocess, sys, time\nfrom enginebench.run.guard import Watchdog\n"
        "w = Watchdog()\np = subprocess.Popen(['sleep', '1000'], start_new_session=True)\nw.guard(p.pid)\n"
        "print(p.pid, flush=True)\ntime.sleep(1000)"
    )
    orchestrator = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert orchestrator.stdout is not None
    engine = int(orchestrator.stdout.readline())
    orchestrator.kill()
    orchestrator.wait()
    orchestrator.stdout.close()
    for _ in range(300):
        if not psutil.pid_exists(engine):
            return
        time.sleep(0.01)
    os.kill(engine, signal.SIGKILL)
    raise AssertionError("the engine outlived the orchestrator")


def test_a_released_group_is_left_alone() -> None:
    watchdog = Watchdog()
    bystander = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    watchdog.guard(bystander.pid)
    watchdog.release(bystander.pid)
    watchdog.close()
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


# ---- the rungs of the ladder ----------------------------------------------------------------------------------

READY = "print('ready', file=sys.stderr, flush=True)\n"
IGNORE = "for s in (signal.SIGTERM, signal.SIGABRT): signal.signal(s, signal.SIG_IGN)\n"


@pytest.mark.parametrize(
    ("code", "stack", "ended_with"),
    [
        ("sys.stdin.read()", False, ""),
        ("time.sleep(1000)", False, "SIGTERM"),
        ("time.sleep(1000)", True, "SIGABRT"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)", False, "SIGABRT"),
        (f"{IGNORE}time.sleep(1000)", False, "SIGKILL"),
        (f"{IGNORE}time.sleep(1000)", True, "SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSTOP)", False, "SIGKILL"),
    ],
)
def test_each_step_is_taken_only_if_the_one_before_did_not_do(
    tmp_path: Path, code: str, stack: bool, ended_with: str
) -> None:
    whole = f"import os, signal, sys, time\n{code.replace('time.sleep', READY.strip() + '; time.sleep')}"
    child = start(whole, tmp_path, QUICK)
    if "time.sleep" in code:
        wait_for_line(child, "ready")
    started = time.monotonic()
    child.close(stack=stack)
    assert time.monotonic() - started < QUICK.longest
    assert child.ending is not None
    assert (child.ending.ended_with, child.ending.by_itself, child.ending.remains) == (ended_with, False, [])


def test_one_that_ended_by_itself_is_told_from_one_that_we_ended(tmp_path: Path) -> None:
    child = start("raise SystemExit(3)", tmp_path)
    assert child.wait(10.0) == 3
    child.close()
    assert child.ending == process.Ending(3, by_itself=True)


def test_waiting_does_not_reap(tmp_path: Path) -> None:
    """Its number, and that of its group, must stay its own until the group is killed."""
    child = start("raise SystemExit(3)", tmp_path)
    assert child.wait(10.0) == 3
    assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
    assert child.close() == 3
    assert not psutil.pid_exists(child.pid)
    assert child.close() == child.wait(0) == 3


def test_an_engine_is_the_kernels_first_victim_and_leaves_no_core(tmp_path: Path) -> None:
    child = start("import sys; sys.stdin.read()", tmp_path)
    folder = Path("/proc") / str(child.pid)
    assert (folder / "oom_score_adj").read_text().strip() == "1000"
    (cores,) = (line for line in (folder / "limits").read_text().splitlines() if line.startswith("Max core"))
    assert cores.split()[4:6] == ["0", "0"]
    child.close()


@pytest.mark.usefixtures("subreaper")
def test_a_family_in_sessions_of_its_own_is_swept_up_and_reaped(tmp_path: Path) -> None:
    """Children of strays become ours only when their parents are dead."""
    below = (
        "import subprocess, sys, time; subprocess.Popen(['sleep', '1000'], start_new_session=True); time.sleep(1000)"
    )
    code = (
        f"import subprocess, sys\nfor _ in range(3): subprocess.Popen([sys.executable, '-I', '-c', {below!r}], "
        "start_new_session=True)\nprint('ready', file=sys.stderr, flush=True)\nsys.stdin.read()"
    )
    child = start(code, tmp_path)
    wait_for_line(child, "ready")
    while len(psutil.Process(child.pid).children(recursive=True)) < 6:
        time.sleep(0.01)
    family = psutil.Process(child.pid).children(recursive=True)
    started = time.monotonic()
    child.close()
    assert child.ending is not None
    assert child.ending.remains == []
    assert not [p.pid for p in family if psutil.pid_exists(p.pid)]
    assert time.monotonic() - started < 4.0


@pytest.mark.usefixtures("subreaper")
def test_what_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL always ends a process; here it is not sent."""
    code = (
        "import subprocess, sys\n"
        "p = subprocess.Popen(['sleep', '1000'], start_new_session=True, stderr=subprocess.DEVNULL)\n"
        "print(p.pid, file=sys.stderr)"
    )
    child = start(code, tmp_path, Ladder(sweep=0.2))
    assert child.wait(10.0) == 0
    with monkeypatch.context() as patched:
        patched.setattr(psutil.Process, "kill", lambda _: None)
        child.close()
    stray = int(child.last_lines()[0])
    os.kill(stray, signal.SIGKILL)
    os.waitpid(stray, 0)
    assert child.ending is not None
    assert child.ending.remains == [f"process {stray}, which SIGKILL did not end"]


SHARED = {
    "posix": "from multiprocessing.shared_memory import SharedMemory\ns = SharedMemory(create=True, size=4096)\n",
    "system v": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\n"
        "n = libc.shmget(0, ctypes.c_size_t(4096), 0o600)\nlibc.shmat(n, None, 0)\n"
    ),
}
TELL = {"posix": "s.name.lstrip('/')", "system v": "n"}


def shared(kind: str) -> set[str]:
    if kind == "posix":
        return {path.name for path in Path("/dev/shm").iterdir()}
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


@pytest.mark.usefixtures("subreaper")
@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("end", ["time.sleep(1000)", "os.kill(os.getpid(), 9)", "os._exit(3)", "os._exit(0)", "pass"])
def test_no_shared_memory_outlives_an_engine_that_did_not_give_it_back(kind: str, end: str, tmp_path: Path) -> None:
    code = f"import os, sys, time\n{SHARED[kind]}print({TELL[kind]}, file=sys.stderr, flush=True)\n{end}"
    child = start(code, tmp_path, QUICK)
    while not child.last_lines():
        time.sleep(0.01)
    name = child.last_lines()[0]
    child.close()
    assert name not in shared(kind)


@pytest.mark.usefixtures("subreaper")
def test_the_sweep_leaves_time_to_who_unlinks_shared_memory() -> None:
    code = f"import sys, time\n{SHARED['posix']}print({TELL['posix']}, flush=True)\ntime.sleep(1000)"
    engine = subprocess.Popen([*PYTHON, code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert engine.stdout is not None
    name = engine.stdout.readline().strip()
    engine.stdout.close()
    assert name in shared("posix")
    assert process.sweep_descendants(keep=set(), seconds=5.0) == []
    engine.wait()
    assert name not in shared("posix")
