"""What looks for orphans and for growth finds them: small rounds are clean, and each kind of leak is found."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import launches

HERE = Path(__file__).parent


def tallied(script: str, *arguments: str, folder: Path) -> tuple[int, dict[str, Any], str]:
    output = folder / "tally.json"
    command = [sys.executable, str(HERE / script), *arguments, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert output.exists(), done.stderr
    return done.returncode, json.loads(output.read_text()), done.stderr


def test_nothing_is_left_of_runs_that_are_killed(tmp_path: Path) -> None:
    states = ["spawn", "load", "request 1", "model check", "prompt answer", "chat answer", "conform load"]
    chosen = [word for state in states for word in ("--state", state)]
    code, tally, log = tallied("orphans.py", "--kills", "7", "--seed", "1", *chosen, folder=tmp_path)
    assert (code, tally["kills"], tally["orphans"], tally["missed"]) == (0, 7, 0, []), log


def test_what_a_run_without_a_watchdog_leaves_is_found(tmp_path: Path) -> None:
    """The negative control: a watchdog that kills nobody."""
    deaf = tmp_path / "deaf.py"
    deaf.write_text(
        textwrap.dedent("""
            import subprocess
            from enginebench.cli import main
            from enginebench.run.guard import Watchdog

            Watchdog._started = lambda self: subprocess.Popen(["cat"], stdin=subprocess.PIPE, text=True, bufsize=1)
            main()
        """)
    )
    trials = tmp_path / "trials.json"
    trials.write_text(json.dumps([{"state": "request 1", "leaves": ["session", "sysv"]}]))
    arguments = ["--trials", str(trials), "--program", str(deaf)]
    code, tally, log = tallied("orphans.py", *arguments, folder=tmp_path)
    assert (code, tally["orphans"]) == (1, 1), log
    (found,) = tally["left"]
    kinds = [thing.split()[0] for thing in found["left"]]
    assert {"process", "segment", "in"} <= set(kinds), found


def test_a_daemon_that_hides_on_purpose_outlives_a_killed_orchestrator(tmp_path: Path) -> None:
    """What is not promised, and that it is looked for all the same."""
    trials = tmp_path / "trials.json"
    trials.write_text(json.dumps([{"state": "request 1", "leaves": ["hidden", "session"]}]))
    code, tally, log = tallied("orphans.py", "--trials", str(trials), folder=tmp_path)
    assert (code, tally["orphans"]) == (1, 1), log
    assert [thing.split(maxsplit=2)[2] for thing in tally["left"][0]["left"]] == ["/bin/sleep 1000"]


def test_a_short_soak_finds_nothing_wrong(tmp_path: Path) -> None:
    code, tally, log = tallied("soak.py", "--minutes", "0.15", "--seed", "3", folder=tmp_path)
    assert (code, tally["wrong"]) == (0, []), log
    assert tally["total"] == sum(tally["events"].values()) > 0


def test_launches_leave_nothing_and_hold_nothing(tmp_path: Path) -> None:
    """In a process of its own: what other tests have left in this one may go at any time."""
    _, tally, log = tallied("launches.py", "--launches", "24", "--warm-up", "12", folder=tmp_path)
    assert (tally["launches"], tally["misjudged"], tally["grown"]) == (36, [], {}), log


@pytest.mark.parametrize(
    ("name", "leak"),
    [
        ("descriptors", lambda kept: kept.append(os.open(os.devnull, os.O_RDONLY))),
        ("zombies", lambda kept: kept.append(os.posix_spawn("/bin/true", ["true"], {}))),
    ],
)
def test_a_leak_is_found(name: str, leak: Any) -> None:
    kept: list[int] = []
    course = launches.measure(4, warm_up=1, after=lambda: leak(kept))
    assert name in course.grown()
    for number in kept:
        if name == "descriptors":
            os.close(number)
            continue
        with contextlib.suppress(ChildProcessError):  # the sweep after a launch reaps too
            os.waitpid(number, 0)


def test_memory_that_grows_is_told_per_thousand_launches() -> None:
    course = launches.Course()
    for number in range(300):
        course.add(launches.Reading(5, 2, 0, 0, 0, 50_000_000 + 2_000 * number + 7_000 * (number % 2), 9_000_000, 4))
    assert course.grown() == {}
    assert 1_900_000 < course.growth_bytes() < 2_100_000
    assert not launches.is_good(course)
