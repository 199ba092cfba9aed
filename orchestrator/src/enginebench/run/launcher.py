"""One launch after another of the cases of a run: what each is told, where it starts from, who judges its logits.

Which launches there are, and in which order, is decided in `run`; how one goes, in `launch`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from enginebench_models.fidelity import probe_ids

from enginebench.judge import fidelity_gate
from enginebench.judge.greedy import with_greedy
from enginebench.judge.reference_weights import BadWeights, ReferenceWeights, Source
from enginebench.machine.energy import Counters, Meter
from enginebench.machine.watch import Watch
from enginebench.plan.schedule import Fit
from enginebench.store import profiles
from enginebench.store.journal import Journal
from enginebench.store.record import (
    PROBE_DECODE,
    PROBE_PREFILL,
    Case,
    FidelityReading,
    Kind,
    Launch,
    LoadedFacts,
    StartState,
)
from enginebench.workspace.discovery import EngineInfo
from enginebench.workspace.environment import Interpreter, kernel_cache

from . import start_state
from .guard import Watchdog
from .interrupts import Interrupts
from .launch import Judge, run_launch
from .model import Model
from .order import LaunchOrder
from .progress import ProgressBar
from .spent import Spent


class TaintedMachine(Exception):
    """A launch left something behind that cannot be removed: nothing may be timed any more."""


@dataclass
class Launcher:
    """Every launch is journalled when it returns, and kept in `launches`."""

    infos: Mapping[str, EngineInfo]
    """Case id → its engine."""
    models: Mapping[str, Model]
    interpreter_of: Callable[[Case], Interpreter]
    device: str
    threads: int
    seed: int
    silence_seconds: float
    options: Mapping[str, Mapping[str, str]]
    """Engine → settings that only it has."""
    workloads: Collection[object]
    watch: Watch
    counters: Counters
    bar: ProgressBar
    watchdog: Watchdog
    folder: Path
    """Of the run."""
    journal: Journal
    interrupts: Interrupts
    spent: Spent
    recorded: list[Launch]
    """What an earlier process of this run measured, in its order, as far as it was not asked for again."""
    tell: Callable[[str], None] | None = None
    """LaunchOrder.tell"""
    launches: list[Launch] = field(default_factory=list)
    weights: ReferenceWeights = field(default_factory=ReferenceWeights)

    def launch(self, case: Case, kind: Kind, block: int, number: int, fit: Fit) -> Launch:
        """`number`: its place in the block. `fit`: how many requests it has. Raises TaintedMachine."""
        if (known := self._recorded(case, kind, block, number)) is not None:
            self.spent.replayed(known.spent_ns or 0)
            self.launches.append(known)
            return known
        info, model = self.infos[case.id], self.models[case.model]
        judged = kind == "check" and info.role == "engine"
        order = LaunchOrder(
            case=case,
            kind=kind,
            block=block,
            order=number,
            module=info.module,
            model_path=model.located.path,
            device=self.device,
            threads=case.threads or self.threads,
            cache=kernel_cache(info),
            seed=self.seed,
            warmup=fit.warmup + (kind == "cold"),
            iterations=0 if kind == "cold" else fit.iterations,
            silence_seconds=self.silence_seconds,
            options=self.options.get(info.name, {}),
            vocab_size=model.checkpoint.config.vocab_size if info.role == "engine" else None,
            probe=_probe(model) if judged else None,
            watch=self.watch,
            start_state=self._start_state(case, kind),
            meter=Meter(self.counters.found) if kind == "energy" else None,
            tell=self.tell,
            profile_folder=profiles.folder_of(self.folder, case.id) if kind == "profile" else None,
        )
        judge = self._judge_of(model, order.cache) if judged else None
        launch = run_launch(order, self.interpreter_of(case), self.bar.say, self.watchdog, judge)
        if kind == "check" and made_weights_now(launch) and not launch.remains:
            self.bar.note(
                f"{self.shown(case)}: its file of weights is made; now it is checked as later launches find it"
            )
            self._start_state(case, kind)
            launch = run_launch(order, self.interpreter_of(case), self.bar.say, self.watchdog, judge)
        if info.role == "engine":
            launch = self._with_greedy(launch, model, order.cache)
        launch = msgspec.structs.replace(launch, spent_ns=self.spent.launched())
        with self.interrupts.held():
            self.journal.append(launch)
            self.launches.append(launch)
        if launch.failure is not None:
            self.bar.note(f"{self.shown(case)}: {launch.failure.reason}: {launch.failure.message}")
        if launch.remains:
            raise TaintedMachine(f"{self.shown(case)} left behind {', '.join(launch.remains)}")
        return launch

    def of_case(self, case: Case) -> list[Launch]:
        """The launches of a case so far."""
        return [launch for launch in self.launches if launch.case.id == case.id]

    def _recorded(self, case: Case, kind: Kind, block: int, number: int) -> Launch | None:
        for at, launch in enumerate(self.recorded):
            if launch.place == (case, kind, block, number):
                return self.recorded.pop(at)
        return None

    def is_next(self, launch: Launch) -> bool:
        """Whether the same was launched again after it."""
        return self.recorded[0].place == launch.place

    @property
    def all_launches(self) -> list[Launch]:
        """Those too that were not come to again, because the run was interrupted on its way there."""
        return [*self.launches, *self.recorded]

    def _with_greedy(self, launch: Launch, model: Model, folder: Path) -> Launch:
        """Of weights that are not the model's nothing counts: the gate says so for a check, a doubt for the others."""
        try:
            weights = self._weights(model, launch.loaded, folder)
        except BadWeights as error:
            return launch if launch.fidelity else msgspec.structs.replace(launch, doubts=[*launch.doubts, str(error)])
        return with_greedy(launch, self._check_of(launch.case), weights, self.seed)

    def _check_of(self, case: Case) -> Launch | None:
        return next((launch for launch in self.launches if launch.case == case and launch.kind == "check"), None)

    def _weights(self, model: Model, loaded: LoadedFacts | None, folder: Path) -> Source:
        return self.weights.of(model.checkpoint, loaded.weights_path if loaded else "", folder)

    def _judge_of(self, model: Model, folder: Path) -> Judge:
        """Logits of one launch against the reference of its model, or of the file that the engine made of it."""

        def judge(logits: Path, sha256: str, n_rows: int, loaded: LoadedFacts) -> FidelityReading:
            try:
                weights = self._weights(model, loaded, folder)
            except BadWeights as error:
                return fidelity_gate.unjudged(str(error), loaded.precision)
            return fidelity_gate.judge(
                model.checkpoint,
                _probe(model),
                PROBE_PREFILL,
                logits,
                sha256,
                n_rows,
                loaded.precision,
                top_logprobs=loaded.top_logprobs,
                made=None if weights is model.checkpoint else weights,
            )

        return judge

    def shown(self, case: Case) -> str:
        """Its label, and what else tells it from the other cases of this run."""
        model = f" {case.model}" if len(self.models) > 1 else ""
        workload = f" {case.workload.name}" if len(self.workloads) > 1 else ""
        return f"{case.label}{model}{workload}"

    def _start_state(self, case: Case, kind: Kind) -> StartState | None:
        checkpoint = self.models[case.model].checkpoint
        match kind:
            case "cold":
                self.weights.give_back()
                return start_state.disk_cold(checkpoint, kernel_cache(self.infos[case.id]))
            case "timed":
                return start_state.cache_warm(self._files(case))
            case "check":
                self.weights.give_back()
                checkpoint.give_back()  # pages that we map too would count half in the engine's PSS
                return None
            case "energy" | "profile":
                return None

    def _files(self, case: Case) -> list[Path]:
        """What the engine reads: the model, or what it made of it."""
        check, model = self._check_of(case), self.models[case.model]
        with suppress(BadWeights):
            loaded = check.loaded if check else None
            return self._weights(model, loaded, kernel_cache(self.infos[case.id])).files
        return model.checkpoint.files


def made_weights_now(launch: Launch) -> bool:
    """Memory and load time were then those of quantising, which happens once."""
    return launch.loaded is not None and bool(launch.loaded.weights_path) and "convert" in launch.loaded.stages_ns


def _probe(model: Model) -> list[int]:
    return probe_ids(model.checkpoint.config.vocab_size, PROBE_PREFILL + PROBE_DECODE)
