"""Is what a launch wrote the reference's text? The first ids of its first answer, held against the float32 reference.

A check launch is judged always; a timed one only where its answer is another one, so that rounding can be told from
other work. Long contexts are left out: the reference's attention is quadratic in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from enginebench_models.greedy import objections
from enginebench_models.reference_cache import reference_choices
from enginebench_protocol.prompts import prompt_ids

from enginebench.store.record import GreedyReading, Launch, Request

from .audits import first_difference, firsts
from .reference_weights import Source

GREEDY_TOKENS = 16
LONGEST = 1024


def with_greedy(launch: Launch, check: Launch | None, checkpoint: Source, seed: int) -> Launch:
    """The launch with its readings. `check`: the case's check launch, for a timed one; None for the check itself.

    An answer of the check launch that is not the reference's fails its fidelity gate.
    """
    if not launch.ok or launch.loaded is None or launch.case.workload.n_sent > LONGEST:
        return launch
    wanted = list(_first_answer(launch) if check is None else _other_answers(launch, check))
    readings = [_reading(request, n, checkpoint, seed, launch.loaded.precision) for request, n in wanted]
    judged = msgspec.structs.replace(launch, greedy=readings)
    return _gated(judged) if check is None else judged


def _gated(launch: Launch) -> Launch:
    wrong = [f"greedy text: {reason}" for reading in launch.greedy for reason in reading.reasons]
    if not wrong or launch.fidelity is None:
        return launch
    reasons = [*launch.fidelity.reasons, *wrong]
    return msgspec.structs.replace(
        launch, fidelity=msgspec.structs.replace(launch.fidelity, passed=False, reasons=reasons)
    )


def _first_answer(launch: Launch) -> Iterator[tuple[Request, int]]:
    first = next(firsts(launch), None)
    if first is not None and first.tokens:
        yield first, min(GREEDY_TOKENS, len(first.tokens))


def _other_answers(launch: Launch, check: Launch) -> Iterator[tuple[Request, int]]:
    """(request, ids to judge: up to the first that differs)."""
    checked = {request.iteration: request for request in firsts(check)}
    for request in firsts(launch):
        known = checked.get(request.iteration)
        place = first_difference(request.tokens, known.tokens) if known else None
        if place is not None:
            yield request, place + 1


def _reading(request: Request, n: int, checkpoint: Source, seed: int, precision: str) -> GreedyReading:
    prompt = list(prompt_ids(seed, request.iteration, request.n_prompt, checkpoint.config.vocab_size))
    found = reference_choices(checkpoint, prompt, request.tokens[:n], precision=precision)
    reasons = objections(found, precision)
    return GreedyReading(
        iteration=request.iteration,
        n_tokens=n,
        passed=not reasons,
        worst_margin=max(found.margins),
        worst_rank=max(found.ranks),
        reasons=reasons,
    )
