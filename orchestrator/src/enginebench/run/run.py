"""A run from start to end: choose, locate, install, admit, time, judge, store.

Bad input is refused before anything is spawned or written. After that every failure is a row of the result.
"""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from enginebench_protocol.host import cache_folder, default_device

from enginebench.errors import UnavailableError, UsageError
from enginebench.judge.assemble import CaseFacts, assemble
from enginebench.judge.evidence import spoiled
from enginebench.judge.giving_up import given_up
from enginebench.judge.stopping import Look, look
from enginebench.judge.verdicts import Candidate, decode_times
from enginebench.machine import facts as machine
from enginebench.machine.devices import device_count
from enginebench.machine.energy import energy_counters
from enginebench.machine.noise import noise
from enginebench.machine.watch import Watch
from enginebench.plan.fit import Demand
from enginebench.plan.plan import Plan, Preset
from enginebench.plan.schedule import Cost, Fit, cost_of, fit
from enginebench.plan.sharding import check_devices, sharded
from enginebench.plan.sweep import cases
from enginebench.store.aa_floor import floors, place_of
from enginebench.store.anonymous import without_login
from enginebench.store.journal import Journal
from enginebench.store.manifest import seal
from enginebench.store.record import (
    Case,
    Kind,
    Launch,
    Workload,
)
from enginebench.store.result import write_result
from enginebench.workspace import discovery, environment
from enginebench.workspace.discovery import EngineInfo
from enginebench.workspace.environment import Interpreter
from enginebench.workspace.selection import Selection, selected

from .admission import cannot_run, demand
from .launcher import Launcher, TaintedMachine
from .model import Model
from .process import Watchdog, become_subreaper
from .progress import ProgressBar


