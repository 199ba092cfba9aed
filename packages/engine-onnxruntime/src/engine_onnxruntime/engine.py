"""ONNX Runtime behind the engine interface. The only module that knows messages.

ONNX Runtime decides about telemetry when it is imported, so the modules that import it are imported inside `load`.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

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
    failing,
    freeze_garbage,
    must_be_loaded,
    stage,
    thaw_garbage,
)
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load, Loaded

if TYPE_CHECKING:
    from engine_onnxruntime.decoding import Decoder
    from engine_onnxruntime.genai import GenaiDecoder


class OnnxruntimeEngine(Engine):
    """LLaMA-3 as our own ONNX graph on ONNX Runtime."""

    name = "onnxruntime"
    configurations: ClassVar[Mapping[str, str]] = {
        "default": "our own graph, IO binding, 16-bit weights in the mapped file",
        "float32": "default with weights that ONNX Runtime converts and packs while loading",
        "genai": "default driven by ONNX Runtime GenAI's generator",
        "int8": "default with the blocks' matrices in 8 bits, a scale for each row (MatMulNBits)",
        "int4": "default with the blocks' matrices in 4 bits, a scale for each 32 (MatMulNBits)",
        "nf4": "default with the blocks' matrices in NF4, runs of 64 (MatMulBnb4)",
    }

    def __init__(self) -> None:
        self._decoder: Decoder | GenaiDecoder | None = None

    def load(self, request: Load, progress: ProgressSink) -> Loaded:
        self.unload()
        if request.configuration not in self.configurations:
            known = ", ".join(self.configurations)
            raise EngineFailure("unsupported", f"no configuration {request.configuration!r}", f"use one of {known}")
        checkpoint = opened(request)
        stages: dict[str, int] = {}
        with stage(stages, "import"):
            os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the library is loaded; its own API comes too late
            from engine_onnxruntime import decoding, genai, quantise, session, weights
        with explained():
            session.check_shape(checkpoint.config)
            device = session.choose_device(request.device)
            method = session.choose_method(request.configuration, device, checkpoint.tensor("embed_tokens").dtype)
            expanded = "float32" if request.configuration == "float32" else "float16"
            if request.configuration in quantise.KINDS:
                with failing(ModelError):
                    checkpoint.check_unquantised()
            with stage(stages, "read"):
                located = weights.locate_weights(
                    checkpoint, method.block_elements, expanded, lambda fraction: progress("read", fraction)
                )
            if request.configuration in quantise.KINDS:
                with stage(stages, "convert"), failing(ModelError):
                    kind, threads = request.configuration, request.threads
                    located = quantise.quantised_weights(
                        checkpoint, located, kind, threads, lambda fraction: progress("convert", fraction)
                    )
            progress("compile", 0.0)
            with stage(stages, "compile"):
                needed = (checkpoint, located, device, method, request.n_ctx, request.threads)
                if request.configuration == "genai":
                    self._decoder = genai.open_decoder(*needed, folder=Path(request.scratch) / "genai")
                else:
                    self._decoder = decoding.open_decoder(*needed)
        freeze_garbage()
        return report(request, checkpoint, self._decoder, stages)

    def generate(self, prompt: array[int], n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        decoder = self._ready(prompt, len(prompt) + n_gen - 1)
        if sampling.greedy:
            return decoder.generate(prompt, n_gen)
        return decoder.sample(prompt, n_gen, chooser(sampling.temperature, sampling.seed))

    def score(self, tokens: array[int], n_prefill: int) -> Logits:
        return self._ready(tokens, len(tokens)).score(tokens, n_prefill).data

    def memory(self) -> MemoryAccount:
        held = self._loaded().held
        return MemoryAccount(held.weights_bytes, held.kv_cache_bytes)

    def unload(self) -> None:
        self._decoder = None
        thaw_garbage()

    def _loaded(self) -> Decoder | GenaiDecoder:
        return must_be_loaded(self._decoder)  # type: ignore[return-value]  # mypy joins the two classes to object

    def _ready(self, tokens: array[int], n_positions: int) -> Decoder | GenaiDecoder:
        decoder = self._loaded()
        check_tokens(tokens, n_positions, decoder.config.vocab_size, decoder.n_ctx)
        return decoder


def opened(request: Load) -> Checkpoint:
    with failing(ModelError):
        checkpoint = open_checkpoint(Path(request.model_path))
        checkpoint.check_context(request.n_ctx)
    return checkpoint


@contextmanager
def explained() -> Iterator[None]:
    """What can go wrong while loading, as the failures that the protocol knows. Only after the library is imported."""
    from engine_onnxruntime.session import SESSION_ERRORS, Unsupported

    try:
        yield
    except Unsupported as error:
        raise EngineFailure("unsupported", str(error)) from error
    except MemoryError as error:
        raise EngineFailure("out-of-memory", str(error) or "no memory left", "use a smaller model") from error
    except SESSION_ERRORS as error:
        code = "out-of-memory" if "llocate memory" in str(error) or "bad_alloc" in str(error) else "compile"
        raise EngineFailure(code, f"ONNX Runtime made no session: {error}"[:4000]) from error


def report(request: Load, checkpoint: Checkpoint, decoder: Decoder | GenaiDecoder, stages: dict[str, int]) -> Loaded:
    held = decoder.held
    return Loaded(
        id=request.id,
        weights_fingerprint=checkpoint.fingerprint,
        precision=precision(held.weight_dtype),
        weight_dtype=held.weight_dtype,
        activation_dtype=held.activation_dtype,
        kv_dtype=held.activation_dtype,
        device=request.device,
        threads=request.threads,
        n_ctx=request.n_ctx,
        vocab_size=checkpoint.config.vocab_size,
        weights_bytes=held.weights_bytes,
        kv_cache_bytes=held.kv_cache_bytes,
        read_bytes_per_token=held.read_bytes_per_token,
        stages=stages,
        versions=versions(),
    )


def precision(weight_dtype: str) -> str:
    """The class that the fidelity gate applies; what is quantised is named by its recipe."""
    from engine_onnxruntime.quantise import KINDS

    return weight_dtype if weight_dtype in ("float32", *KINDS) else "16-bit"


def versions() -> dict[str, str]:
    packages = ("onnxruntime", "onnxruntime-genai", "onnx", "numpy")
    return {"python": sys.version.split()[0], **{name: version(name) for name in packages}}
