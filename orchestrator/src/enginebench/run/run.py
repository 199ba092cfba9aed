"""A run from start to end: choose, locate, install, admit, time, judge, store.

Bad input is refused before anything is spawned or written. After that every failure is a row of the result.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
from enginebench_protocol.host import cache_folder

from enginebench.errors import StorageError, UnavailableError
from enginebench.judge.assemble import CaseFacts, assemble
from enginebench.judge.evidence import spoiled
from enginebench.judge.giving_up import given_up
from enginebench.judge.stopping import Look, look
from enginebench.judge.verdicts import Candidate, decode_times
from enginebench.machine import facts as machine
from enginebench.machine.energy import energy_counters
from enginebench.machine.noise import noise
from enginebench.machine.watch import Watch
from enginebench.plan.schedule import Cost, Fit, cost_of, fit
from enginebench.store import files
from enginebench.store.aa_floor import floors, place_of
from enginebench.store.anonymous import without_login
from enginebench.store.journal import Journal, resumed_now
from enginebench.store.manifest import seal, unseal
from enginebench.store.record import Case, Kind, Launch
from enginebench.store.result import write_result
from enginebench.store.run_folder import JOURNAL, RESULT
from enginebench.workspace import environment
from enginebench.workspace.discovery import EngineInfo
from enginebench.workspace.environment import Interpreter

from .admission import cannot_run
from .guard import Watchdog
from .interrupts import Interrupts
from .launcher import Launcher, TaintedMachine
from .limits import Ladder
from .model import Model
from .process import become_subreaper, sweep_descendants
from .progress import ProgressBar
from .request import RunRequest, journalled, plan_of, workload_facts
from .resume import Begun, refuse_other, remarks
from .spent import Spent


class Run:
    """The state of one run: what is known of each case, and the journal that outlives us."""

    def __init__(
        self,
        request: RunRequest,
        chosen: list[tuple[EngineInfo, str]],
        models: Mapping[str, Model],
        bar: ProgressBar,
        interrupts: Interrupts | None = None,
        begun: Begun | None = None,
    ) -> None:
        """`begun`: go on with this run."""
        self.request = request
        self.models = models
        self.bar = bar
        self.interrupts = interrupts or Interrupts()
        self.begun = begun
        self.plan = plan_of(request, chosen, models)
        infos = {info.name: info for info, _ in chosen}
        self.infos = {case.id: infos[case.engine] for case in self.plan.cases}
        self.unavailable: dict[str, str] = {}
        self.interpreters: dict[str, Interpreter] = {}
        """By the name of the environment."""
        self.left_out: list[str] = []
        self.looks: list[Look] = []
        self.interrupted = False
        self.spent = Spent()
        self.fit = Fit(request.preset.launches, request.preset.iterations, request.preset.warmup, ())
        self.run_id = begun.run_id if begun else f"{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.folder = begun.folder if begun else request.results / self.run_id

    def execute(self) -> Path:
        """Run everything; returns the path of result.json. An interrupt keeps what was measured.

        Raises UsageError if a run that was begun cannot go on here, StorageError if the disk fails.
        """
        become_subreaper()
        with Watchdog() as watchdog:
            try:
                return self._executed(watchdog)
            finally:
                sweep_descendants(keep={watchdog.pid}, seconds=Ladder().sweep)

    def _executed(self, watchdog: Watchdog) -> Path:
        self._install(watchdog)
        self.counters = energy_counters(self.request.device)
        self.environment, self.floors = self._environment_facts(), floors(cache_folder())
        self.cases = self._case_facts()
        with self._journal() as journal:
            try:
                self._launch_until_interrupted(watchdog, journal)
                return self._store()
            except StorageError as error:
                remedy = f"when that is repaired, `enginebench run --resume {self.folder}` goes on"
                raise StorageError(f"{error}. What was measured before is in the journal: {remedy}") from error

    def _environment_facts(self) -> dict[str, Any]:
        counters = {"energy_counters": [c.name for c in self.counters.found], "energy_lack": self.counters.lack}
        return {**machine.environment(), **counters, "noise_before": noise()}

    def _journal(self) -> Journal:
        """A new one; or that of the run that was begun, if this is the same experiment."""
        if self.begun is None:
            self._make_folder()
            return Journal.create(self.folder / JOURNAL, self._header())
        refuse_other(self.begun, self.environment, self._plan_facts()["models"], self.cases)
        resumed = resumed_now(len(self.begun.content.launches), remarks(self.begun, self.environment))
        self.environment, self.cases = self.begun.environment, self.begun.cases
        self.unavailable = {facts.case.id: facts.unavailable for facts in self.cases if facts.unavailable is not None}
        unseal(self.folder)
        self.begun.journal.append(resumed)
        self.begun.content.resumed.append(resumed)
        return self.begun.journal

    def _make_folder(self) -> None:
        try:
            files.make_folder(self.folder)
        except OSError as error:
            raise files.failed(error, f"make a folder {self.run_id}", self.request.results) from error

    def _launch_until_interrupted(self, watchdog: Watchdog, journal: Journal) -> None:
        self.spent = Spent()
        self.launcher = self._launcher(watchdog, journal)
        try:
            self._launch_all()
        except KeyboardInterrupt:
            self.interrupted = True
            self.left_out.append("the rest: interrupted")
        except TaintedMachine as tainted:
            self.interrupted = True
            self.left_out.append(f"the rest: {tainted}")
        except OSError as error:
            if error.errno not in files.FAULTS:
                raise
            folder = Path(error.filename).parent if error.filename else self.folder
            raise files.failed(error, "write", folder) from error
        finally:
            self.interrupts.hold()

    def _install(self, watchdog: Watchdog) -> None:
        """Interpreters for every engine that can run here; a reason for each that cannot."""
        reasons: dict[str, str] = {}
        for case in self.plan.cases:
            info = self.infos[case.id]
            name = self._environment(case)
            reason = reasons.get(name) or self._cannot_run(case)
            if reason is None and name not in self.interpreters:
                try:
                    self.interpreters[name] = environment.prepare(
                        info, self.request.overrides, self.bar.note, extra=self._extra(case), watchdog=watchdog
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
        runnable = [case for case in self.plan.cases if case.id not in self.unavailable]
        costs = {}
        for order, case in enumerate(runnable):
            self._begin(f"check  {self.launcher.shown(case)}", order, len(runnable))
            launch = self._launch(case, "check", 0, order)
            if launch.ok and (launch.fidelity is None or launch.fidelity.passed):
                costs[case.id] = cost_of(launch)
        self.fit = self._fit(list(costs.values()))
        self.left_out += self.fit.left_out
        self._timed_blocks(costs)
        self._energy_pass(self._standing(case for case in runnable if case.id in costs))
        self._cold_blocks(costs)
        self._profile_pass(self._standing(case for case in runnable if case.id in costs))

    def _standing(self, cases: Iterable[Case]) -> list[Case]:
        """Without those that are given up."""
        return [case for case in cases if given_up(self.launcher.of_case(case)) is None]

    def _fit(self, costs: list[Cost]) -> Fit:
        budget = self.request.preset.time_budget_seconds
        left = None if budget is None else budget - self.spent.seconds
        return fit(self.request.preset, costs, left)

    def _timed_blocks(self, costs: dict[str, Cost]) -> None:
        per_case = {id_: cost.launch_seconds(self.fit.warmup, self.fit.iterations) for id_, cost in costs.items()}
        blocks_done = sum(launch.kind == "timed" for launch in self.launcher.recorded) / max(1, len(costs))
        self.bar.expect(sum(per_case.values()) * (self.fit.launches - blocks_done))
        budget = self.request.preset.time_budget_seconds
        number = 0
        while number < self.fit.launches:
            block = self._standing(case for case in self.plan.block(number) if case.id in costs)
            expected_end = self.spent.seconds + sum(per_case.values())
            if number > 0 and budget is not None and expected_end > budget:
                self._end_of_budget(number)
                return
            for order, case in enumerate(block):
                title = f"launch {number + 1}/{self.fit.launches}  {self.launcher.shown(case)}"
                self._begin(title, number * len(block) + order, self.fit.launches * len(block))
                launch = self._launch(case, "timed", number, order)
                if spoiled(launch) and self._is_repeated(launch, per_case[case.id]):
                    if not self.launcher.recorded:
                        self.bar.note(f"{self.launcher.shown(case)}: {spoiled(launch)}: the launch is repeated, once")
                    self._launch(case, "timed", number, order)
            number += 1
            if number == self.fit.launches:
                self._look(costs)

    def _is_repeated(self, launch: Launch, seconds: float) -> bool:
        """If there is time; what was done already decides for itself."""
        if self.launcher.recorded:
            return self.launcher.is_next(launch)
        budget = self.request.preset.time_budget_seconds
        return budget is None or self.spent.seconds + seconds < budget

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
            self._begin(f"energy  {self.launcher.shown(case)}", number, len(cases))
            self._launch(case, "energy", 0, number)

    def _profile_pass(self, cases: list[Case]) -> None:
        """One launch of each case, where it was asked for and its engine has a profiler."""
        for number, case in enumerate(cases if self.request.profile else ()):
            if self.infos[case.id].profiles:
                self._begin(f"profile  {self.launcher.shown(case)}", number, len(cases))
                self._launch(case, "profile", 0, number)
            elif self.infos[case.id].role == "engine":
                self.bar.note(f"{self.launcher.shown(case)}: this engine has no profiler")

    def _cold_blocks(self, costs: dict[str, Cost]) -> None:
        """Last, so that evicting the models disturbs no timed launch. Their orders go on where the timed blocks end."""
        wanted, budget = self.request.preset.cold_launches, self.request.preset.time_budget_seconds
        block_seconds = sum(cost.launch_seconds(self.fit.warmup, 1) for cost in costs.values())
        for number in range(wanted):
            if budget is not None and self.spent.seconds + block_seconds > budget:
                self.left_out.append(f"{wanted - number} of {wanted} disk-cold launches per case")
                return
            block = self._standing(case for case in self.plan.block(self.fit.launches + number) if case.id in costs)
            for order, case in enumerate(block):
                self._begin(f"disk-cold {number + 1}/{wanted}  {self.launcher.shown(case)}", order, len(block))
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
            interrupts=self.interrupts,
            spent=self.spent,
            recorded=list(self.begun.content.launches) if self.begun else [],
        )

    def _begin(self, title: str, done: int, total: int) -> None:
        """Silent on the way to where an earlier process was interrupted."""
        if not self.launcher.recorded:
            self.bar.begin(title, done, total)

    def _launch(self, case: Case, kind: Kind, block: int, number: int) -> Launch:
        return self.launcher.launch(case, kind, block, number, self.fit)

    def _header(self) -> dict[str, Any]:
        cases = msgspec.to_builtins(self.cases)
        plan, asked = self._plan_facts(), journalled(self.request)
        return {"run_id": self.run_id, "environment": self.environment, "plan": plan, "cases": cases, "asked": asked}

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
            "workloads": [workload_facts(workload) for workload in self.request.workloads],
            "stopping": self._stopping(),
            "blocks": [[case.id for case in self.plan.block(b)] for b in range(self.fit.launches)],
            "left_out": self.left_out,
            "interrupted": self.interrupted,
            "resumed": msgspec.to_builtins(self.begun.content.resumed if self.begun else []),
        }

    def _stopping(self) -> dict[str, Any] | None:
        rule = self.request.preset.stopping
        return None if rule is None else {**asdict(rule), "looks": msgspec.to_builtins(self.looks)}

    def _store(self) -> Path:
        facts = {**self.environment, "noise_after": noise()}
        result = assemble(self.run_id, facts, self._plan_facts(), self.cases, self.launcher.all_launches)
        path = self.folder / RESULT
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
