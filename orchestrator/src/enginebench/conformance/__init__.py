"""The conformance suite of the protocol, run against any program that claims to speak it (docs/protocol.md).

A few launches (launch.py), each a list of named steps: a whole life of an engine (life.py), and the ways in which it
has to end (endings.py). Speed is not looked at, nor is the quality of the logits: that is the fidelity gate.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from enginebench.conformance.endings import ENDINGS
from enginebench.conformance.launch import Check, Launch, Subject
from enginebench.conformance.life import Life
from enginebench.run.guard import Watchdog
from enginebench.workspace.discovery import EngineInfo

__all__ = ["Check", "run_conformance"]

LAUNCHES: tuple[type[Launch], ...] = (Life, *ENDINGS)


def run_conformance(
    command: Sequence[str],
    model_path: Path,
    info: EngineInfo | None,
    configuration: str | None = None,
    watchdog: Watchdog | None = None,
) -> list[Check]:
    """`command` starts the engine, before the arguments of the protocol. `info`: its table, if it has one.

    Engines that are instruments or tests (role) need no logits; those for tests need no model either.
    """
    subject = Subject(tuple(command), model_path, info, configuration, watchdog)
    checks: list[Check] = []
    for launch in LAUNCHES:
        folder = watchdog.folder if watchdog else None
        with tempfile.TemporaryDirectory(prefix="enginebench-conform-", dir=folder) as scratch:
            checks += launch(subject, Path(scratch)).checks()
    return checks
