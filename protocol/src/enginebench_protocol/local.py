"""One engine in this process, without an orchestrator: load it, time requests, summarise them.

The same calls and the same stamps as under the orchestrator; what is missing is isolation, the fidelity gate and
repetition over launches.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .engine import Engine
from .host import cache_folder
from .messages import Load, Loaded
from .prompts import prompt_ids
from .serve import timed_generate
from .timing import RequestTiming


@dataclass(frozen=True)
class BenchPlan:
    """What to run: the fields that a recorded case needs to be repeated."""

    configuration: str
    model_path: Path
    device: str
    threads: int
    n_ctx: int
    n_prompt: int
    n_gen: int
    warmup: int
    iterations: int
    seed: int
    options: Mapping[str, str] = field(default_factory=dict)
    """Load.options"""
    shards: int = 1


@dataclass(frozen=True)
class BenchResult:
    loaded: Loaded
    load_ns: int
    warmup: list[RequestTiming]
    measured: list[RequestTiming]

    def summary(self) -> dict[str, float | None]:
        """Medians over the measured requests; the keys are the suite's metric names."""
        first = (self.warmup or self.measured)[0]
        tpot = [t.tpot_ns for t in self.measured if t.tpot_ns is not None]
        return {
            "load_ns": float(self.load_ns),
            "first_request_ttft_ns": float(first.ttft_ns),
            "ttft_ns": statistics.median(t.ttft_ns for t in self.measured),
            "tpot_ns": statistics.median(tpot) if tpot else None,
            "prefill_tps": statistics.median(t.prefill_tps for t in self.measured),
            "decode_tps": 1e9 / statistics.median(tpot) if tpot else None,
        }


def load(engine: Engine, plan: BenchPlan, scratch: Path, progress: Callable[[str, float], None]) -> Loaded:
    cache = cache_folder() / "kernels" / engine.name
    cache.mkdir(parents=True, exist_ok=True)
    return engine.load(
        Load(
            id=1,
            configuration=plan.configuration,
            model_path=str(plan.model_path),
            n_ctx=plan.n_ctx,
            device=plan.device,
            threads=plan.threads,
            cache=str(cache),
            scratch=str(scratch),
            options=dict(plan.options),
            shards=plan.shards,
        ),
        progress,
    )


def bench(engine: Engine, plan: BenchPlan, progress: Callable[[str, float], None]) -> BenchResult:
    """Load, warm up, measure. Raises EngineFailure."""
    with tempfile.TemporaryDirectory(prefix="enginebench-") as scratch:
        started = time.perf_counter_ns()
        loaded = load(engine, plan, Path(scratch), progress)
        load_ns = time.perf_counter_ns() - started
        timings = [
            _request(engine, plan, iteration, loaded.vocab_size) for iteration in range(plan.warmup + plan.iterations)
        ]
    return BenchResult(loaded, load_ns, timings[: plan.warmup], timings[plan.warmup :])


def _request(engine: Engine, plan: BenchPlan, iteration: int, vocab_size: int) -> RequestTiming:
    prompt = prompt_ids(plan.seed, iteration, plan.n_prompt, vocab_size)
    _, start_ns, times = timed_generate(engine, prompt, plan.n_gen)
    return RequestTiming(plan.n_prompt, start_ns, times)
