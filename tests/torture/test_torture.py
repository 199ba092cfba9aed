"""The torture of files finds what it looks for: a small round is clean, and every kind of finding is found."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("files.py")
sys.path.insert(0, str(SCRIPT.parent))

import files  # noqa: E402

from models.tests.gguf_bytes import llama  # noqa: E402


def test_a_small_round_is_clean(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--gguf",
        "300",
        "--safetensors",
        "300",
        "--environment",
        str(tmp_path / "none"),
    ]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "tally.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    tally = json.loads((tmp_path / "tally.json").read_text())
    assert (tally["gguf"]["mutations"], tally["safetensors"]["mutations"], tally["llamacpp"]) == (300, 300, False)
    assert sum(tally["gguf"]["refused_by"].values()) == 300
    assert tally["safetensors"]["asked_reader"] == tally["safetensors"]["accepted"] > 0


class Refuses:
    def reads(self, raw: bytes) -> bool:
        return False

    loads = reads


def test_a_file_that_is_accepted_here_and_nowhere_else_is_a_finding() -> None:
    tally = files.Tally()
    files.one_gguf(llama(), tally, Refuses(), Refuses(), 1)
    assert (tally.accepted, tally.models, tally.asked_reader, tally.asked_loader) == (1, 1, 1, 1)
    assert tally.refused_by_reader == tally.refused_by_loader == [llama().hex()]


@pytest.mark.parametrize(
    ("check", "finding"),
    [(lambda raw: 1 / 0, "ZeroDivisionError"), (lambda raw: "no-such-rule", "unknown rule 'no-such-rule'")],
)
def test_another_error_or_an_unknown_rule_is_a_finding(check: object, finding: str) -> None:
    tally = files.Tally()
    files.timed(check, b"x", tally)
    assert finding in tally.errors[0]


def test_a_check_of_more_than_a_second_is_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    tally, clock = files.Tally(), iter((10.0, 11.5))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    files.timed(lambda raw: "", b"x", tally)
    assert (tally.hangs, tally.slowest_s) == (1, 1.5)


def test_a_worker_that_dies_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    class Options:
        seed, seconds, workers, every = 0, None, 1, 1

    monkeypatch.setattr(files, "work", lambda *_: files.resource.setrlimit(99, (0, 0)))
    found = files.torture("gguf", 10, Options, None, 0.0)
    assert len(found["crashes"]) == 1
    assert found["mutations"] == 0
