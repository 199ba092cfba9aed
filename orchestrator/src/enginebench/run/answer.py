"""An engine's answer to one request as a record: is it the work that was asked for, and are its times to be trusted?"""

from __future__ import annotations

from array import array
from typing import Any

from enginebench_protocol.client import Received
from enginebench_protocol.codec import unpack_ids, unpack_times
from enginebench_protocol.errors import MessageError
from enginebench_protocol.messages import Generated
from enginebench_protocol.prompts import ids_sha256

from enginebench.store.record import CLOCKS_DISAGREE, Request


class WrongOutput(Exception):
    """A well-formed answer that is not the work that was asked for."""


def recorded(
    generated: Generated,
    received: Received,
    prompt: bytes,
    n_gen: int,
    vocab_size: int,
    iteration: int,
    phase: Any,
) -> Request:
    """Raises WrongOutput unless the engine did the work it was asked for."""
    _, times = work_of(generated, n_gen, vocab_size)
    if (generated.n_prompt, generated.prompt_sha256) != (len(unpack_ids(prompt)), ids_sha256(prompt)):
        raise WrongOutput("the engine answered another prompt than the one sent")
    if times[0] < generated.t_start_ns:
        raise WrongOutput("the first token is stamped before the request started")
    disagreement = received.t_received_ns - received.t_sent_ns - (times[-1] - generated.t_start_ns)
    return Request(
        phase=phase,
        iteration=iteration,
        n_prompt=generated.n_prompt,
        prompt_sha256=generated.prompt_sha256,
        tokens_sha256=ids_sha256(generated.tokens),
        t_start_ns=generated.t_start_ns,
        t_token_ns=[t - generated.t_start_ns for t in times],
        clock_disagreement_ns=disagreement,
        reported=generated.reported,
        doubts=[*_clock_doubts(disagreement, times[-1] - generated.t_start_ns), *server_doubts(generated)],
    )


def work_of(generated: Generated, n_gen: int, vocab_size: int) -> tuple[array[int], array[int]]:
    """(ids, times), as many as were asked for. Raises WrongOutput."""
    try:
        tokens, times = unpack_ids(generated.tokens), unpack_times(generated.t_token_ns)
    except MessageError as error:
        raise WrongOutput(str(error)) from None
    if (len(tokens), len(times)) != (n_gen, n_gen):
        raise WrongOutput(f"{len(tokens)} tokens and {len(times)} times instead of {n_gen}")
    if max(tokens) >= vocab_size:
        raise WrongOutput(f"token id {max(tokens)} outside the vocabulary of {vocab_size}")
    return tokens, times


def _clock_doubts(disagreement_ns: int, duration_ns: int) -> list[str]:
    """The engine's stamps against ours: more than max(1 ms, 1 %) apart, or a longer time inside than outside."""
    if disagreement_ns < 0 or disagreement_ns > max(1_000_000, duration_ns // 100):
        return [f"{CLOCKS_DISAGREE} by {disagreement_ns / 1e6:.3f} ms"]
    return []


def server_doubts(generated: Generated) -> list[str]:
    """A server that broke an answer off, or that counts other tokens than were sent and received."""
    told, doubts = generated.reported, []
    if (asked := told.get("n_requests", 1)) > 1:
        doubts.append(f"answer broken off by the engine's server: asked {asked} times")
    counted = {"prompt": told.get("n_prompt"), "generated": told.get("n_gen")}
    came = {"prompt": generated.n_prompt, "generated": len(unpack_ids(generated.tokens))}
    if asked == 1 and any(count not in (None, came[what]) for what, count in counted.items()):
        doubts.append(f"other counts by the engine's server: {counted}, sent and received {came}")
    return doubts
