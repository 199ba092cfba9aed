"""Running a prepared model over token ids: generation, greedy or sampled, and teacher-forced scoring, by two calls.

Left out: which library runs which region (plan.py), checks of requests (engine.py).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from enginebench_models.sampling import Choose
from torch import Tensor

from engine_hybrid.model import Llama

Prefill = Callable[[Tensor], None]
"""Token ids int64 [n] → cache and `state.x`."""
Step = Callable[[int], None]
"""Regions of one decode step; takes the position."""


class Decoder:
    """One sequence at a time. The cache is overwritten from position 0 by every prefill."""

    def __init__(self, llama: Llama, prefill: Prefill, head: Step, steps: Sequence[Step]) -> None:
        self.llama, self._prefill, self._head, self.steps = llama, prefill, head, list(steps)

    def generate(self, prompt: array[int], n_gen: int) -> Iterator[int]:
        """Yields n_gen ids, each when it is on the host."""
        self.prefill(self.tensor(prompt))
        positions = range(len(prompt), len(prompt) + n_gen - 1)
        return self._ahead(positions) if self.llama.state.token.is_cuda else self._in_turn(positions)

    def _in_turn(self, positions: range) -> Iterator[int]:
        token = self.llama.state.token
        yield int(token)
        for position in positions:
            self.decode(position)
            yield int(token)

    def _ahead(self, positions: range) -> Iterator[int]:
        """On a CUDA device the next step is queued before the id of the last one is waited for."""
        host, arrived = torch.empty(1, dtype=torch.int32, pin_memory=True), torch.cuda.Event()
        for position in positions:
            host.copy_(self.llama.state.token, non_blocking=True)
            arrived.record()
            self.decode(position)
            arrived.synchronize()
            yield int(host)
        yield int(self.llama.state.token)

    def sample(self, prompt: array[int], n_gen: int, choose: Choose) -> Iterator[int]:
        """As `generate`, but the logits come to the host and the id goes back."""
        state = self.llama.state
        self.prefill(self.tensor(prompt))
        for position in range(len(prompt), len(prompt) + n_gen):
            token = choose(state.logits[0].numpy(force=True))
            yield token
            if position < len(prompt) + n_gen - 1:
                state.token.fill_(token)
                self.decode(position)

    def score(self, tokens: array[int], n_prefill: int) -> npt.NDArray[np.float32]:
        """Logits after the prefill and after each of the rest, float32 [len(tokens) - n_prefill + 1, vocab]."""
        state, given = self.llama.state, self.tensor(tokens)
        rows = np.empty((len(tokens) - n_prefill + 1, self.llama.config.vocab_size), np.float32)
        self.prefill(given[:n_prefill])
        rows[0] = state.logits[0].cpu()
        for row, position in enumerate(range(n_prefill, len(tokens)), start=1):
            state.token.copy_(given[position : position + 1])
            self.decode(position)
            rows[row] = state.logits[0].cpu()
        return rows

    @torch.inference_mode()
    def prefill(self, tokens: Tensor) -> None:
        """int64 [n] → the state after the last of them."""
        self._prefill(tokens)
        self._head(len(tokens) - 1)

    @torch.inference_mode()
    def decode(self, position: int) -> None:
        """`state.token` at `position` → the state after it."""
        state = self.llama.state
        state.x.copy_(self.llama.weights.embed_tokens[state.token])
        for step in self.steps:
            step(position)

    def tensor(self, tokens: array[int]) -> Tensor:
        return torch.tensor(tokens, dtype=torch.int64, device=self.llama.state.token.device)
