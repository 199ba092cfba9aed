"""Hand-written records: launches whose every timestamp is chosen, so that metrics have exact expected values."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from enginebench.judge.assemble import CaseFacts, assemble
from enginebench.run.process import become_subreaper
from enginebench.store.journal import Journal
from enginebench.store.manifest import seal
from enginebench.store.record import (
    Case,
    Failure,
    FidelityReading,
    Launch,
    LoadedFacts,
    MemoryReading,
    Request,
    Workload,
)
from enginebench.store.result import write_result
from enginebench_protocol.codec import pack_ids
from enginebench_protocol.prompts import ids_sha256, prompt_ids

FINGERPRINT = "a" * 64
VOCAB = 1000
MS = 1_000_000
WORKLOAD = Workload(n_prompt=4, n_gen=3)


@dataclass(frozen=True)
class Records:
    """Builds records of one small model. 4 prompt tokens and 3 generated ones unless told otherwise."""

    workload: Workload = WORKLOAD
    seed: int = 0

    def case(self, engine: str = "torch", configuration: str = "half") -> Case:
        return Case(engine=engine, configuration=configuration, model="m", workload=self.workload)

    def request(
        self, iteration: int, ms: Sequence[float], doubts: Sequence[str] = (), warmup: bool = False, **changes: Any
    ) -> Request:
        """`ms`: when each token was there, counted from the start of the request."""
        prompt = pack_ids(prompt_ids(self.seed, iteration, self.workload.n_prompt, VOCAB))
        return Request(
            phase="warm-up" if warmup else "measured",
            iteration=iteration,
            n_prompt=self.workload.n_prompt,
            prompt_sha256=ids_sha256(prompt),
            tokens_sha256="b" * 64,
            t_start_ns=1000,
            t_token_ns=[int(t * MS) for t in ms],
            clock_disagreement_ns=10_000,
            doubts=list(doubts),
            **changes,
        )

    def loaded(self, **changes: Any) -> LoadedFacts:
        facts: dict[str, Any] = {
            "weights_fingerprint": FINGERPRINT,
            "precision": "16-bit",
            "weight_dtype": "float16",
            "activation_dtype": "float16",
            "kv_dtype": "float16",
            "device": "cpu",
            "threads": 2,
            "n_ctx": 128,
            "vocab_size": VOCAB,
            "weights_bytes": 1000,
            "kv_cache_bytes": 256,
            "read_bytes_per_token": 900,
            "stages_ns": {"read": 5},
            "versions": {"torch": "2.15.0"},
        }
        return LoadedFacts(**{**facts, **changes})

    def timed(self, requests: Sequence[Request], case: Case | None = None, **changes: Any) -> Launch:
        """spawn → hello 100 ms, load 200 ms, first token 900 ms after the spawn."""
        facts: dict[str, Any] = {
            "case": case or self.case(),
            "kind": "timed",
            "block": 0,
            "order": 0,
            "started_at": "2026-01-02T03:04:05+00:00",
            "duration_ns": 5_000 * MS,
            "startup_ns": 100 * MS,
            "load_ns": 200 * MS,
            "cold_start_ns": 900 * MS,
            "loaded": self.loaded(),
            "requests": list(requests),
            "harness_cpu_share": 0.001,
        }
        return Launch(**{**facts, **changes})

    def check(self, case: Case | None = None, **changes: Any) -> Launch:
        """A passed admission: peak 2000 bytes, of which 1000 weights and 256 cache."""
        memory = MemoryReading(
            peak_pss_bytes=2000,
            peak_pss_anon_bytes=1500,
            peak_pss_file_bytes=500,
            loaded_pss_bytes=1800,
            max_vm_hwm_bytes=2100,
            n_samples=40,
            engine_weights_bytes=1000,
            engine_kv_cache_bytes=256,
        )
        given = {"kind": "check", "memory": memory, "fidelity": self.fidelity(), **changes}
        return self.timed([self.request(0, (9, 10, 11), warmup=True)], case, **given)

    def fidelity(self, passed: bool = True, precision: str = "16-bit", **changes: Any) -> FidelityReading:
        return FidelityReading(
            passed=passed,
            reasons=[] if passed else ["mean KL divergence 0.5 > 0.001 nat"],
            precision=precision,
            n_positions=65,
            mean_kld=1e-5 if passed else 0.5,
            max_kld=2e-5 if passed else 0.9,
            top1=1.0,
            max_abs_logit=3e-4,
            **changes,
        )

    def failure(self, **changes: Any) -> Failure:
        facts: dict[str, Any] = {"reason": "hang", "message": "no answer for 5 s", "stage": "load"}
        return Failure(**{**facts, **changes})

    def environment(self) -> dict[str, Any]:
        return {
            "date": "2026-01-02T03:04:05+00:00",
            "cpu": {
                "model": "Some CPU",
                "architecture": "x86_64",
                "logical": 2,
                "physical": 1,
                "allowed": 2,
                "governor": None,
                "turbo": None,
                "max_frequency_khz": None,
                "smt": True,
            },
            "memory_bytes": 8_000_000_000,
            "swap_bytes": 0,
            "kernel": "6.1",
            "distribution": "Some Linux",
            "python": "3.11.7",
            "clocksource": "tsc",
            "gpus": None,
            "repository": {"commit": "c" * 40, "dirty": False},
        }

    def plan(self, **changes: Any) -> dict[str, Any]:
        workload = self.workload
        plan: dict[str, Any] = {
            "preset": "quick",
            "verdicts": False,
            "seed": self.seed,
            "device": "cpu",
            "threads": 2,
            "launches": 1,
            "iterations": 2,
            "warmup": 1,
            "time_budget_s": 900.0,
            "models": [
                {
                    "name": "m",
                    "source": "m",
                    "weights": "synthetic",
                    "fingerprint": FINGERPRINT,
                    "format": "gguf",
                    "file_bytes": 1_234_000_000,
                    "shape": {"vocab_size": VOCAB, "dim": 64, "tied_embeddings": True},
                }
            ],
            "workloads": [
                {
                    "name": workload.name,
                    "n_prompt": workload.n_prompt,
                    "n_gen": workload.n_gen,
                    "n_depth": workload.n_depth,
                    "batch_size": workload.batch_size,
                    "n_ctx": workload.n_ctx,
                }
            ],
            "blocks": [["torch:half/m/pp4+tg3"]],
            "left_out": [],
        }
        return {**plan, **changes}


@pytest.fixture
def records() -> Records:
    return Records()


# ---- whole runs -----------------------------------------------------------------------------------------------


def timed(records: Records, case: Any, ms_per_token: Sequence[float], **changes: Any) -> list[Any]:
    """One launch for each number: 10 ms to the first token, then two gaps."""
    return [
        records.timed([records.request(0, (10, 10 + ms, 10 + 2 * ms))], case, block=block, **changes)
        for block, ms in enumerate(ms_per_token)
    ]


def write_run(
    records: Records,
    results: Path,
    run_id: str,
    cases: Mapping[str, Sequence[float]],
    sealed: bool = True,
    date: str | None = None,
    environment: Mapping[str, Any] | None = None,
    check: Mapping[str, Any] | None = None,
    launch: Mapping[str, Any] | None = None,
    **plan: Any,
) -> Path:
    """`cases`: engine:configuration → milliseconds per token of each launch."""
    folder = results / run_id
    folder.mkdir(parents=True)
    facts = [CaseFacts(records.case(*label.split(":")), "engine") for label in cases]
    machine = {**records.environment(), **(environment or {}), **({"date": date} if date else {})}
    most = max((len(ms) for ms in cases.values()), default=0)
    header = {
        "run_id": run_id,
        "environment": machine,
        "plan": records.plan(**{"launches": most, "iterations": 1, "warmup": 0, **plan}),
        "cases": msgspec.to_builtins(facts),
    }
    launches = []
    for fact, ms in zip(facts, cases.values(), strict=True):
        launches += [records.check(fact.case, **(check or {})), *timed(records, fact.case, ms, **(launch or {}))]
    with Journal.create(folder / "journal", header) as journal:
        for each in launches:
            journal.append(each)
    write_result(folder / "result.json", assemble(run_id, machine, header["plan"], facts, launches))
    if sealed:
        seal(folder, run_id, ["run", *cases], "c" * 40)
    return folder


@pytest.fixture
def stored_run(records: Records, tmp_path: Path) -> Callable[..., Path]:
    """stored_run(run_id, cases, …) → its folder below tmp_path, as `run` leaves it."""
    return functools.partial(write_run, records, tmp_path)


@pytest.fixture
def subreaper() -> Iterator[None]:
    """As in a run: orphans become children of this process."""
    become_subreaper()
    yield
    ctypes.CDLL(None).prctl(36, 0)  # PR_SET_CHILD_SUBREAPER


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group of version 1 with 64 MiB, for one child: the kernel really kills what needs more."""
    rows = (line.split(":") for line in Path("/proc/self/cgroup").read_text().splitlines())
    own = next((row[2] for row in rows if row[1] == "memory"), "")
    folder = Path("/sys/fs/cgroup/memory") / own.strip("/") / f"enginebench-test-{secrets.token_hex(4)}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(64 * 2**20))
    except OSError as error:
        pytest.skip(f"no memory control group can be made here: {error.strerror}")
    yield folder
    with contextlib.suppress(OSError):
        folder.rmdir()
