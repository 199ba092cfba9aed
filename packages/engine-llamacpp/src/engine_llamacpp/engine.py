"""llama.cpp behind the engine interface. The only module that knows messages.

Importing llama-cpp-python loads a library that was compiled on this machine, so it happens inside `load`, where a
failure has an answer.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.errors import ModelError, NoRoom, UnsupportedModel
from enginebench_models.sampling import chooser
from enginebench_protocol.engine import (
    GREEDY,
    Engine,
    Logits,
    MemoryAccount,
    ProgressSink,
    Sampling,
    failing,
    must_be_loaded,
    stage,
)
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load, Loaded

if TYPE_CHECKING:
    from .account import Held
    from .model import Model, Sequence


class LlamacppEngine(Engine):
    """llama.cpp through its C interface."""

    name = "llamacpp"
    configurations: ClassVar[Mapping[str, str]] = {
        "default": "weights as the file holds them, float16 cache, flash attention",
        "q8_0": "default with weights that llama.cpp quantises to Q8_0 first",
        "q4_0": "default with weights that llama.cpp quantises to Q4_0 first",
        "q4_k_m": "default with weights that llama.cpp quantises to Q4_K_M first",
    }

    shards = True

    def __init__(self) -> None:
        self._model: Model | None = None
        self._sequence: Sequence | None = None
        self._held: Held | None = None

    def load(self, request: Load, progress: ProgressSink) -> Loaded:
        self.unload()
        stages: dict[str, int] = {}
        file, checkpoint = opened(request)
        with stage(stages, "import"):
            check_library(request.device, request.shards)
        from . import account, library, model

        with refusals(model.Refused):
            made = None
            if request.configuration != "default":
                made = file = quantised_file(file, checkpoint, request, stages, progress)
            with stage(stages, "read"):
                on_gpu = request.device == "cuda"
                gpus = request.shards if on_gpu else 0
                self._model = model.Model(file, gpus, lambda fraction: progress("read", fraction))
                self._held = account.of(self._model, request.threads)
            with stage(stages, "compile"):
                self._sequence = model.Sequence(self._model, request.n_ctx, request.threads, choose_in_graph=on_gpu)
        held, sequence = self._held, self._sequence
        return Loaded(
            id=request.id,
            weights_fingerprint=checkpoint.fingerprint,
            precision=held.precision,
            weight_dtype=held.weight_dtype,
            activation_dtype=held.activation_dtype,
            kv_dtype=held.kv_dtype,
            device=held.device,
            threads=sequence.threads,
            n_ctx=sequence.n_ctx,
            vocab_size=self._model.vocab_size,
            weights_bytes=held.weights_bytes,
            kv_cache_bytes=held.kv_bytes_per_position * sequence.n_ctx,
            read_bytes_per_token=held.read_bytes_per_token,
            stages=stages,
            versions={"python": sys.version.split()[0], **library.versions()},
            weights_path=str(made or ""),
            shards=request.shards,  # llama.cpp does not tell which buffer lies where: device_bytes stays empty
        )

    def generate(self, prompt: array[int], n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        sequence = self._ready()
        if sampling.greedy:
            return generated(sequence, prompt, n_gen, sequence.choose)
        return sampled(sequence, prompt, n_gen, sampling)

    def score(self, tokens: array[int], n_prefill: int) -> Logits:
        sequence = self._ready()
        logits = np.empty((len(tokens) - n_prefill + 1, sequence.model.vocab_size), np.float32)
        sequence.show_logits(True)
        sequence.prefill(tokens[:n_prefill])
        logits[0] = sequence.logits()
        for row, token in enumerate(tokens[n_prefill:], 1):
            sequence.decode(token)
            logits[row] = sequence.logits()
        sequence.show_logits(False)
        return logits.data

    def memory(self) -> MemoryAccount:
        sequence = self._ready()
        assert self._held is not None
        kv_cache_bytes = self._held.kv_bytes_per_position * sequence.n_ctx
        return MemoryAccount(self._held.weights_bytes, kv_cache_bytes, workspace_bytes=sequence.workspace_bytes)

    def unload(self) -> None:
        if self._sequence is not None:
            self._sequence.close()
        if self._model is not None:
            self._model.close()
        self._sequence = self._model = self._held = None

    def _ready(self) -> Sequence:
        return must_be_loaded(self._sequence)


def generated(sequence: Sequence, prompt: array[int], n_gen: int, choose: Callable[[], int]) -> Iterator[int]:
    """From an empty cache; `choose` says what follows the last token."""
    sequence.prefill(prompt)
    token = choose()
    yield token
    for _ in range(n_gen - 1):
        sequence.decode(token)
        token = choose()
        yield token


def sampled(sequence: Sequence, prompt: array[int], n_gen: int, sampling: Sampling) -> Iterator[int]:
    """Drawn as in every engine with a loop of its own, not by llama.cpp's samplers."""
    choose = chooser(sampling.temperature, sampling.seed)
    sequence.show_logits(True)
    try:
        yield from generated(sequence, prompt, n_gen, lambda: choose(sequence.logits()))
    finally:  # also if the request is given up
        sequence.show_logits(False)


def opened(request: Load) -> tuple[Path, Checkpoint]:
    """The GGUF file, checked before llama.cpp sees it: it would also run architectures that are no LLaMA."""
    with failing(ModelError):
        checkpoint = open_checkpoint(Path(request.model_path))
        checkpoint.check_context(request.n_ctx)
    if checkpoint.format != "gguf":
        raise EngineFailure(
            "unsupported", f"{checkpoint.path} holds {checkpoint.format}, llama.cpp reads GGUF", "use a .gguf file"
        )
    return checkpoint.files[0], checkpoint


def quantised_file(
    file: Path, checkpoint: Checkpoint, request: Load, stages: dict[str, int], progress: ProgressSink
) -> Path:
    """A stage `convert` only where the file had to be made: an earlier load may have done it."""
    from . import quantise

    spent: dict[str, int] = {}
    kind, cache = request.configuration, Path(request.cache)
    try:
        with stage(spent, "convert"):
            path, new = quantise.quantised(
                file, checkpoint, kind, cache, request.threads, lambda fraction: progress("convert", fraction)
            )
    except UnsupportedModel as error:
        raise EngineFailure(error.code, str(error)) from None
    except (NoRoom, OSError) as error:
        raise EngineFailure("internal", f"no quantised file: {error}", "make room on the disk") from None
    stages |= spent if new else {}
    return path


def check_library(device: str, shards: int = 1) -> None:
    """Raises EngineFailure where llama.cpp was not built, does not load, or has no such devices."""
    if shards > 1 and device == "cpu":
        raise EngineFailure("unsupported", "llama.cpp splits a model over GPUs; a CPU is one device", "use one device")
    try:
        from .library import gpu_count, has_gpu, log
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineFailure("unsupported", f"llama.cpp cannot be loaded: {error}", "see README.md, Building") from None
    log()
    if device != "cpu" and not (device == "cuda" and has_gpu()):
        raise EngineFailure(
            "unsupported", f"this build of llama.cpp has no device {device!r}", "use cpu, or see README.md, Building"
        )
    if shards > 1 and shards > (found := gpu_count()):
        raise EngineFailure("unsupported", f"{shards} shards, but llama.cpp sees {found} GPUs", "ask for no more")


@contextmanager
def refusals(refused: type[Exception]) -> Iterator[None]:
    try:
        yield
    except refused as error:
        code = "out-of-memory" if "alloc" in str(error) or "out of memory" in str(error) else "bad-model"
        raise EngineFailure(code, f"llama.cpp: {error}") from None
