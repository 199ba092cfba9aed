"""The environment an engine sees, and the kill ladder, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from enginebench.run.process import ChildProcess, Watchdog, engine_environment, printable

PYTHON = [sys.executable, "-I", "-c"]


def start(code: str, folder: Path) -> ChildProcess:
    return ChildProcess([*PYTHON, code], engine_environment(), folder)


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
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', file=sys.stderr, flush=True)\ntime.sleep(1000)"
    )
    child = start(code, tmp_path)
    wait_for_line(child, "ready")
    assert child.close(grace=0.1) == -signal.SIGKILL


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
        "import subprocess, sys, time\nfrom enginebench.run.process import Watchdog\n"
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
