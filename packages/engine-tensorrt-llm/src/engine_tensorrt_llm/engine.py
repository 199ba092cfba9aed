"""TensorRT-LLM behind the engine interface. The only module that knows messages.

TensorRT-LLM reads its environment when it is imported, and takes seconds: `library` is imported in `load`.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.errors import ModelError
from enginebench_models.hugging_face import folder_of
from enginebench_protocol.engine import (
    GREEDY,
    Engine,
    Logits,
    MemoryAccount,
    ProgressSink,
    Sampling,
    check_tokens,
    failing,
    must_be_loaded,
    stage,
)
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.host import installed_versions
from enginebench_protocol.messages import Load, Loaded

from engine_tensorrt_llm.account import Held, held, total
from engine_tensorrt_llm.census import Incomplete
from engine_tensorrt_llm.decoding import Decoder
from engine_tensorrt_llm.settings import Settings, environment

WHERE_FROM = "`just sync tensorrt-llm` where NVIDIA's package index is reachable, or --python with NVIDIA's container"


class TensorRtLlmEngine(Engine):
    """TensorRT-LLM's LLM API in this process, one request at a time."""

    name = "tensorrt-llm"
    configurations: ClassVar[Mapping[str, str]] = {"default": "16-bit, CUDA graphs, overlapped scheduling"}
    shards = True

    def __init__(self) -> None:
        self._decoder: Decoder | None = None
        self._held: Held | None = None

    def load(self, request: Load, progress: ProgressSink) -> Loaded:
        self.unload()
        stages: dict[str, int] = {}
        if request.device != "cuda":
            raise EngineFailure("unsupported", f"device {request.device!r}: needs an NVIDIA GPU", "use --device cuda")
        with stage(stages, "import"):
            library = imported(Path(request.cache))
            check_gpus(request.shards, library.n_gpus())
        checkpoint, settings = opened(request, stages, progress)
        progress("read", 0.0)
        with stage(stages, "read"), refusals(library):
            llm = library.started(settings, request.threads)
            self._decoder = Decoder(llm, library.sampling, settings.vocab_size, request.n_ctx, Path(request.scratch))
            workers = held_by_workers(self._decoder, llm, request.shards)
        self._held = found = total(workers)
        if found.max_positions < request.n_ctx:
            what = f"TensorRT-LLM made room for {found.max_positions} positions, not {request.n_ctx}"
            raise EngineFailure("out-of-memory", what, "use a smaller model or shorter requests")
        return report(request, checkpoint, workers, stages, library)

    def generate(self, prompt: array[int], n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        decoder = self._ready(prompt, len(prompt) + n_gen)
        if sampling.greedy:
            return decoder.generate(prompt, n_gen)
        return decoder.sample(prompt, n_gen, sampling.temperature, sampling.seed)

    def score(self, tokens: array[int], n_prefill: int) -> Logits:
        return self._ready(tokens, len(tokens)).score(tokens, n_prefill).data

    def memory(self) -> MemoryAccount:
        self._loaded()
        assert self._held is not None
        # torch does not know the pool, nor the graphs: its peak would be a part taken for the whole
        return MemoryAccount(self._held.weights_bytes, self._held.kv_cache_bytes)

    def unload(self) -> None:
        decoder, self._decoder, self._held = self._decoder, None, None
        if decoder is not None:
            decoder.close()

    def _loaded(self) -> Decoder:
        return must_be_loaded(self._decoder)

    def _ready(self, tokens: array[int], n_positions: int) -> Decoder:
        decoder = self._loaded()
        check_tokens(tokens, n_positions, decoder.vocab_size, decoder.n_ctx)
        return decoder


def imported(cache: Path) -> ModuleType:
    """`library`, with the environment set. Raises EngineFailure where it is not installed or sees no GPU."""
    os.environ.update(environment(cache))
    try:
        from engine_tensorrt_llm import library
    except (ImportError, OSError, RuntimeError) as error:
        what = f"`tensorrt_llm` libraries not installed: {error}"
        raise EngineFailure("unsupported", what[:4000], WHERE_FROM) from None
    return library


def check_gpus(shards: int, found: int) -> None:
    if not found:
        raise EngineFailure("unsupported", "needs an NVIDIA GPU: torch sees none", "check nvidia-smi")
    if shards > found:
        raise EngineFailure("unsupported", f"{shards} shards, torch sees {found} GPUs", "ask for no more than those")


def held_by_workers(decoder: Decoder, llm: Any, shards: int) -> list[Held]:
    """The only worker is in this process. Raises Incomplete."""
    return [held(llm._executor)] if shards == 1 else decoder.held_by(shards)


def opened(request: Load, stages: dict[str, int], progress: ProgressSink) -> tuple[Checkpoint, Settings]:
    """The checkpoint, and the folder that TensorRT-LLM will read; written first where the model is a GGUF file."""
    cache = Path(request.cache) / "hugging-face"
    with failing(ModelError):
        checkpoint = open_checkpoint(Path(request.model_path))
        checkpoint.check_context(request.n_ctx)
        check_type(checkpoint)
        with stage(stages, "convert"):
            folder = folder_of(checkpoint, cache, lambda fraction: progress("convert", fraction))
    return checkpoint, Settings(folder, checkpoint.config.vocab_size, request.n_ctx, request.shards)


def check_type(checkpoint: Checkpoint) -> None:
    """A folder is read in the type that it names, and the attention kernels are for 16 bits."""
    found = checkpoint.tensor("embed_tokens").dtype
    if checkpoint.format == "safetensors" and found not in ("f16", "bf16"):
        what = f"{checkpoint.path} holds {found}: TensorRT-LLM computes in the type of the files, and needs 16 bits"
        raise EngineFailure("unsupported", what, "give 16-bit safetensors, or a GGUF file, which is converted")


@contextmanager
def refusals(library: ModuleType) -> Iterator[None]:
    """What can go wrong while TensorRT-LLM starts."""
    try:
        yield
    except library.OutOfMemory as error:
        raise EngineFailure("out-of-memory", str(error), "use a smaller model, or more GPUs") from None
    except (ValueError, RuntimeError, Incomplete) as error:  # pydantic's too; its C++ parts raise RuntimeError
        code = "out-of-memory" if "out of memory" in str(error).lower() else "unsupported"
        raise EngineFailure(code, f"TensorRT-LLM: {error}"[:4000]) from error


def report(
    request: Load, checkpoint: Checkpoint, workers: Sequence[Held], stages: dict[str, int], library: ModuleType
) -> Loaded:
    found, several = total(workers), len(workers) > 1
    return Loaded(
        id=request.id,
        weights_fingerprint=checkpoint.fingerprint,
        precision="16-bit",
        weight_dtype=found.weight_dtype,
        activation_dtype=found.activation_dtype,
        kv_dtype=found.kv_dtype,
        device=f"{len(workers)} × {library.device_name()}" if several else library.device_name(),
        threads=library.n_threads(),
        n_ctx=request.n_ctx,
        vocab_size=checkpoint.config.vocab_size,
        weights_bytes=found.weights_bytes,
        kv_cache_bytes=found.kv_cache_bytes,
        read_bytes_per_token=found.read_bytes_per_token,
        stages=stages,
        versions=versions(library.cuda_version()),
        shards=len(workers),
        device_bytes=[each.weights_bytes + each.kv_cache_bytes for each in workers] if several else [],
    )


def versions(cuda: str | None) -> dict[str, str]:
    found = installed_versions("tensorrt-llm", "torch", "tensorrt", "flashinfer-python", "transformers")
    return found | ({"cuda": cuda} if cuda else {})
