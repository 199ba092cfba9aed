"""`enginebench doctor` prints every gate and fails only where a run would be invalid."""

from __future__ import annotations

import json
from typing import Any

import pytest
from enginebench.cli import command_line, doctor
from enginebench.machine.gates import GATES, Finding
from enginebench.machine.view import Sight
from typer.testing import CliRunner


def examined(**fired: bool | None) -> list[Finding]:
    """All quiet but those named, with "-" written as "_"."""
    states = {name.replace("_", "-"): state for name, state in fired.items()}
    return [Finding(gate, Sight(states.get(gate.name, False), f"saw {gate.name}")) for gate in GATES]


def call(monkeypatch: pytest.MonkeyPatch, found: list[Finding], *arguments: str) -> Any:
    monkeypatch.setattr(doctor, "examine", lambda seconds: found)
    return CliRunner().invoke(command_line(), ["doctor", *arguments])


def test_a_fired_gate_shows_what_was_seen_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    done = call(monkeypatch, examined(governor=True, turbo=None))
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if "saw governor" in line)
    assert lines[at].split() == ["warn", "governor", "saw", "governor"]
    assert lines[at + 1].strip().startswith("why: the clock follows the load")
    assert lines[at + 2].strip() == "do:  cpupower frequency-set -g performance"
    assert "cannot be read here turbo" in done.stdout
    assert done.exit_code == 0
    assert f"{len(GATES) - 2} ok, 1 warn, 0 would invalidate, 1 cannot be read here" in done.stderr


def test_a_machine_on_which_a_run_would_be_invalid_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    done = call(monkeypatch, examined(swap=True), "-o", "json")
    rows = {row["gate"]: row for row in json.loads(done.stdout)["gates"]}
    assert done.exit_code == 1
    assert set(rows) == {gate.name for gate in GATES}
    assert (rows["swap"]["state"], rows["steal"]["state"]) == ("invalid", "ok")
    assert all(row["why"] and row["remedy"] for row in rows.values())
