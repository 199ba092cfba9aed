"""A run in this process, whose launches are made up and take no time: everything but engines is as it is.

Three cases (two of the engine of known speed and the instrument), each with a check, two timed and one cold launch.
"""

from __future__ import annotations

import functools
import zlib
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from enginebench.judge.stored_run import read_run
from enginebench.machine.energy import Counters
from enginebench.plan.plan import preset
from enginebench.run import launcher, request, run
from enginebench.run.interrupts import Interrupts
from enginebench.run.model import Model
from enginebench.run.order import LaunchOrder
from enginebench.run.request import RunRequest, choose
from enginebench.run.resume import Begun, find_begun
from enginebench.store import files
from enginebench.store.journal import Journal, read_journal
from enginebench.store.manifest import NAME, broken_seals, read_manifest
from enginebench.store.record import Launch
from enginebench.store.result import read_result
from enginebench.store.run_folder import JOURNAL, RESULT
from enginebench.workspace.discovery import discover
from enginebench.workspace.environment import Interpreter
from enginebench_models.catalogue import entry

from .conftest import Records

LAUNCHES = 12
QUIET = SimpleNamespace(begin=lambda *_: None, say=lambda _: None, note=lambda _: None, expect=lambda _: None)


def made_up(order: LaunchOrder, *_: Any) -> Launch:
    """What it says follows from what was asked, so that two runs say the same."""
    records = Records(order.case.workload)
    if order.kind == "check":
        return records.check(order.case, block=order.block, order=order.order)
    ms = 2 + zlib.crc32(order.case.id.encode()) % 5 + order.block / 8
    requests = [
        records.request(i, (10, 10 + ms, 10 + 2 * ms), warmup=i < order.warmup)
        for i in range(order.warmup + order.iterations)
    ]
    return records.timed(requests, order.case, kind=order.kind, block=order.block, order=order.order)


@dataclass
class SmallRun:
    """Machine, engines and launches are replaced while `patch` holds. `returned`: launches that are safe, in order."""

    patch: pytest.MonkeyPatch
    cache: Path

    def __post_init__(self) -> None:
        facts = {"fingerprint": "a" * 64, "format": "gguf", "file_bytes": 1000, "config": entry("tiny").config}
        self.shape = SimpleNamespace(**facts, give_back=lambda: None)
        self.returned: list[Launch] = []
        self.on_return: Any = lambda: None
        append = Journal.append
        here = self

        def noticed(journal: Journal, record: Any) -> None:
            append(journal, record)
            if isinstance(record, Launch):
                here.returned.append(record)
                here.on_return()

        interpreter = Interpreter(Path("python"), {}, "b" * 64, {"numpy": "2.4"})
        self.patch.setattr(Journal, "append", noticed)
        self.patch.setattr(launcher, "run_launch", made_up)
        self.patch.setattr(launcher, "kernel_cache", lambda _: self.cache)
        self.patch.setattr(launcher.Launcher, "_start_state", lambda *_: None)
        self.patch.setattr(run.environment, "prepare", lambda *_, **__: interpreter)
        self.patch.setattr(run.machine, "environment", Records().environment)
        self.patch.setattr(run, "energy_counters", lambda _: Counters((), ()))
        self.patch.setattr(run, "noise", lambda: None)
        self.patch.setattr(run, "floors", lambda _: {})
        for name, instead in (
            ("Watchdog", lambda: nullcontext(SimpleNamespace(pid=0))),
            ("become_subreaper", lambda: None),
        ):
            self.patch.setattr(run, name, instead)
        self.patch.setattr(run, "sweep_descendants", lambda keep, seconds: [])
        for sync in ("sync", "sync_folder"):
            self.patch.setattr(files, sync, lambda _: None)  # a process that is not killed needs none
        self.patch.setattr(request.discovery, "discover", functools.cache(discover))

    def request(self, results: Path, **changes: Any) -> RunRequest:
        little = replace(preset("smoke"), launches=2, iterations=1, cold_launches=1, workload=Records().workload)
        facts: dict[str, Any] = {"names": ("fake:default", "fake:slow"), "preset": little, "device": "cpu"}
        facts |= {"workloads": (little.workload,), "threads": 2, "seed": 0, "silence_seconds": 5.0, "models": ("tiny",)}
        return RunRequest(results=results, **{**facts, **changes})

    def run(self, results: Path, **changes: Any) -> Path:
        """The folder of the run. Whatever goes wrong is raised."""
        return self._execute(self.request(results, **changes), None)

    def resume(self, folder: Path) -> Path:
        with find_begun(folder.name, folder.parent) as begun:
            return folder if begun.finished else self._execute(begun.request, begun)

    def _execute(self, request: RunRequest, begun: Begun | None) -> Path:
        located: Any = SimpleNamespace(name="tiny", weights="synthetic", path=Path("tiny.gguf"))
        models = {"tiny": Model("tiny", located, self.shape)}  # type: ignore[arg-type]
        bar: Any = QUIET
        return run.Run(request, choose(request), models, bar, Interrupts(), begun).execute().parent


def essence(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what may differ between an uninterrupted run and one that was resumed."""
    plan = {name: value for name, value in result["plan"].items() if name != "resumed"}
    cases = [{**case, "launches": [timeless(launch) for launch in case["launches"]]} for case in result["cases"]]
    return {**result, "run_id": "", "plan": plan, "cases": cases}


def timeless(launch: dict[str, Any]) -> dict[str, Any]:
    return {**launch, "spent_ns": 0}


def complaint(folder: Path, safe: list[Launch], every: list[Launch], expected: dict[str, Any]) -> str | None:
    """What is wrong with what a crash has left. `safe`: whose append had returned; `every`: of the whole run."""
    if not (folder / JOURNAL).is_file():
        return "lost: the whole journal" if safe else None
    try:
        found = [launch.place for launch in read_journal(folder / JOURNAL).launches]
    except Exception as error:  # noqa: BLE001 (whatever it is, it is a finding)
        return f"lost: {error}" if safe else None
    if found[: len(safe)] != [launch.place for launch in safe]:
        return f"lost: {len(safe)} launches were safe, {len(found)} are read"
    if found != [launch.place for launch in every[: len(found)]] or len(found) > len(safe) + 1:
        return "half: something is read that was not written so"
    return _complaint_of_result(folder, expected)


def _complaint_of_result(folder: Path, expected: dict[str, Any]) -> str | None:
    try:
        if (folder / RESULT).is_file() and essence(read_result(folder / RESULT, sealed=True)) != expected:
            return f"half: {RESULT} is not the one that was written"
        manifest = read_manifest(folder)
        if manifest is not None and (broken := broken_seals(folder, manifest)):
            return f"half: {NAME} seals {broken}, which are not there so"
        read_run(folder)
    except Exception as error:  # noqa: BLE001
        return f"half: {error}"
    return None
