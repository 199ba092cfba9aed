"""The torture of names, paths and templates finds what it looks for, and a small round is clean."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import strangers


def test_a_small_round_is_clean(tmp_path: Path) -> None:
    dice = random.Random(0)
    tallies = [strangers.names(dice, 3000), strangers.paths(dice, 1000, tmp_path), strangers.templates(dice, 4)]
    assert [tally.wrong for tally in tallies] == [[], [], []]
    assert all(0 < tally.accepted < tally.tried for tally in tallies[:2])
    assert all(tally.accepted + tally.refused == tally.tried for tally in tallies)


def test_names_that_lead_elsewhere_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "is_plain", lambda name: ".." not in name and name != "")
    assert strangers.names(random.Random(0), 3000).wrong


def test_paths_that_lead_out_are_findings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def trusting(told: str, folder: Path, what: str) -> Path:
        if "\0" in told or not Path(told).is_file():
            raise strangers.Stray("no file")
        return Path(told)

    monkeypatch.setattr(strangers, "own_file", trusting)
    assert strangers.paths(random.Random(0), 2000, tmp_path).wrong


@pytest.mark.parametrize("text", [f"x {strangers.CANARY}", "<class 'object'>", "root:x:0:0", "<module 'os'>"])
def test_templates_that_reach_out_are_findings(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(strangers, "rendered", lambda *told: text)
    assert len(strangers.templates(random.Random(0), 3).wrong) == 3


def test_an_error_of_another_kind_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "rendered", lambda *told: 1 // 0)
    assert "ZeroDivisionError" in strangers.templates(random.Random(0), 1).wrong[0]
