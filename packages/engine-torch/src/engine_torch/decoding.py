"""Running a loaded model over token ids: greedy or sampled generation, teacher-forced scoring; eager or compiled.

All go through the same two functions, prefill and one decode step. Prefill is eager everywhere: its matrix products
are the library's in any case. Left out: what the ids mean, checks of requests (engine.py).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from enginebench_models.sampling import Choose
from torch import Tensor

from engine_torch.model import Llama

GRAPH_OPTIONS = {
    # What torch.compile calls mode="reduce-overhead": the step is recorded and replayed as one CUDA graph …
    "triton.cudagraphs": True,
    # … and what gpt-fast adds for products with a single row.
    "coordinate_descent_tuning": True,
}


class Decoder:
    """One sequence at a time. The cache is overwritten from position 0 by every prefill."""

    def __init__(self, model: Llama, n_ctx: int, compiled: bool) -> None:
        model.allocate_cache(n_ctx)
        self.model = model
        self.device = model.norm.device
        self.positions = torch.arange(n_ctx, device=self.device)
        # CUDA graphs replay fixed shapes; elsewhere the window grows with the sequence, under one graph for all sizes.
        self.compiled = compiled
        self.fixed_shapes = compiled and self.device.type == "cuda"
        self.grows = compiled and not self.fixed_shapes
        self.step = step
        if compiled:
            options = GRAPH_OPTIONS if self.device.type == "cuda" else {}
            self.step = torch.compile(step, fullgraph=True, options=options)

    def generate(self, prompt: array[int], n_gen: int) -> Iterator[int]:
        """Yields n_gen ids, each when it is on the host."""
        logits = self.prefill(prompt)
        steps = range(len(prompt), len(prompt) + n_gen - 1)
        alone = self.model.shard.n == 1  # the others do not know an id before it is told
        run = self._ahead if self.device.type == "cuda" and alone else self._in_turn
        return run(logits.argmax(-1, keepdim=True), steps)

    def _in_turn(self, token: Tensor, positions: range) -> Iterator[int]:
        yield int(token)
        for position in positions:
            token = self.decode(token, position)[1]
            yield int(token)

    def _ahead(self, token: Tensor, positions: range) -> Iterator[int]:
        """The token stays on the device for the next step, which is queued before its id is waited for."""
        for position in positions:
            arriving = Arrival(token)
            token = self.decode(token, position)[1].clone()  # the graph's own output is overwritten by its next replay
            yield arriving.wait()
        yield int(token)

    def sample(self, prompt: array[int], n_gen: int, choose: Choose) -> Iterator[int]:
        """As `generate`, but the logits come to the host and the id goes back."""
        logits = self.prefill(prompt)
        for position in range(len(prompt), len(prompt) + n_gen):
            token = choose(logits.numpy(force=True))
            yield token
            if position < len(prompt) + n_gen - 1:
                logits = self.decode(self._tensor([token]), position)[0]

    def score(self, tokens: array[int], n_prefill: int) -> npt.NDArray[np.float32]:
        """Logits after the prefill and after each of the rest, float32 [len(tokens) - n_prefill + 1, vocab]."""
        rows = np.empty((len(tokens) - n_prefill + 1, self.model.config.vocab_size), np.float32)
        rows[0] = self.prefill(tokens[:n_prefill]).cpu()
        given = self._tensor(tokens)
        for row, position in enumerate(range(n_prefill, len(tokens)), start=1):
            rows[row] = self.decode(given[position : position + 1], position)[0].cpu()
        return rows

    @torch.inference_mode()
    def prefill(self, tokens: array[int]) -> Tensor:
        """Logits after the last of the tokens, float32 [vocab]."""
        return self.model.prefill(self._tensor(tokens))

    @torch.inference_mode()
    def decode(self, token: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """token int64 [1] on the device -> logits float32 [vocab] and their argmax [1], until the next call."""
        window = self.positions
        if not self.fixed_shapes:
            window = self.positions[: position + 1]
        if self.grows:  # the compiler takes seconds to import: an eager run does without it
            torch._dynamo.maybe_mark_dynamic(window, 0)
        return self.step(self.model, token, self.positions[position : position + 1], window, self.fixed_shapes)

    def _tensor(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor(tokens, dtype=torch.int64, device=self.device)


def step(model: Llama, token: Tensor, position: Tensor, window: Tensor, masked: bool) -> tuple[Tensor, Tensor]:
    """One decode step and the greedy choice: what is compiled as one graph."""
    logits = model.decode(token, position, window, window <= position if masked else None)
    return logits, logits.argmax(-1, keepdim=True)


class Arrival:
    """A token id on its way from a CUDA device to the host."""

    def __init__(self, token: Tensor) -> None:
        self.host = torch.empty(token.shape, dtype=token.dtype, pin_memory=True).copy_(token, non_blocking=True)
        self.event = torch.cuda.Event()
        self.event.record()

    def wait(self) -> int:
        self.event.synchronize()
        return int(self.host)
