"""tinygrad behind the engine interface. The only module that knows messages.

tinygrad reads its settings when it is imported, so the modules that import it are themselves imported inside `load`.
"""

from __future__ import annotations

import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from enginebench_models.checkpoint import open_checkpoint
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

from engine_tinygrad.backend import (
    Backend,
    SettingsConflict,
    UnknownDevice,
    choose_backend,
    compiler_version,
    prepare,
)
from engine_tinygrad.shard import TooFewDevices, check_devices

if TYPE_CHECKING:
    from enginebench_models.config import LlamaConfig

    from engine_tinygrad.graphs import Graphs, Step


@dataclass(frozen=True)
class Settings:
    beam_width: int = 0
    quantisation: str = ""


SETTINGS = {
    "default": Settings(),
    "beam": Settings(beam_width=2),
    "int8": Settings(quantisation="int8"),
    "nf4": Settings(quantisation="nf4"),
}


class TinygradEngine(Engine):
    """LLaMA-3 written on tinygrad."""

    name = "tinygrad"
    configurations: ClassVar[Mapping[str, str]] = {
        "default": "float16 weights, kernels from tinygrad's own heuristics",
        "beam": "default with a BEAM=2 kernel search inside load",
        "int8": "default with the blocks' matrices in int8, a scale for each row",
        "nf4": "default with the blocks' matrices in NF4, a peak for each run of 64",
    }

    shards = True

    def __init__(self) -> None:
        self._graphs: Graphs | None = None
        self._n_ctx = 0

    def load(self, request: Load, progress: ProgressSink) -> Loaded:
        self.unload()
        stages: dict[str, int] = {}
        if request.configuration not in SETTINGS:
            known = ", ".join(SETTINGS)
            raise EngineFailure("unsupported", f"no configuration {request.configuration!r}", f"use one of {known}")
        settings = SETTINGS[request.configuration]
        kind = settings.quantisation
        with explained():
            backend = choose_backend(request.device)
            checkpoint = open_checkpoint(Path(request.model_path))
            checkpoint.check_context(request.n_ctx)
            if kind:
                checkpoint.check_unquantised()
            check_shards(request, backend, checkpoint.config)
            with stage(stages, "import"):
                prepare(backend, request.threads // request.shards, Path(request.cache))
                from engine_tinygrad import account, graphs
            reading = "convert" if kind else "read"  # one pass does both
            with stage(stages, reading):
                llama = graphs.load_llama(
                    checkpoint, backend, request.n_ctx, lambda f: progress(reading, f), kind, request.shards
                )
            self._graphs = graphs.Graphs(llama, backend.chunk)
            with stage(stages, "compile"):
                self._graphs.capture(settings.beam_width, lambda f: progress("compile", f))
        self._n_ctx = request.n_ctx
        freeze_garbage()  # walking the graphs takes 0.15 s, as long as a token or two of the 1B model
        held = account.of(self._graphs)
        return Loaded(
            id=request.id,
            weights_fingerprint=checkpoint.fingerprint,
            precision=kind or "16-bit",
            weight_dtype=held.weight_dtype,
            activation_dtype=held.activation_dtype,
            kv_dtype=held.kv_dtype,
            device=held.device,
            threads=held.threads,
            n_ctx=request.n_ctx,
            vocab_size=checkpoint.config.vocab_size,
            weights_bytes=held.weights_bytes,
            kv_cache_bytes=held.kv_cache_bytes,
            read_bytes_per_token=held.read_bytes_per_token,
            shards=len(llama.devices),
            device_bytes=held.device_bytes,
            stages=stages,
            versions=versions(backend),
        )

    def generate(self, prompt: array[int], n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        graphs, choose = self._ready(prompt, len(prompt) + n_gen - 1), choice(sampling)
        token = choose(graphs.prefill(prompt))
        yield token
        for position in range(len(prompt), len(prompt) + n_gen - 1):
            token = choose(graphs.decode(token, position))
            yield token

    def score(self, tokens: array[int], n_prefill: int) -> Logits:
        graphs = self._ready(tokens, len(tokens))
        logits = np.empty((len(tokens) - n_prefill + 1, graphs.llama.config.vocab_size), np.float32)
        logits[0] = graphs.prefill(tokens[:n_prefill]).read_logits()
        for row, position in enumerate(range(n_prefill, len(tokens)), 1):
            logits[row] = graphs.decode(tokens[position], position).read_logits()
        return logits.data

    def profile(self, prompt: array[int], n_gen: int, folder: Path) -> Mapping[str, Path]:
        graphs = self._ready(prompt, len(prompt) + n_gen - 1)
        from engine_tinygrad import profiling

        try:
            return profiling.traced(graphs, prompt, n_gen, folder)
        except profiling.NothingRecorded as error:
            raise EngineFailure("unsupported", str(error)) from None

    def memory(self) -> MemoryAccount:
        graphs = self._loaded()
        from engine_tinygrad import account

        held = account.of(graphs)
        return MemoryAccount(held.weights_bytes, held.kv_cache_bytes, workspace_bytes=held.workspace_bytes)

    def unload(self) -> None:
        self._graphs = None
        thaw_garbage()

    def _loaded(self) -> Graphs:
        return must_be_loaded(self._graphs)

    def _ready(self, tokens: array[int], n_positions: int) -> Graphs:
        graphs = self._loaded()
        check_tokens(tokens, n_positions, graphs.llama.config.vocab_size, self._n_ctx)
        return graphs


def choice(sampling: Sampling) -> Callable[[Step], int]:
    """How the next id is had: the greedy one is chosen on the device, a draw needs the logits on the host."""
    from engine_tinygrad.graphs import Step

    if sampling.greedy:
        return Step.read_token
    choose = chooser(sampling.temperature, sampling.seed)
    return lambda step: choose(step.read_logits())


def check_shards(request: Load, backend: Backend, config: LlamaConfig) -> None:
    """Raises EngineFailure or TooFewDevices for what cannot be divided among so many devices."""
    if request.shards == 1:
        return
    check_devices(backend, request.shards, request.threads)
    if kind := SETTINGS[request.configuration].quantisation:
        raise EngineFailure("unsupported", f"{kind} weights are not divided among devices", "nearest: default")
    if rest := config.undivided(request.shards):
        complaint = f"{request.shards} shards do not divide {' and '.join(rest)} of this model"
        raise EngineFailure("unsupported", complaint, "every device gets as many heads and columns")


@contextmanager
def explained() -> Iterator[None]:
    """What can go wrong while loading, as the failures that the protocol knows."""
    try:
        yield
    except UnknownDevice as error:
        raise EngineFailure("unsupported", str(error), "use cpu, or cuda with an NVIDIA driver") from error
    except TooFewDevices as error:
        raise EngineFailure("unsupported", str(error), "ask for no more shards than there are devices") from error
    except SettingsConflict as error:
        raise EngineFailure("unsupported", str(error), "load in a new process") from error
    except ModelError as error:
        raise EngineFailure(error.code, str(error)) from error
    except subprocess.CalledProcessError as error:
        raise EngineFailure("compile", f"clang ended with {error.returncode}", "see stderr") from error


def versions(backend: Backend) -> dict[str, str]:
    found = {
        "python": sys.version.split()[0],
        "tinygrad": version("tinygrad"),
        "numpy": version("numpy"),
        "clang": compiler_version(backend),
    }
    return {name: value for name, value in found.items() if value}
