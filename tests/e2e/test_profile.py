"""`--profile` and `--debug` from start to end, with the engine of known speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from enginebench.cli import command_line
from typer.testing import CliRunner


def test_a_profiled_run_keeps_traces_and_shows_the_kernels(tmp_path: Path) -> None:
    results = ["--results", str(tmp_path)]
    words = ["run", "fake", "--model", "tiny", "--preset", "smoke", "-n", "8", "--profile", "-o", "json", *results]
    done = CliRunner().invoke(command_line(), words)
    assert done.exit_code == 0, done.output
    folder = next(tmp_path.glob("*/profiles/fake-default-tiny-*"))
    trace = json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert [event["dur"] for event in trace[1:]] == [1000] * 7
    memory = json.loads((folder / "memory.json").read_text())["traceEvents"]
    spans = [event["name"] for event in memory if event["ph"] == "X"]
    assert spans == ["load", "first request", "profiled request"]
    counters = [event for event in memory if event["ph"] == "C"]
    assert min(event["args"]["anonymous"] for event in counters) > 0
    case = next(case for case in json.loads(done.stdout)["cases"] if case["engine"] == "fake")
    assert [launch["kind"] for launch in case["launches"]] == ["check", "timed", "profile"]
    assert case["metrics"]["launches"]["value"] == 1

    shown = CliRunner().invoke(command_line(), ["show", "latest", "--profile", "-o", "json", *results])
    (row,) = json.loads(shown.stdout)
    assert (row["kernel"], row["calls"], row["share %"]) == ("token", 8, pytest.approx(100))


def test_debug_shows_the_frames_and_what_the_engine_writes(tmp_path: Path) -> None:
    words = ["run", "fake:memory", "--model", "tiny", "--preset", "smoke", "-n", "8", "--results", str(tmp_path)]
    done = CliRunner().invoke(command_line(), [*words, "--debug"])
    lines = done.stderr.splitlines()
    sent = [line.split()[1] for line in lines if line.strip().startswith("< ")]
    assert {"load", "generate", "memory", "unload", "shutdown"} <= set(sent)
    assert any(line.startswith("engine > loaded id=1 ") for line in lines)
    quiet = CliRunner().invoke(command_line(), words)
    assert "generate" not in quiet.stderr
