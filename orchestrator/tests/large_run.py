"""A large run made from a published one: real records of its cases, launched ten times each with a known scatter."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from enginebench.judge.assemble import CaseFacts, assemble
from enginebench.store.record import Launch, Request
from enginebench.store.result import read_result
from enginebench_protocol.codec import pack_ids
from enginebench_protocol.prompts import ids_sha256, prompt_ids

REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference" / "20261121-cpu-quick" / "result.json"
WARMUP, MEASURED = 3, 10


def large_result(n_cases: int = 12, n_launches: int = 10) -> dict[str, Any]:
    """Cases × launches × 13 requests, with cold launches: judged anew, so that nothing contradicts the records."""
    result = read_result(REFERENCE)
    cases = [case for case in result["cases"] if case["status"] == "ok"][:n_cases]
    assert len(cases) == n_cases
    plan = {**result["plan"], "preset": "standard", "verdicts": True, "launches": n_launches, "iterations": MEASURED}
    vocabulary, workload = plan["models"][0]["shape"]["vocab_size"], plan["workloads"][0]
    ids = [prompt_ids(plan["seed"], i, workload["n_prompt"], vocabulary) for i in range(WARMUP + MEASURED)]
    prompts = [ids_sha256(pack_ids(each)) for each in ids]
    facts, launches = [], []
    for case in cases:
        check, timed = (msgspec.convert(launch, Launch) for launch in case["launches"][:2])
        facts.append(CaseFacts(check.case, case["role"], pins_sha256=case["pins_sha256"]))
        launches += [check, *_launches(timed, prompts, n_launches)]
    return assemble(result["run_id"], result["environment"], {**plan, "warmup": WARMUP}, facts, launches)


def _launches(timed: Launch, prompts: Sequence[str], count: int) -> list[Launch]:
    chance = random.Random(timed.case.id)
    many = [
        msgspec.structs.replace(timed, block=block, requests=_requests(timed, prompts, chance.gauss(1, 0.01)))
        for block in range(count)
    ]
    cold = [msgspec.structs.replace(launch, kind="cold", block=count) for launch in many[:2]]
    return [*many, *cold]


def _requests(timed: Launch, prompts: Sequence[str], factor: float) -> list[Request]:
    """The first as it was, then the steady one again and again, each with the prompt that the plan has for it."""
    first, steady = timed.requests
    return [
        msgspec.structs.replace(
            steady if index else first,
            phase="warm-up" if index < WARMUP else "measured",
            iteration=index,
            t_token_ns=[int(t * factor) for t in (steady if index else first).t_token_ns],
            prompt_sha256=prompt,
        )
        for index, prompt in enumerate(prompts)
    ]
