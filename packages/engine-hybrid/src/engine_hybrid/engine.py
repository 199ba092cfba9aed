"""The protocol verbs. The only module that knows messages.

tinygrad reads its settings when it is imported, so the modules that import it are themselves imported inside `load`.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.errors import ModelError
from enginebench_models.sampling import chooser
from enginebench_protocol.engine import (
    GREEDY,
    Engine,
    Logits,
    MemoryAccount,
    ProgressSink,
    Sampling,
    check_tokens,
    freeze_garbage,
    must_be_loaded,
    stage,
    thaw_garbage,
)
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load, Loaded

from engine_hybrid.backend import Backend, TooLate, backend_for, settle
from engine_hybrid.model import Llama, new_llama
from engine_hybrid.quantize import kind_of
from engine_hybrid.weights import load_weights

if TYPE_CHECKING:
    from engine_hybrid.plan import Plan

CHUNK = 32  # rows of a prompt in one tinygrad graph, as tinygrad.llm has it
QUANTISED = ("int8", "nf4")  # configurations that are `default` with such matrices


class HybridEngine(Engine):
    """LLaMA-3 in PyTorch whose regions run as tinygrad graphs on the same memory."""

    name = "hybrid"
    configurations: ClassVar[Mapping[str, str]] = {
        "default": "16-bit, every region a tinygrad graph over torch's memory",
        "auto": "16-bit, every region where it is faster: torch or tinygrad, timed in load",
        "int8": "default with the blocks' matrices in int8, a scale for each row",
        "nf4": "default with the blocks' matrices in NF4, a peak for each run of 64",
    }

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._n_ctx = 0

    def load(self, request: Load, progress: ProgressSink) -> Loaded:
        self.unload()
        check(request)
        stages: dict[str, int] = {}
        backend = backend_for(request.device)
        with failures_named():
            checkpoint = opened(request)
            with stage(stages, "import"):
                settle(backend, request.threads, Path(request.cache))
                from engine_hybrid import plan, sharing
            torch.set_num_threads(request.threads)
            if request.device == "cuda":
                sharing.join_context()
            with stage(stages, "convert" if request.configuration in QUANTISED else "read"):  # one pass does both
                llama = load_llama(checkpoint, request, progress)
            with stage(stages, "compile"), torch.inference_mode():
                timed = request.configuration == "auto"
                self._plan = plan.planned(llama, backend.lanes, timed, lambda f: progress("compile", f))
        self._n_ctx = request.n_ctx
        freeze_garbage()
        found = versions(backend) | {"regions": in_one_line(self._plan.where)}
        return report(request, checkpoint, llama, stages, found)

    def generate(self, prompt: array[int], n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        decoder = self._ready(prompt, len(prompt) + n_gen - 1).decoder
        if sampling.greedy:
            return decoder.generate(prompt, n_gen)
        return decoder.sample(prompt, n_gen, chooser(sampling.temperature, sampling.seed))

    def score(self, tokens: array[int], n_prefill: int) -> Logits:
        return self._ready(tokens, len(tokens)).decoder.score(tokens, n_prefill).data

    def memory(self) -> MemoryAccount:
        llama = self._loaded().decoder.llama
        peak = torch.cuda.max_memory_allocated() if llama.state.x.is_cuda else None
        return MemoryAccount(weights_bytes(llama), kv_cache_bytes(llama), device_peak_bytes=peak)

    def unload(self) -> None:
        self._plan = None
        thaw_garbage()

    def _loaded(self) -> Plan:
        return must_be_loaded(self._plan)

    def _ready(self, tokens: array[int], n_positions: int) -> Plan:
        plan = self._loaded()
        check_tokens(tokens, n_positions, plan.decoder.llama.config.vocab_size, self._n_ctx)
        return plan


def check(request: Load) -> None:
    if request.configuration not in HybridEngine.configurations:
        known = ", ".join(HybridEngine.configurations)
        raise EngineFailure("unsupported", f"no configuration {request.configuration!r}", f"use one of {known}")
    if request.device not in ("cpu", "cuda"):
        raise EngineFailure("unsupported", f"device {request.device!r}: both libraries run on cpu and cuda here")
    if request.device == "cuda" and not torch.cuda.is_available():
        raise EngineFailure("unsupported", "device 'cuda': torch sees no GPU", "use --device cpu")


def opened(request: Load) -> Checkpoint:
    checkpoint = open_checkpoint(Path(request.model_path))
    checkpoint.check_context(request.n_ctx)
    if request.configuration in QUANTISED:
        checkpoint.check_unquantised()
    return checkpoint


def load_llama(checkpoint: Checkpoint, request: Load, progress: ProgressSink) -> Llama:
    kind = request.configuration if request.configuration in QUANTISED else ""
    done = "convert" if kind else "read"
    weights = load_weights(checkpoint, torch.device(request.device), lambda fraction: progress(done, fraction), kind)
    frequencies = torch.tensor(checkpoint.inverse_frequencies)
    return new_llama(checkpoint.config, weights, frequencies, request.n_ctx, CHUNK)


@contextmanager
def failures_named() -> Iterator[None]:
    """What can go wrong in a load, as the failures that the protocol knows."""
    try:
        yield
    except ModelError as error:
        raise EngineFailure(error.code, str(error)) from None
    except TooLate as error:
        raise EngineFailure("unsupported", str(error), "load in a new process") from None
    except torch.OutOfMemoryError as error:
        raise EngineFailure("out-of-memory", str(error), "use a smaller model") from None
    except ImportError as error:
        raise EngineFailure("unsupported", f"tinygrad cannot be imported: {error}") from None


def report(
    request: Load, checkpoint: Checkpoint, llama: Llama, stages: dict[str, int], found: dict[str, str]
) -> Loaded:
    """What is really held, read off the tensors in use."""
    kind = kind_of(llama.weights.layers[0].k_proj)
    return Loaded(
        id=request.id,
        weights_fingerprint=checkpoint.fingerprint,
        precision=kind or "16-bit",
        weight_dtype=kind or dtype_name(llama.weights.lm_head),
        activation_dtype=dtype_name(llama.state.x),
        kv_dtype=dtype_name(llama.caches[0]),
        device=torch.cuda.get_device_name() if llama.state.x.is_cuda else "cpu",
        threads=torch.get_num_threads(),
        n_ctx=request.n_ctx,
        vocab_size=checkpoint.config.vocab_size,
        weights_bytes=weights_bytes(llama),
        kv_cache_bytes=kv_cache_bytes(llama),
        read_bytes_per_token=read_bytes_per_token(llama),
        stages=stages,
        versions=found,
    )


def dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def weights_bytes(llama: Llama) -> int:
    return sum(weight.nbytes for weight in llama.weights.all())


def read_bytes_per_token(llama: Llama) -> int:
    """Everything but an untied embedding table, of which one row is read."""
    table, output = llama.weights.embed_tokens, llama.weights.lm_head
    return weights_bytes(llama) - (0 if table is output else table.nbytes - table[0].nbytes)


def kv_cache_bytes(llama: Llama) -> int:
    return sum(cache.nbytes for cache in llama.caches)


def versions(backend: Backend) -> dict[str, str]:
    found = {name: version(name) for name in ("torch", "tinygrad", "numpy")}
    return found | {"python": sys.version.split()[0], "tinygrad_device": backend.target}


def in_one_line(where: Mapping[str, str]) -> str:
    return "; ".join(f"{region}: {who}" for region, who in where.items())[:4096]
