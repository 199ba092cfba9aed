"""One answer and its times: what was asked, the ids that came, and why they ended."""

from __future__ import annotations

from array import array
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from enginebench_protocol.client import Received
from enginebench_protocol.codec import unpack_ids, unpack_times
from enginebench_protocol.messages import Generated
from enginebench_protocol.timing import RequestTiming

Ended = Literal["stop", "length", "context", "cancelled"]
"""By an id that ends an answer, at the longest reply, at the end of the context, by the user."""


@dataclass(frozen=True)
class Turn:
    """The engine's stamps are on the clock of this process (CLOCK_MONOTONIC)."""

    n_prompt: int
    n_ctx: int
    tokens: array[int]
    timing: RequestTiming | None
    """None where it was stopped before the first token."""
    t_sent_ns: int
    ended: Ended

    @property
    def ttft_ns(self) -> int | None:
        """From our sending the prompt to the first token's id on the host."""
        return self.timing.t_token_ns[0] - self.t_sent_ns if self.timing else None

    @property
    def decode_tps(self) -> float | None:
        return self.timing.decode_tps if self.timing else None


def turn_of(
    generated: Generated, received: Received, n_ctx: int, n_gen: int, stop: Collection[int], cancelled: bool
) -> Turn:
    tokens, times = unpack_ids(generated.tokens), unpack_times(generated.t_token_ns)
    return Turn(
        n_prompt=generated.n_prompt,
        n_ctx=n_ctx,
        tokens=tokens,
        timing=RequestTiming(generated.n_prompt, generated.t_start_ns, times) if times else None,
        t_sent_ns=received.t_sent_ns,
        ended=_ended(tokens, generated.n_prompt + n_gen >= n_ctx, stop, cancelled),
    )


def _ended(tokens: array[int], at_context: bool, stop: Collection[int], cancelled: bool) -> Ended:
    if tokens and tokens[-1] in stop:
        return "stop"
    if cancelled:
        return "cancelled"
    return "context" if at_context else "length"
