"""`--shard N` as a user meets it; and nothing of a sharded run outlives an orchestrator that is killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import Cli
from .processes import words_of


def test_an_engine_that_does_not_shard_is_a_row_that_says_so(run: Callable[..., Any]) -> None:
    _, result, _ = run("fake", "--shard", "2")
    row = next(case for case in result["cases"] if case["engine"] == "fake")
    assert (row["shards"], row["status"], row["reason"]) == (2, "unavailable", "does not shard")
    assert all("shards" not in case for case in result["cases"] if case["role"] == "instrument")
    assert result["plan"]["shards"] == 2


def test_more_shards_than_processors_is_wrong_usage_and_says_how_many_there_are(cli: Cli) -> None:
    done = cli("run", "fake", "--model", "tiny", "--device", "cpu", "--shard", "4096")
    assert done.returncode == 2
    assert "--shard 4096" in done.stderr
    assert f"this machine has {len(psutil.Process().cpu_affinity())}" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_left_of_a_sharded_run_whose_orchestrator_is_killed(
    home: dict[str, str], tmp_path: Path, seed: int
) -> None:
    command = [sys.executable, "-m", "enginebench", "run", "torch:half", "--model", "tiny", "--preset", "smoke"]
    command += ["--device", "cpu", "--shard", "2", "--results", str(tmp_path)]
    process = subprocess.Popen(command, env=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    root = psutil.Process(process.pid)
    deadline = time.monotonic() + 120
    while not any("engine_torch.rank" in words_of(child) for child in root.children(recursive=True)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(random.Random(seed).uniform(0.0, 6.0))
    below = root.children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(below, timeout=5.0)
    assert [words_of(child) for child in alive] == []
