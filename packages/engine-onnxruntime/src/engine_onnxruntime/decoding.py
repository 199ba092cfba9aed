"""Prefill and decode of one sequence on a session, greedy or sampled, with all its buffers bound once.

Past and present are the same buffers, so a step appends in place; the chosen id is written where the next step reads
it. Only that id comes to the host, unless it is to be drawn there. Nothing here knows messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.sampling import Choose
from onnxruntime import InferenceSession, IOBinding, OrtValue

from engine_onnxruntime.account import account
from engine_onnxruntime.model import IDS, LAST, LOGITS, NEXT_ID, TOTAL, Style, cache_names, llama_model, rotary_table
from engine_onnxruntime.session import Device, Method, open_session
from engine_onnxruntime.weights import Weights

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def open_decoder(
    checkpoint: Checkpoint, weights: Weights, device: Device, method: Method, n_ctx: int, threads: int
) -> Decoder:
    rotary = rotary_table(checkpoint.inverse_frequencies, n_ctx)
    style = Style(method.compute, weights.interleaved)
    model = llama_model(checkpoint.config, rotary, style, weights.tensors, weights.packed)
    session = open_session(model, weights, device, method, threads)
    return Decoder(session, checkpoint.config, weights, device, method, n_ctx)


class Decoder:
    """`cache`: keys and values of each layer, [1, n_kv_heads, n_ctx, head_dim], on the device."""

    def __init__(
        self,
        session: InferenceSession,
        config: LlamaConfig,
        weights: Weights,
        device: Device,
        method: Method,
        n_ctx: int,
    ) -> None:
        self.session = session
        self.config = config
        self.weights = weights  # arrays that were given by address are not copied
        self.n_ctx = n_ctx
        self.device = device
        dtype = DTYPES[session.get_outputs()[0].type]
        self.held = account(config, weights, method, dtype, n_ctx)
        shape = (1, config.n_kv_heads, n_ctx, config.head_dim)
        self.cache = [self._placed(np.zeros(shape, dtype)) for _ in range(2 * config.n_layers)]
        self.logits = self._placed(np.zeros((1, 1, config.vocab_size), dtype))
        self.next_id = self._placed(np.zeros((1, 1), np.int64))
        self.last = self._placed(np.zeros(1, np.int32))
        self.total = OrtValue.ortvalue_from_numpy(np.zeros(1, np.int32))  # the operator reads it on the host
        self.step = self._binding(self.next_id)

    def generate(self, prompt: Sequence[int], n_gen: int) -> Iterator[int]:
        self.prefill(prompt)
        yield self.read_id()
        for position in range(len(prompt), len(prompt) + n_gen - 1):
            self.decode(position)
            yield self.read_id()

    def sample(self, prompt: Sequence[int], n_gen: int, choose: Choose) -> Iterator[int]:
        """As `generate`, but the logits come to the host and the id goes back."""
        self.prefill(prompt)
        for position in range(len(prompt), len(prompt) + n_gen):
            token = choose(self.read_logits())
            yield token
            if position < len(prompt) + n_gen - 1:
                self.next_id.update_inplace(np.array([[token]], np.int64))
                self.decode(position)

    def score(self, tokens: Sequence[int], n_prefill: int) -> npt.NDArray[np.float32]:
        """float32 [len(tokens) - n_prefill + 1, vocab]: what follows the prefill and each token after it."""
        rows = np.empty((len(tokens) - n_prefill + 1, self.config.vocab_size), np.float32)
        self.prefill(tokens[:n_prefill])
        rows[0] = self.read_logits()
        for row, position in enumerate(range(n_prefill, len(tokens)), 1):
            self.next_id.update_inplace(np.array([[tokens[position]]], np.int64))
            self.decode(position)
            rows[row] = self.read_logits()
        return rows

    def prefill(self, prompt: Sequence[int]) -> None:
        """The cache holds the prompt, and nothing else counts: `total` says how much of it is valid."""
        self._run(self._binding(self._placed(np.array([prompt], np.int64))), len(prompt))

    def decode(self, position: int) -> None:
        """One token, the id in `next_id`, at `position`."""
        self._run(self.step, position + 1)

    def read_id(self) -> int:
        """The greedy choice of the last run."""
        return int(self.next_id.numpy()[0, 0])

    def read_logits(self) -> npt.NDArray[np.float32]:
        """What the choice was made from, [vocab]."""
        logits: npt.NDArray[np.float32] = self.logits.numpy()[0, 0].astype(np.float32)
        return logits

    def _run(self, binding: IOBinding, length: int) -> None:
        self.last.update_inplace(np.array([length - 1], np.int32))
        self.total.update_inplace(np.array([length], np.int32))
        self.session.run_with_iobinding(binding)

    def _binding(self, ids: OrtValue) -> IOBinding:
        binding = self.session.io_binding()
        for name, tensor in ((IDS, ids), (LAST, self.last), (TOTAL, self.total)):
            binding.bind_ortvalue_input(name, tensor)
        for name, tensor in zip(cache_names(self.config, "past_key_values"), self.cache, strict=True):
            binding.bind_ortvalue_input(name, tensor)
        for name, tensor in zip(cache_names(self.config, "present"), self.cache, strict=True):
            binding.bind_ortvalue_output(name, tensor)
        binding.bind_ortvalue_output(LOGITS, self.logits)
        binding.bind_ortvalue_output(NEXT_ID, self.next_id)
        return binding

    def _placed(self, values: npt.NDArray[np.generic]) -> OrtValue:
        return OrtValue.ortvalue_from_numpy(values, self.device.name, 0)
