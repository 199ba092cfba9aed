"""The captured programs: prefill of one chunk, the output head, and one decode step.

TinyJit records the kernels of a call and replays them in later ones. Position and token id are bound variables, so one
recording serves every position and id; prompts are cut into chunks of one size, so it serves every length. Nothing
here knows messages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from enginebench_models.checkpoint import Checkpoint
from tinygrad import Context, Tensor, TinyJit, UOp, dtypes
from tinygrad.dtype import DType

from engine_tinygrad.backend import Backend
from engine_tinygrad.model import Llama, rotary_table
from engine_tinygrad.shard import device_names
from engine_tinygrad.weights import load_weights


def load_llama(
    checkpoint: Checkpoint,
    backend: Backend,
    n_ctx: int,
    on_layer: Callable[[float], None],
    kind: str = "",
    shards: int = 1,
) -> Llama:
    """The model on its devices, quantised to `kind`, with a cache for `n_ctx` positions rounded up to whole chunks."""
    n_positions = -(-n_ctx // backend.chunk) * backend.chunk
    devices = device_names(backend.device, shards)
    weights = load_weights(checkpoint, devices, on_layer, kind)
    angles = rotary_table(checkpoint.inverse_frequencies, n_positions)
    rotary = Tensor(angles, device=devices[0]).shard(devices).realize()
    return Llama(checkpoint.config, weights, rotary, backend.lanes)


@dataclass(frozen=True)
class Step:
    """What follows the last position: greedy id, int32 [1], and logits, float32 [1, vocab], both on the (first) device.

    The next call of the same graph overwrites them.
    """

    token: Tensor
    logits: Tensor

    def read_token(self) -> int:
        """Waits for the device; the id is on the host when this returns."""
        return int(self.token.item())

    def read_logits(self) -> npt.NDArray[np.float32]:
        """A copy on the host, [vocab]."""
        return self.logits.numpy()[0]


class Graphs:
    """Prefill and decode of one sequence. The cache holds a whole number of chunks."""

    def __init__(self, llama: Llama, chunk: int) -> None:
        n_ctx = int(llama.caches[0].shape[2])
        self.llama = llama
        self.chunk = chunk
        self.chunk_start = UOp.variable("chunk_start", 0, n_ctx - chunk)
        self.row = UOp.variable("row", 0, chunk - 1)
        self.position = UOp.variable("position", 0, n_ctx - 1)
        self.token = UOp.variable("token", 0, llama.config.vocab_size - 1)
        self.prefill_graph = recorder(self._prefill)
        self.head_graph = recorder(self._head)
        self.decode_graph = recorder(self._decode)

    def capture(self, beam_width: int, on_graph: Callable[[float], None]) -> None:
        """Compile everything now, searching kernels with `beam_width` (0: not); `on_graph` gets the fraction done."""
        with Context(BEAM=beam_width):
            self.prefill([0]).read_token()
            on_graph(0.6)
            self.decode(0, 0).read_token()
            on_graph(1.0)

    def prefill(self, tokens: Sequence[int]) -> Step:
        """Fill the cache from position 0 and say what follows the last of `tokens`.

        The last chunk is padded: what it writes behind the prompt is overwritten before anything attends to it.
        """
        for start in range(0, len(tokens), self.chunk):
            ids = list(tokens[start : start + self.chunk])
            padded = Tensor(ids + [0] * (self.chunk - len(ids)), dtype=dtypes.int32, device=self.device).realize()
            hidden = self.prefill_graph(padded, self.chunk_start.bind(start))
        return Step(*self.head_graph(hidden, self.row.bind((len(tokens) - 1) % self.chunk)))

    def decode(self, token: int, position: int) -> Step:
        """Process one token at `position` and say what follows it."""
        return Step(*self.decode_graph(self.token.bind(token), self.position.bind(position)))

    @property
    def device(self) -> str | tuple[str, ...]:
        """Where hidden states are: on several devices, the same on each."""
        return self.llama.weights.embed_tokens.device

    @property
    def activation_dtype(self) -> DType:
        """Read off the output of a captured prefill."""
        captured = self.prefill_graph.captured
        assert captured is not None, "capture() comes first"
        hidden: Tensor = captured.ret
        return hidden.dtype

    def _prefill(self, tokens: Tensor, start: UOp) -> Tensor:
        return self.llama.hidden(self.llama.embed(tokens), start).contiguous()

    def _head(self, hidden: Tensor, row: UOp) -> tuple[Tensor, Tensor]:
        return self.llama.head(hidden[row : row + 1])

    def _decode(self, token: UOp, position: UOp) -> tuple[Tensor, Tensor]:
        return self.llama.head(self.llama.hidden(self.llama.embed_one(token), position))


def recorder(function: Callable[..., object]) -> TinyJit:
    """A TinyJit that records its first call.

    TinyJit itself runs the first call unrecorded, for functions that create their state in it. Nothing here does, and
    scheduling everything a second time is a third of the time it takes to load the 1B model.
    """
    jit = TinyJit(function)
    jit.cnt = 1
    return jit
