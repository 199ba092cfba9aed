"""PyTorch behind the engine interface. The only module that knows messages."""

from __future__ import annotations

import os
import shutil
import sys
from array import array
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
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
    failing,
    freeze_garbage,
    must_be_loaded,
    stage,
    thaw_garbage,
)
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Account, Load, Loaded

from engine_torch.decoding import Decoder
from engine_torch.model import Llama, weight
from engine_torch.quantize import MATRICES, prepare, quantise
from engine_torch.ranks import Ranks, check_ranks
from engine_torch.shard import ONE, Shard
from engine_torch.weights import load_model


@dataclass(frozen=True)
class Settings:
    half: bool
    compiled: bool
    quantisation: str = ""


SETTINGS = {
    "baseline": Settings(half=False, compiled=False),
    "half": Settings(half=True, compiled=False),
    "compile32": Settings(half=False, compiled=True),
    "optimized": Settings(half=True, compiled=True),
    "int8": Settings(half=True, compiled=True, quantisation="int8"),
    "nf4": Settings(half=True, compiled=True, quantisation="nf4"),
}


class TorchEngine(Engine):
    """LLaMA-3 in plain PyTorch, eager and compiled."""

    name = "torch"
    configurations: ClassVar[Mapping[str, str]] = {
        "baseline": "float32, eager",
        "half": "16-bit, eager",
        "compile32": "float32, torch.compile",
        "optimized": "16-bit, torch.compile; CUDA graphs on a GPU",
        "int8": "optimized with the blocks' matrices in int8, a scale for each row",
        "nf4": "optimized with the blocks' matrices in NF4, a peak for each run of 64",
    }

    shards = True

    def __init__(self) -> None:
        self._decoder: Decoder | None = None
        self._ranks: Ranks | None = None

    def load(self, request: Load, progress: ProgressSink) -> Loaded:
        self.unload()
        if request.configuration not in SETTINGS:
            raise EngineFailure("unsupported", f"unknown configuration {request.configuration!r}")
        chosen_device(request.device)
        checkpoint = opened(request)
        if request.shards == 1:
            self._decoder, loaded = load_part(request, checkpoint, ONE, progress)
        else:
            loaded = self._load_shared(request, checkpoint, progress)
        freeze_garbage()
        return loaded

    def _load_shared(self, request: Load, checkpoint: Checkpoint, progress: ProgressSink) -> Loaded:
        """This process is rank 0; the others do the same with their parts."""
        check_ranks(request.shards, request.device, request.threads)
        if kind := SETTINGS[request.configuration].quantisation:
            raise EngineFailure("unsupported", f"{kind} weights are not shared among ranks", "nearest: optimized")
        if rest := checkpoint.config.undivided(request.shards):
            complaint = f"{request.shards} shards do not divide {' and '.join(rest)} of this model"
            raise EngineFailure("unsupported", complaint, "every rank gets as many heads and columns")
        self._ranks = Ranks(request)
        stages: dict[str, int] = {}
        try:
            with stage(stages, "import"):
                self._ranks.join()
            self._decoder, own = load_part(request, checkpoint, self._ranks.shard, progress)
            return whole_report([own, *self._ranks.loaded()], stages)
        except BaseException:
            self.unload()
            raise

    def generate(self, prompt: array[int], n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        decoder = self._ready(prompt, len(prompt) + n_gen - 1)
        if self._ranks is None:
            return generated(decoder, prompt, n_gen, sampling)
        return self._ranks.led(lambda: generated(decoder, prompt, n_gen, sampling), prompt, n_gen)

    def score(self, tokens: array[int], n_prefill: int) -> Logits:
        decoder = self._ready(tokens, len(tokens))
        with nullcontext() if self._ranks is None else self._ranks.scoring(tokens, n_prefill):
            return decoder.score(tokens, n_prefill).data

    def profile(self, prompt: array[int], n_gen: int, folder: Path) -> Mapping[str, Path]:
        if self._ranks is not None:
            raise EngineFailure("unsupported", "the profiler sees one process, this model is in several", "one device")
        from engine_torch.profiling import traced

        return traced(self._ready(prompt, len(prompt) + n_gen - 1), prompt, n_gen, folder)

    def memory(self) -> MemoryAccount:
        own = account(self._loaded().model)
        if self._ranks is None:
            return own
        parts: list[MemoryAccount | Account] = [own, *self._ranks.memory()]
        peaks = [part.device_peak_bytes for part in parts if part.device_peak_bytes is not None]
        return MemoryAccount(
            sum(part.weights_bytes for part in parts),
            sum(part.kv_cache_bytes for part in parts),
            device_peak_bytes=sum(peaks) if peaks else None,
        )

    def unload(self) -> None:
        self._decoder = None
        if self._ranks is not None:
            self._ranks.close()
            self._ranks = None
        thaw_garbage()

    def _loaded(self) -> Decoder:
        if self._ranks is not None and self._ranks.closed:
            raise EngineFailure("internal", "a rank was lost in an earlier request", "unload, and load again")
        return must_be_loaded(self._decoder)

    def _ready(self, tokens: array[int], n_positions: int) -> Decoder:
        decoder = self._loaded()
        check_tokens(tokens, n_positions, decoder.model.config.vocab_size, len(decoder.positions))
        return decoder


def generated(decoder: Decoder, prompt: array[int], n_gen: int, sampling: Sampling) -> Iterator[int]:
    if sampling.greedy:
        return decoder.generate(prompt, n_gen)
    return decoder.sample(prompt, n_gen, chooser(sampling.temperature, sampling.seed))


def load_part(request: Load, checkpoint: Checkpoint, shard: Shard, progress: ProgressSink) -> tuple[Decoder, Loaded]:
    """What one rank holds, and its report of that: the whole model, where it is the only one."""
    settings, stages = SETTINGS[request.configuration], dict[str, int]()
    configure(request, settings)
    try:
        model = loaded_model(request, checkpoint, settings, shard, progress, stages)
        decoder = Decoder(model, request.n_ctx, settings.compiled)
    except torch.OutOfMemoryError as error:
        raise EngineFailure("out-of-memory", str(error), "use a smaller model or a 16-bit configuration") from None
    return decoder, report(request, checkpoint, model, stages)


def chosen_device(name: str) -> torch.device:
    if name not in ("cpu", "cuda"):
        raise EngineFailure("unsupported", f"device {name!r}: torch runs on cpu and cuda here")
    if name == "cuda" and not torch.cuda.is_available():
        raise EngineFailure("unsupported", "device 'cuda': torch sees no GPU", "use --device cpu")
    return torch.device(name)


def opened(request: Load) -> Checkpoint:
    with failing(ModelError):
        checkpoint = open_checkpoint(Path(request.model_path))
        checkpoint.check_context(request.n_ctx)
        if SETTINGS[request.configuration].quantisation:
            checkpoint.check_unquantised()
    return checkpoint


def loaded_model(
    request: Load,
    checkpoint: Checkpoint,
    settings: Settings,
    shard: Shard,
    progress: ProgressSink,
    stages: dict[str, int],
) -> Llama:
    kind, device = settings.quantisation, torch.device(request.device)
    dtype = weight_dtype(checkpoint, settings, device)
    with stage(stages, "read"), failing(ModelError):
        matrix = MATRICES.get(kind, weight)
        model = load_model(checkpoint, dtype, device, lambda fraction: progress("read", fraction), matrix, shard)
    if kind:
        with stage(stages, "convert"), failing(ModelError):
            prepare(kind, device, Path(request.cache))
            quantise(model, checkpoint, kind, device, lambda fraction: progress("convert", fraction))
    return model


def weight_dtype(checkpoint: Checkpoint, settings: Settings, device: torch.device) -> torch.dtype:
    """16 bits: the file's own type, so that nothing is rounded or converted; float16 for files of other types.

    Compiled on a processor that multiplies bfloat16 it is the one: float16 products are emulated there, and slower.
    """
    if not settings.half:
        return torch.float32
    in_file = checkpoint.tensor("embed_tokens").dtype
    multiplies_bf16 = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if in_file == "bf16" or (settings.compiled and multiplies_bf16) else torch.float16


def configure(request: Load, settings: Settings) -> None:
    """This process's torch: its share of the threads, exact float32, where compiled code is kept."""
    torch.set_num_threads(request.threads // request.shards)
    torch.set_float32_matmul_precision("highest")
    if not settings.compiled:
        return
    if request.device == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++")):
        raise EngineFailure("compile", "torch.compile needs a C++ compiler, there is none on PATH", "install g++")
    cache = Path(request.cache)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "inductor")
    os.environ["TRITON_CACHE_DIR"] = str(cache / "triton")
    from torch._inductor import config

    config.compile_threads = 1  # a pool of compilers would stay behind, idle but in memory


def report(request: Load, checkpoint: Checkpoint, model: Llama, stages: dict[str, int]) -> Loaded:
    matrix, table = model.layers[0].self_attn.k_proj, model.embed_tokens
    kind = next((kind for kind, made in MATRICES.items() if isinstance(matrix, made)), "")
    device = torch.cuda.get_device_name() if table.is_cuda else "cpu"
    return Loaded(
        id=request.id,
        weights_fingerprint=checkpoint.fingerprint,
        precision=kind or ("float32" if table.dtype == torch.float32 else "16-bit"),
        weight_dtype=kind or dtype_name(matrix),
        activation_dtype="float32",
        kv_dtype=dtype_name(model.layers[0].self_attn.keys),
        device=device,
        threads=torch.get_num_threads(),
        n_ctx=request.n_ctx,
        vocab_size=checkpoint.config.vocab_size,
        weights_bytes=weights_bytes(model),
        kv_cache_bytes=kv_cache_bytes(model),
        read_bytes_per_token=read_bytes_per_token(model),
        stages=stages,
        versions=versions(),
    )


def whole_report(parts: list[Loaded], stages: dict[str, int]) -> Loaded:
    """Of all ranks, rank 0 first: what they hold and read adds up, and so do their threads."""
    own = parts[0]
    summed = ("threads", "weights_bytes", "kv_cache_bytes", "read_bytes_per_token")
    return Loaded(
        **{name: getattr(own, name) for name in own.__struct_fields__}
        | {name: sum(getattr(part, name) for part in parts) for name in summed}
        | {"shards": len(parts), "device_bytes": [part.weights_bytes + part.kv_cache_bytes for part in parts]}
        | {"stages": stages | own.stages}
    )


def account(model: Llama) -> MemoryAccount:
    """Of this process."""
    peak = torch.cuda.max_memory_allocated() if model.norm.is_cuda else None
    return MemoryAccount(weights_bytes(model), kv_cache_bytes(model), device_peak_bytes=peak)


def dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def weights_bytes(model: Llama) -> int:
    """A tied table counts once: `parameters` names it once."""
    return sum(parameter.nbytes for parameter in model.parameters())


def read_bytes_per_token(model: Llama) -> int:
    """Everything but an untied embedding table, of which one row is read."""
    table = model.embed_tokens
    return weights_bytes(model) - (0 if table is model.lm_head else table.nbytes - table[0].nbytes)


def kv_cache_bytes(model: Llama) -> int:
    return sum(layer.self_attn.keys.nbytes + layer.self_attn.values.nbytes for layer in model.layers)


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0], "torch": str(torch.__version__), "numpy": np.__version__}
    return found | ({"cuda": torch.version.cuda or "none"} if torch.cuda.is_available() else {})