@dataclass(frozen=True)
class RunRequest:
    """What the user asked for, checked for form only."""

    names: tuple[str, ...]
    preset: Preset
    workloads: tuple[Workload, ...]
    device: str
    threads: int
    seed: int
    results: Path
    silence_seconds: float
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Engine → settings that only it has."""
    overrides: Mapping[str, Path] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    """The words that were typed, for the manifest."""
    thread_counts: tuple[int, ...] = ()
    """Swept, if there are several; each is then part of a case."""
    precisions: tuple[str, ...] = ()
    """Only configurations of these; empty: all."""
    shards: int = 1
    """Devices, or ranks on one processor, that share each model."""
    fair: bool = True
    """Compare within one precision class; False: each engine as it comes out of the box."""
    quantisations: tuple[str, ...] = ()
    without: tuple[tuple[str, str], ...] = ()
    """As in `workspace.selection`."""
    energy: bool = False
    """Make an energy launch of each case, where anything counts energy."""
    profile: bool = False
    """Make a profile launch of each case whose engine has a profiler."""
    debug: bool = False
    """Show what passes between us and the engines, and what they write to stderr."""


def choose(request: RunRequest) -> list[tuple[EngineInfo, str]]:
    """The engines and configurations asked for. Raises UsageError on a name that does not exist, or a missing GPU."""
    if request.device == "cuda" and default_device() != "cuda":
        raise UsageError("no device `cuda`: no NVIDIA driver is loaded on this machine; use --device cpu")
    check_devices(request.shards, request.device, device_count(request.device))
    wish = Selection(request.names, request.fair, request.quantisations, request.without)
    chosen = selected(wish, discovery.discover())
    if not request.precisions:
        return chosen
    kept = [(i, c) for i, c in chosen if i.role != "engine" or i.configurations[c].precision in request.precisions]
    if all(info.role == "instrument" for info, _ in kept):
        raise UsageError(f"no configuration that was asked for computes in {' or '.join(request.precisions)}")
    return kept


def demand_of(request: RunRequest, chosen: list[tuple[EngineInfo, str]]) -> Demand:
    return demand(chosen, request.workloads, request.device, request.shards, request.options)


def plan_of(request: RunRequest, chosen: list[tuple[EngineInfo, str]], models: Collection[str]) -> Plan:
    names = [(info.name, configuration) for info, configuration in chosen]
    product = cases(names, list(models), request.workloads, request.thread_counts)
    instruments = {info.name for info, _ in chosen if info.role == "instrument"}
    return Plan(request.preset, sharded(product, request.shards, instruments), request.seed)


class Run:
    """The state of one run: what is known of each case, and the journal that outlives us."""

    def __init__(
        self, request: RunRequest, chosen: list[tuple[EngineInfo, str]], models: Mapping[str, Model], bar: ProgressBar
    ) -> None:
        self.request = request
        self.models = models
        self.bar = bar
        self.plan = plan_of(request, chosen, models)
        infos = {info.name: info for info, _ in chosen}
        self.infos = {case.id: infos[case.engine] for case in self.plan.cases}
        self.unavailable: dict[str, str] = {}
        self.interpreters: dict[str, Interpreter] = {}
        """By the name of the environment."""
        self.left_out: list[str] = []
        self.looks: list[Look] = []
        self.run_id = f"{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.folder = request.results / self.run_id

    def execute(self) -> Path:
        """Run everything; returns the path of result.json. An interrupt keeps what was measured."""
        self._install()
        self.folder.mkdir(parents=True)
        become_subreaper()
        facts, before = machine.environment(), noise()
        self.environment, self.floors = facts, floors(cache_folder())
        self.counters = energy_counters(self.request.device)
        facts |= {"energy_counters": [c.name for c in self.counters.found], "energy_lack": self.counters.lack}
        self.fit = Fit(self.request.preset.launches, self.request.preset.iterations, self.request.preset.warmup, ())
        watchdog = Watchdog()
        with Journal.create(self.folder / "journal", self._header(facts)) as journal:
            self.launcher = self._launcher(watchdog, journal)
            try:
                self._launch_all()
            except KeyboardInterrupt:
                self.left_out.append("the rest: interrupted")
            except TaintedMachine as tainted:
                self.left_out.append(f"the rest: {tainted}")
            finally:
                watchdog.close()
        facts = {**facts, "noise_before": before, "noise_after": noise()}
        return self._store(facts)

    def _install(self) -> None:
        """Interpreters for every engine that can run here; a reason for each that cannot."""
        reasons: dict[str, str] = {}
        for case in self.plan.cases:
            info = self.infos[case.id]
            name = self._environment(case)
            reason = reasons.get(name) or self._cannot_run(case)
            if reason is None and name not in self.interpreters:
                try:
                    self.interpreters[name] = environment.prepare(
                        info, self.request.overrides, self.bar.note, extra=self._extra(case)
                    )
                except UnavailableError as error:
                    reason = reasons[name] = str(error)
            if reason is not None:
                self.unavailable[case.id] = reason

    def _cannot_run(self, case: Case) -> str | None:
        info = self.infos[case.id]
        options = self.request.options.get(info.name, {})
        return cannot_run(info, case, self.models[case.model].checkpoint, self.request.device, options)

    def _launch_all(self) -> None:
        started = time.monotonic()
        runnable = [case for case in self.plan.cases if case.id not in self.unavailable]
        costs = {}
        for order, case in enumerate(runnable):
            self.bar.begin(f"check  {self.launcher.shown(case)}", order, len(runnable))
            launch = self._launch(case, "check", 0, order)
            if launch.ok and (launch.fidelity is None or launch.fidelity.passed):
                costs[case.id] = cost_of(launch)
        self.fit = self._fit(list(costs.values()), started)
        self.left_out += self.fit.left_out
        self._timed_blocks(costs, started)
        self._energy_pass(self._standing(case for case in runnable if case.id in costs))
        self._cold_blocks(costs, started)
        self._profile_pass(self._standing(case for case in runnable if case.id in costs))

    def _standing(self, cases: Iterable[Case]) -> list[Case]:
        """Without those that are given up."""
        return [case for case in cases if given_up(self.launcher.of_case(case)) is None]

    def _fit(self, costs: list[Cost], started: float) -> Fit:
        budget = self.request.preset.time_budget_seconds
        left = None if budget is None else budget - (time.monotonic() - started)
        return fit(self.request.preset, costs, left)

    def _timed_blocks(self, costs: dict[str, Cost], started: float) -> None:
        per_case = {id_: cost.launch_seconds(self.fit.warmup, self.fit.iterations) for id_, cost in costs.items()}
        self.bar.expect(sum(per_case.values()) * self.fit.launches)
        budget = self.request.preset.time_budget_seconds
        number = 0
        while number < self.fit.launches:
            block = self._standing(case for case in self.plan.block(number) if case.id in costs)
            expected_end = time.monotonic() - started + sum(per_case.values())
            if number > 0 and budget is not None and expected_end > budget:
                self._end_of_budget(number)
                return
            for order, case in enumerate(block):
                title = f"launch {number + 1}/{self.fit.launches}  {self.launcher.shown(case)}"
                self.bar.begin(title, number * len(block) + order, self.fit.launches * len(block))
                launch = self._launch(case, "timed", number, order)
                if spoiled(launch) and (budget is None or time.monotonic() - started + per_case[case.id] < budget):
                    self.bar.note(f"{self.launcher.shown(case)}: {spoiled(launch)}: the launch is repeated, once")
                    self._launch(case, "timed", number, order)
            number += 1
            if number == self.fit.launches:
                self._look(costs)

    def _end_of_budget(self, done: int) -> None:
        if self.looks:
            self.looks.append(msgspec.structs.replace(self.looks[-1], launches=done, why="the time budget was spent"))
            self.fit = replace(self.fit, launches=done)
            return
        missing = self.fit.launches - done
        self.left_out.append(f"{missing} further launches per case: the others took longer than expected")

    def _look(self, costs: Collection[str]) -> None:
        """Extends the run by whole blocks if its ratios are not known well enough yet."""
        preset = self.request.preset
        if preset.stopping is None or self.fit.launches < preset.launches:
            return
        candidates = [
            Candidate(case, self.infos[case.id].role, self.launcher.of_case(case), fair=self.request.fair)
            for case in self.plan.cases
            if case.id in costs
        ]
        found = look(preset.stopping, decode_times(candidates), self.fit.launches)
        self.looks.append(found)
        if found.why is None:
            further = min(preset.stopping.most, self.fit.launches + preset.stopping.step)
            self.bar.note(f"ratios are known to ±{found.half_width or 0:.1%} only: on to {further} launches")
            self.fit = replace(self.fit, launches=further)

    def _energy_pass(self, cases: list[Case]) -> None:
        """One launch of each case, where it was asked for and anything counts energy here."""
        if not (self.request.energy and self.counters.found):
            return
        if self.request.device == "cuda" and self.request.shards > 1:
            self.left_out.append("energy: the counter of one GPU is read, several share the model")
            return
        for number, case in enumerate(cases):
            self.bar.begin(f"energy  {self.launcher.shown(case)}", number, len(cases))
            self._launch(case, "energy", 0, number)

    def _profile_pass(self, cases: list[Case]) -> None:
        """One launch of each case, where it was asked for and its engine has a profiler."""
        for number, case in enumerate(cases if self.request.profile else ()):
            if self.infos[case.id].profiles:
                self.bar.begin(f"profile  {self.launcher.shown(case)}", number, len(cases))
                self._launch(case, "profile", 0, number)
            elif self.infos[case.id].role == "engine":
                self.bar.note(f"{self.launcher.shown(case)}: this engine has no profiler")

    def _cold_blocks(self, costs: dict[str, Cost], started: float) -> None:
        """Last, so that evicting the models disturbs no timed launch. Their orders go on where the timed blocks end."""
        wanted, budget = self.request.preset.cold_launches, self.request.preset.time_budget_seconds
        block_seconds = sum(cost.launch_seconds(self.fit.warmup, 1) for cost in costs.values())
        for number in range(wanted):
            if budget is not None and time.monotonic() - started + block_seconds > budget:
                self.left_out.append(f"{wanted - number} of {wanted} disk-cold launches per case")
                return
            block = self._standing(case for case in self.plan.block(self.fit.launches + number) if case.id in costs)
            for order, case in enumerate(block):
                self.bar.begin(f"disk-cold {number + 1}/{wanted}  {self.launcher.shown(case)}", order, len(block))
                self._launch(case, "cold", number, order)

    def _launcher(self, watchdog: Watchdog, journal: Journal) -> Launcher:
        request = self.request
        return Launcher(
            infos=self.infos,
            models=self.models,
            interpreter_of=lambda case: self.interpreters[self._environment(case)],
            device=request.device,
            threads=request.threads,
            seed=request.seed,
            silence_seconds=request.silence_seconds,
            options=request.options,
            workloads=request.workloads,
            watch=Watch.of_device(request.device),
            counters=self.counters,
            bar=self.bar,
            watchdog=watchdog,
            folder=self.folder,
            tell=self.bar.note if request.debug else None,
            journal=journal,
        )

    def _launch(self, case: Case, kind: Kind, block: int, number: int) -> Launch:
        return self.launcher.launch(case, kind, block, number, self.fit)

    def _header(self, facts: dict[str, Any]) -> dict[str, Any]:
        cases = msgspec.to_builtins(self._case_facts())
        return {"run_id": self.run_id, "environment": facts, "plan": self._plan_facts(), "cases": cases}

    def _plan_facts(self) -> dict[str, Any]:
        return {
            "preset": self.plan.preset.name,
            "verdicts": self.plan.preset.verdicts,
            "fair_comparison": self.request.fair,
            "seed": self.plan.seed,
            "device": self.request.device,
            "threads": self.request.threads,
            "shards": self.request.shards,
            "options": {
                engine: {name: without_login(value) for name, value in options.items()}
                for engine, options in self.request.options.items()
            },
            "launches": self.fit.launches,
            "iterations": self.fit.iterations,
            "warmup": self.fit.warmup,
            "cold_launches": self.plan.preset.cold_launches,
            "time_budget_s": self.plan.preset.time_budget_seconds,
            "models": [model.facts for model in self.models.values()],
            "workloads": [_workload_facts(workload) for workload in self.request.workloads],
            "stopping": self._stopping(),
            "blocks": [[case.id for case in self.plan.block(b)] for b in range(self.fit.launches)],
            "left_out": self.left_out,
        }

    def _stopping(self) -> dict[str, Any] | None:
        rule = self.request.preset.stopping
        return None if rule is None else {**asdict(rule), "looks": msgspec.to_builtins(self.looks)}

    def _store(self, facts: dict[str, Any]) -> Path:
        result = assemble(self.run_id, facts, self._plan_facts(), self._case_facts(), self.launcher.launches)
        path = self.folder / "result.json"
        write_result(path, result)
        seal(self.folder, self.run_id, self.request.command, (facts["repository"] or {}).get("commit"))
        return path

    def _case_facts(self) -> list[CaseFacts]:
        return [
            CaseFacts(
                case=case,
                role=self.infos[case.id].role,
                unavailable=self.unavailable.get(case.id),
                pins_sha256=self._interpreter_of(case, "pins_sha256"),
                versions=dict(self._interpreter_of(case, "versions") or {}),
                compares=dict(self.infos[case.id].configurations[case.configuration].compares),
                aa_floors=self._floor(case),
            )
            for case in self.plan.cases
        ]

    def _floor(self, case: Case) -> dict[str, float]:
        """What the self-test found on this machine; nothing where it did not look."""
        found = self.floors.get(place_of(case, self.environment, self.request.device, self.request.threads))
        return found.shares if found else {}

    def _interpreter_of(self, case: Case, name: str) -> Any:
        interpreter = self.interpreters.get(self._environment(case))
        return getattr(interpreter, name) if interpreter else None

    def _extra(self, case: Case) -> str:
        return self.infos[case.id].configurations[case.configuration].extra

    def _environment(self, case: Case) -> str:
        return environment.environment_name(self.infos[case.id], self._extra(case))


def _workload_facts(workload: Workload) -> dict[str, Any]:
    return {
        "name": workload.name,
        "n_prompt": workload.n_prompt,
        "n_gen": workload.n_gen,
        "n_depth": workload.n_depth,
        "batch_size": workload.batch_size,
        "n_ctx": workload.n_ctx,
    }
