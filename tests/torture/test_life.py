"""The torture of processes is clean in a small round, and finds what it looks for."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from enginebench.run.process import become_subreaper

sys.path.insert(0, str(Path(__file__).parent))

import life


@pytest.fixture(autouse=True)
def subreaper() -> Iterator[None]:
    become_subreaper()
    yield
    ctypes.CDLL(None).prctl(36, 0)


@pytest.mark.parametrize("name", life.MISDEEDS)
def test_each_process_ends_as_it_should(name: str) -> None:
    assert life.ending(name, life.MISDEEDS[name], 1)["wrong"] == []


def test_another_end_and_a_lack_of_stacks_are_found() -> None:
    sleeps = life.MISDEEDS["sleeps"]
    assert life.ending("x", replace(sleeps, ended_with="SIGKILL"), 1)["wrong"] == ["ended with 'SIGTERM'"]
    mute = replace(life.MISDEEDS["ignores SIGTERM and SIGABRT"], stack=True)
    assert life.ending("x", mute, 1)["wrong"] == ["no stack"]


def test_a_process_that_is_left_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginebench.run.process.sweep_descendants", lambda *_: [])
    left = subprocess.Popen(["sleep", "1000"])
    found = life.ending("x", life.MISDEEDS["sleeps"], 1)["wrong"]
    left.kill()
    left.wait()
    assert found == [f"left {left.pid}"]


def test_the_cost_of_a_wait_is_measured() -> None:
    cost = life.cost(100)
    assert 0 < cost["plain_ns"] < 1e8
    assert cost["difference_95_ns"][0] <= cost["difference_ns"] <= cost["difference_95_ns"][1]
