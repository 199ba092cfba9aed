"""One launch after another of the cases of a run: what each is told, where it starts from, who judges its logits.

Which launches there are, and in which order, is decided in `run`; how one goes, in `launch`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from enginebench_models.fidelity import probe_ids

from enginebench.judge import fidelity_gate
from enginebench.judge.greedy import with_greedy
from enginebench.machine.energy import Counters, Meter
from enginebench.machine.watch import Watch
from enginebench.plan.schedule import Fit
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
from .launch import Judge, LaunchOrder, run_launch
from .model import Model
from .process import Watchdog
from .progress import ProgressBar


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
    journal: Journal
    launches: list[Launch] = field(default_factory=list)

    def launch(self, case: Case, kind: Kind, block: int, number: int, fit: Fit) -> Launch:
        """`number`: its place in the block. `fit`: how many requests it has."""
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
            probe=_probe(model) if judged else None,
            watch=self.watch,
            start_state=self._start_state(case, kind),
            meter=Meter(self.counters.found) if kind == "energy" else None,
        )
        launch = run_launch(
            order, self.interpreter_of(case), self.bar.say, self.watchdog, _judge_of(model) if judged else None
        )
        if info.role == "engine":
            check = next((c for c in self.launches if c.case == case and c.kind == "check"), None)
            launch = with_greedy(launch, check, model.checkpoint, self.seed)
        self.journal.append(launch)
        self.launches.append(launch)
        if launch.failure is not None:
            self.bar.note(f"{self.shown(case)}: {launch.failure.reason}: {launch.failure.message}")
        return launch

    def shown(self, case: Case) -> str:
        """Its label, and what else tells it from the other cases of this run."""
        model = f" {case.model}" if len(self.models) > 1 else ""
        workload = f" {case.workload.name}" if len(self.workloads) > 1 else ""
        return f"{case.label}{model}{workload}"

    def _start_state(self, case: Case, kind: Kind) -> StartState | None:
        checkpoint = self.models[case.model].checkpoint
        match kind:
            case "cold":
                return start_state.disk_cold(checkpoint, kernel_cache(self.infos[case.id]))
            case "timed":
                return start_state.cache_warm(checkpoint.files)
            case "check":
                checkpoint.give_back()  # pages that we map too would count half in the engine's PSS
                return None
            case "energy":
                return None


def _probe(model: Model) -> list[int]:
    return probe_ids(model.checkpoint.config.vocab_size, PROBE_PREFILL + PROBE_DECODE)


def _judge_of(model: Model) -> Judge:
    """Logits of one launch against the reference of its model."""

    def judge(logits: Path, sha256: str, n_rows: int, loaded: LoadedFacts) -> FidelityReading:
        return fidelity_gate.judge(
            model.checkpoint,
            _probe(model),
            PROBE_PREFILL,
            logits,
            sha256,
            n_rows,
            loaded.precision,
            top_logprobs=loaded.top_logprobs,
        )

    return judge
