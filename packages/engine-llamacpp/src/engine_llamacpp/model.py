"""A model and one sequence in llama.cpp: prefill, decode, the greedy choice, logits. No messages, no timing.

Everything per token happens in C: Python hands over a token id and is given one back.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as native

from .library import log

CELLS = 256  # llama.cpp rounds the cache up to a multiple of this (llama-context.cpp, GGML_PAD)
CHUNK = 512  # tokens computed at once in prefill, llama.cpp's and llama-bench's own choice (n_ubatch)
SEQUENCE = 0

NodeSink = Callable[[int, bool, object], bool]
"""Called with the address of each ggml_tensor that is about to be computed (ggml_backend_sched_eval_callback)."""


class Refused(Exception):
    """llama.cpp would not; the message is what it logged."""


class Model:
    """The weights of a GGUF file, on the first GPUs, as many layers on each, or in the mapped file (no GPU)."""

    def __init__(self, file: Path, gpus: int, progress: Callable[[float], None]) -> None:
        log().clear()
        on_gpu = gpus > 0

        def report(fraction: float, _: object) -> bool:
            progress(fraction)
            return True

        callback = native.llama_progress_callback(report)
        parameters = native.llama_model_default_params()
        parameters.n_gpu_layers = -1 if on_gpu else 0
        parameters.split_mode = native.LLAMA_SPLIT_MODE_LAYER if gpus > 1 else native.LLAMA_SPLIT_MODE_NONE
        shares = (ctypes.c_float * native.llama_max_devices())(*[1.0] * gpus)
        if gpus > 1:
            parameters.tensor_split = ctypes.cast(shares, ctypes.POINTER(ctypes.c_float))
        parameters.main_gpu = 0 if on_gpu else -1  # -1: no GPU, not even for large batches
        parameters.progress_callback = callback
        self.on_gpu = on_gpu
        self.pointer = native.llama_model_load_from_file(str(file).encode(), parameters)
        if not self.pointer:
            raise Refused(log().complaints())
        self.vocabulary = native.llama_model_get_vocab(self.pointer)
        self.vocab_size: int = native.llama_vocab_n_tokens(self.vocabulary)

    def close(self) -> None:
        native.llama_model_free(self.pointer)


class Sequence:
    """One sequence: its cache, its working memory and its sampler.

    `n_ctx` is what the cache really holds, at least what was asked for. `on_node` is for looking, not for timing.
    `choose_in_graph`: the greedy choice is part of the graph, so that one id leaves the device instead of all logits.
    On a CPU nothing has to leave: there it was 2 % slower per token than the choice after the graph (1B, 2 threads).
    """

    def __init__(
        self, model: Model, n_ctx: int, threads: int, choose_in_graph: bool, on_node: NodeSink | None = None
    ) -> None:
        log().clear()
        self.model = model
        self.choose_in_graph = choose_in_graph
        self._sampler = greedy_chain()
        self._sampling = native.llama_sampler_seq_config(SEQUENCE, ctypes.cast(self._sampler, ctypes.c_void_p))
        self._on_node = native.ggml_backend_sched_eval_callback(on_node or 0)
        self.pointer = native.llama_init_from_model(model.pointer, self._parameters(n_ctx, threads))
        if not self.pointer:
            native.llama_sampler_free(self._sampler)
            raise Refused(log().complaints())
        self.workspace_bytes = log().compute_buffer_bytes()
        self.n_ctx: int = native.llama_n_ctx(self.pointer)
        self.threads: int = native.llama_n_threads(self.pointer)
        self._memory = native.llama_get_memory(self.pointer)
        self._token = (native.llama_token * 1)()
        self._step = native.llama_batch_get_one(self._token, 1)

    def _parameters(self, n_ctx: int, threads: int) -> Any:
        parameters = native.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = -(-n_ctx // CELLS) * CELLS
        parameters.n_ubatch = min(CHUNK, parameters.n_ctx)
        parameters.n_seq_max = parameters.n_outputs_max = 1
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.flash_attn_type = native.LLAMA_FLASH_ATTN_TYPE_ENABLED
        parameters.offload_kqv = parameters.op_offload = self.model.on_gpu
        parameters.cb_eval = self._on_node
        if self.choose_in_graph:
            parameters.samplers, parameters.n_samplers = ctypes.pointer(self._sampling), 1
        return parameters

    def prefill(self, tokens: array[int]) -> None:
        """Forget everything, then take `tokens`; only the last one meets the output projection."""
        native.llama_memory_clear(self._memory, False)
        ids = (native.llama_token * len(tokens)).from_buffer(tokens)
        self._run(native.llama_batch_get_one(ids, len(tokens)))

    def decode(self, token: int) -> None:
        self._token[0] = token
        self._run(self._step)

    def choose(self) -> int:
        """The id with the largest logit after the last token."""
        chosen: int
        if self.choose_in_graph:
            chosen = native.llama_get_sampled_token_ith(self.pointer, -1)
        else:
            chosen = native.llama_sampler_sample(self._sampler, self.pointer, -1)
        return chosen

    def show_logits(self, shown: bool) -> None:
        """Whether logits come to the host even if the choice is made in the graph; it is not while they do."""
        if not self.choose_in_graph:
            return
        attached, self._sampler = self._sampler, greedy_chain()  # llama.cpp attaches a chain once only
        native.llama_set_sampler(self.pointer, SEQUENCE, None if shown else self._sampler)
        native.llama_sampler_free(attached)

    def logits(self) -> npt.NDArray[np.float32]:
        """After the last token, float32 [vocab]; overwritten by the next."""
        return np.ctypeslib.as_array(native.llama_get_logits_ith(self.pointer, -1), (self.model.vocab_size,))

    def close(self) -> None:
        native.llama_free(self.pointer)
        native.llama_sampler_free(self._sampler)

    def _run(self, batch: Any) -> None:
        code = native.llama_decode(self.pointer, batch)
        if code:
            raise Refused(f"llama_decode ended with {code}: {log().complaints()}")


def greedy_chain() -> Any:
    """llama.cpp's own greedy sampler, in a chain: that keeps its buffer between tokens and can be part of the graph."""
    chain = native.llama_sampler_chain_init(native.llama_sampler_chain_default_params())
    native.llama_sampler_chain_add(chain, native.llama_sampler_init_greedy())
    return chain
