"""Command lines of the original suite, run: what comes out is that of the command they stand for, which is told."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from .conftest import Cli
from .test_run import Run, case


def test_a_benchmark_runs_the_configuration_that_stands_for_each_engine(cli: Cli, tmp_path: Path) -> None:
    words = ["--benchmark", "--framework", "fake", "--model", "tiny", "--iterations", "3", "--seed", "5", "--timing"]
    done = cli(*words, "--preset", "smoke", "--results", str(tmp_path))
    told = "= enginebench run fake:default --model tiny --iterations 3 --seed 5 --timing --preset smoke"
    assert done.stderr.startswith(told)
    (path,) = tmp_path.glob("*/result.json")
    plan = json.loads(path.read_text())["plan"]
    assert (plan["iterations"], plan["seed"], plan["fair_comparison"]) == (3, 5, True)
    requests = re.findall(r"^fake:default +(\d+) +(\d+) +32 +16 +(warm-up|measured) ", done.stdout, re.MULTILINE)
    assert requests == [("1", str(i), "measured" if i else "warm-up") for i in range(4)]


def test_the_words_are_accepted_after_run_too(run: Run, tmp_path: Path) -> None:
    words = ["--framework", "fake", "--no-fair-comparison", "--temperature", "0.7", "--iterations", "2"]
    _, result, told = run(*words)
    assert len(case(result, "fake:default")["launches"][-1]["requests"]) == 3  # one of them warm-up
    assert result["plan"]["fair_comparison"] is False
    assert "--temperature 0.7 has no effect: a benchmark always takes the likeliest token" in told
    assert json.loads((tmp_path / "runs" / result["run_id"] / "manifest.json").read_text())["command"][1:] == [
        *words, "--model", "tiny", "--preset", "smoke", "--results", "…/runs", "-o", "json",
    ]  # fmt: skip


def test_an_engine_without_the_quantisation_is_a_row_that_says_so(run: Run) -> None:
    _, result, _ = run("fake", "--quantize", "int8", "nf4", "--fair-comparison")
    rows: dict[str, Any] = {c["configuration"]: c for c in result["cases"] if c["engine"] == "fake"}
    assert {name: row["status"] for name, row in rows.items()} == {"int8": "unavailable", "nf4": "unavailable"}
    assert rows["nf4"]["reason"] == "no nf4; it makes no quantised weights"


def test_a_dry_run_says_what_will_not_run(cli: Cli, tmp_path: Path) -> None:
    done = cli("run", "fake", "--quantize", "int8", "--model", "tiny", "--dry-run", "--results", str(tmp_path))
    assert "1 configuration x" in done.stdout
    assert "unavailable: fake:int8: no int8; it makes no quantised weights" in done.stdout


def test_a_prompt_is_answered_on_stdout_with_its_timing_beside_it(cli: Cli) -> None:
    done = cli("--prompt", "Explain quantum computing", "--timing", "--framework", "fake", "--model", "tiny",
               "--temperature", "0")  # fmt: skip
    assert done.returncode == 0, done.stderr
    wanted = "= enginebench prompt 'Explain quantum computing' --engine fake --model tiny --temperature 0 --timing"
    assert done.stderr.splitlines()[0] == wanted
    assert done.stdout.strip()
    assert "=" not in done.stdout.split()[0]


def test_a_download_is_models_pull(cli: Cli) -> None:
    done = cli("--download", "--model", "tiny")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "= enginebench models pull tiny"
    assert "nothing to download" in done.stderr


def test_options_alone_on_a_terminal_are_a_chat(home: dict[str, str]) -> None:
    """Ctrl-D ends it as soon as it asks."""
    pid, terminal = pty.fork()
    if pid == 0:
        words = ["--framework", "fake", "--model", "tiny", "--temperature", "0"]
        os.execve(sys.executable, [sys.executable, "-m", "enginebench", *words], home)
    shown, ended, deadline = b"", 0, time.monotonic() + 120
    while not ended and time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # the terminal is gone when the chat has ended
            shown += os.read(terminal, 4096) if select.select([terminal], [], [], 0.5)[0] else b""
            if b"Ctrl-D ends the chat" in shown:
                os.write(terminal, b"\x04")
        ended, status = os.waitpid(pid, os.WNOHANG)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    assert ended, shown
    assert os.waitstatus_to_exitcode(status) == 0
    assert b"= enginebench chat fake --model tiny --temperature 0" in shown
