"""Each fault and each state once, classified exactly, with nothing left; and the harness sees it if that is not so.

Each test is a process of its own: a launch sweeps what is below its process. All of the table: `just torture`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

from inject import NOT_STARTED  # noqa: E402
from matrix import FAULTS, STATES, every, some  # noqa: E402
from misdeeds import ACTS, CHANGES  # noqa: E402
from torture import left_out  # noqa: E402

JOBS = 4


def test_each_fault_and_each_state_is_classified_exactly_and_leaves_nothing(tmp_path: Path) -> None:
    output = tmp_path / "tally.json"
    command = [sys.executable, str(FOLDER / "torture.py"), "--quick", "--jobs", str(JOBS), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tally = json.loads(output.read_text())
    assert (tally["faults"], tally["states"]) == (len(FAULTS), len(STATES))
    assert tally["right"] == tally["injections"] >= len(FAULTS)
    assert (tally["orphans"], tally["processes_left_at_the_end"]) == (0, [])


def test_the_table_has_every_misdeed_and_says_why_a_combination_is_left_out() -> None:
    assert set(FAULTS) == set(ACTS) | set(CHANGES) | set(NOT_STARTED)
    assert len(STATES) >= 12
    assert len(FAULTS) >= 15
    assert all(why.partition(": ")[2] for why in left_out().values())
    assert {injection.fault for injection in some(0)} == set(FAULTS)
    assert {injection.state for injection in some(0)} == set(STATES)
    assert len(set(every())) == len(list(every()))


def test_what_is_planted_is_found() -> None:
    """Negative controls: a child that does something else than the table says, and defects of the product."""
    done = subprocess.run([sys.executable, str(FOLDER / "planted.py")], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.pop("nothing") == []
    assert found.pop("another_signal") == [
        "reason 'signal' instead of 'exit'", "exit_code None instead of 3", "signal 11 instead of None",
    ]  # fmt: skip
    assert found.pop("no_fault") == ["ended well instead of with exit"]
    assert found.pop("another_reason") == ["reason 'hang' instead of 'exit'"]
    assert found.pop("another_stage") == ["stage 'load' instead of 'request 1'"]
    assert found.pop("raises") == ["raised KeyError: 'a bug of the orchestrator'"]
    seen = {name: {line.partition(":")[0] for line in wrong} for name, wrong in found.items()}
    assert seen.pop("nothing_swept") >= {"processes", "stray"}
    assert seen == {"descriptor_kept": {"n_descriptors"}, "thread_kept": {"n_threads"}, "folder_kept": {"folders"}}
