"""Signals, kill -9 and a full disk in the middle of a real run; and `--resume` after each."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from enginebench.errors import UsageError
from enginebench.run.limits import Ladder
from enginebench.store.journal import Journalled, read_journal
from enginebench.store.manifest import broken_seals, read_manifest

from .conftest import Cli
from .processes import words_of

SECONDS = 60.0
PLACES = [(kind, engine) for kind in ("check", "timed") for engine in ("limit", "fake")]


class Started:
    """`enginebench run fake:CONFIGURATION` in the background, with a results folder of its own."""

    def __init__(self, home: dict[str, str], folder: Path, configuration: str, setup: Callable[[], Any] | None = None):
        self.results, self._told = folder / "runs", folder / "stderr"
        words = ["run", f"fake:{configuration}", "--model", "tiny", "--preset", "smoke", "--results", str(self.results)]
        with self._told.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "enginebench", *words],
                env=home,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                preexec_fn=setup,  # noqa: PLW1509 - the tests have one thread
            )

    @property
    def told(self) -> str:
        return self._told.read_text()

    @property
    def folder(self) -> Path:
        (found,) = (path for path in self.results.iterdir() if path.is_dir())
        return found

    def until_in_launch(self, number: int) -> list[psutil.Process]:
        """An engine runs, and launches before this one are in the journal. All processes below the run."""
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends:
            below = psutil.Process(self.process.pid).children(recursive=True)
            if self._n_launches() == number and any("serve" in words_of(each) for each in below):
                return below
            time.sleep(0.02)
        raise AssertionError(f"launch {number} did not begin in {SECONDS} s: {self.told}")

    def _n_launches(self) -> int:
        try:
            return len(read_journal(self.folder / "journal").launches)
        except (ValueError, OSError, UsageError):
            return -1

    def ends(self, within: float = SECONDS) -> tuple[int, str]:
        """(exit code, stdout)"""
        stdout, _ = self.process.communicate(timeout=within)
        return self.process.returncode, stdout


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    _, found = psutil.wait_procs(processes, timeout=5.0)
    return found


def until_deaf(below: list[psutil.Process]) -> None:
    """Until the engine among them ignores SIGTERM; proc(5), SigIgn of /proc/PID/status."""
    (engine,) = (each for each in below if "serve" in words_of(each))
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        status = (Path("/proc") / str(engine.pid) / "status").read_text()
        (ignored,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
        if int(ignored, 16) & 1 << signal.SIGTERM - 1:
            return
        time.sleep(0.02)
    raise AssertionError(f"it heeds SIGTERM after {SECONDS} s")


@pytest.fixture
def start(home: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Started]]:
    runs: list[Started] = []

    def started(configuration: str = "slow-echo", setup: Callable[[], Any] | None = None) -> Started:
        runs.append(Started(home, tmp_path, configuration, setup))
        return runs[-1]

    yield started
    for run in runs:
        run.process.kill()
        run.process.communicate()


def journal_of(folder: Path) -> Journalled:
    content = read_journal(folder / "journal")
    assert content.damaged == []
    return content


def is_whole(folder: Path) -> dict[str, Any]:
    """Ended, sealed, and every launch there once, in the order of the plan."""
    manifest = read_manifest(folder)
    assert manifest is not None
    assert broken_seals(folder, manifest) == []
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert not result["plan"]["interrupted"]
    found = Counter((launch.kind, launch.case.engine) for launch in journal_of(folder).launches)
    assert set(found) == set(PLACES)
    return result


def test_a_second_process_is_refused_while_the_first_is_at_work(start: Any, cli: Cli) -> None:
    run = start("hang")
    run.until_in_launch(1)
    before = (run.folder / "journal").read_bytes()
    other = cli("run", "--resume", str(run.folder))
    assert (other.returncode, f"another enginebench (pid {run.process.pid}) is at work" in other.stderr) == (2, True)
    assert (run.folder / "journal").read_bytes() == before


def test_ctrl_c_once_keeps_what_is_measured_and_the_rest_is_measured_later(start: Any, cli: Cli) -> None:
    run = start()
    below = run.until_in_launch(1)
    asked = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    code, stdout = run.ends()
    assert time.monotonic() - asked < 15
    assert code == 130
    assert alive(below) == []
    assert "left out: the rest: interrupted" in stdout
    assert f"--resume {run.folder} goes on from here" in run.told
    assert len(journal_of(run.folder).launches) == 1
    done = cli("run", "--resume", "latest", "--results", str(run.results))
    assert done.returncode == 0, done.stderr
    assert "interrupted and resumed 1 time, last on" in done.stdout
    (resumed,) = is_whole(run.folder)["plan"]["resumed"]
    assert resumed["launches"] == 1
    before = (run.folder / "manifest.json").read_bytes()
    again = cli("run", "--resume", str(run.folder))
    assert (again.returncode, "has ended" in again.stderr) == (0, True)
    assert (run.folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_being_asked_to_end_is_like_one_ctrl_c(start: Any, number: signal.Signals) -> None:
    run = start("hang")
    below = run.until_in_launch(1)
    run.process.send_signal(number)
    run.process.send_signal(number)  # as uv hands it on too
    code, _ = run.ends()
    assert code == 128 + number
    assert alive(below) == []
    assert json.loads((run.folder / "result.json").read_text())["plan"]["interrupted"]
    assert read_manifest(run.folder) is not None


def test_ctrl_c_twice_ends_everything_at_once(start: Any) -> None:
    """The engine hangs and ignores SIGTERM: without the second one it takes seconds to end it."""
    run = start("stubborn")
    below = run.until_in_launch(1)
    until_deaf(below)
    run.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert run.process.poll() is None
    asked = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    code, _ = run.ends()
    assert time.monotonic() - asked < Ladder().term - 0.5
    assert code == 130
    assert alive(below) == []
    assert len(journal_of(run.folder).launches) == 1
    assert not (run.folder / "result.json").exists()


def test_a_signal_that_is_ignored_for_us_stays_ignored(start: Any) -> None:
    run = start("default", lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    run.until_in_launch(1)
    run.process.send_signal(signal.SIGHUP)
    code, _ = run.ends()
    assert code == 0
    is_whole(run.folder)


def test_a_file_that_cannot_grow_ends_the_run_and_it_goes_on_later(start: Any, cli: Cli, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    cli("run", "fake", "--model", "tiny", "--preset", "smoke", "--results", str(tmp_path / "other"))  # makes the model
    (journal,) = (tmp_path / "other").glob("*/journal")
    lengths = [len(line) for line in journal.read_bytes().splitlines(keepends=True)]
    room = sum(lengths[:2]) + lengths[2] // 2
    run = start("default", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))
    code, _ = run.ends()
    assert code == 1, run.told
    assert f"cannot write to the journal in {run.folder}: File too large" in run.told
    n_done = len(journal_of(run.folder).launches)
    assert 0 < n_done < len(PLACES)
    done = cli("run", "--resume", str(run.folder))
    assert done.returncode == 0, done.stderr
    assert is_whole(run.folder)["plan"]["resumed"][0]["launches"] == n_done


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_again_and_again_ends_whole(start: Any, home: dict[str, str], cli: Cli, seed: int) -> None:
    dice = random.Random(seed)
    run = start("default")
    run.until_in_launch(0)
    safe: list[Any] = []
    process = run.process
    for _ in range(3):
        time.sleep(dice.uniform(0.0, 2.0))
        process.kill()
        process.wait()
        content = read_journal(run.folder / "journal")
        places = [launch.place for launch in content.launches]
        assert places[: len(safe)] == safe
        safe = places
        command = [sys.executable, "-m", "enginebench", "run", "--resume", str(run.folder)]
        process = subprocess.Popen(command, env=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process.wait(SECONDS)
    assert cli("run", "--resume", str(run.folder)).returncode == 0
    is_whole(run.folder)
    assert [launch.place for launch in journal_of(run.folder).launches][: len(safe)] == safe
    assert os.listdir(run.folder) and not list(run.folder.glob(".*"))  # noqa: PTH208
