"""vLLM behind the engine interface. The only module that knows messages.

vLLM reads its environment when it is imported, and takes seconds: the modules that import it are imported in `load`.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.errors import ModelError
from enginebench_models.hugging_face import own_folder, sixteen_bit_type, written_folder
from enginebench_models.packed_folder import FORMS, packed_folder
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
from enginebench_protocol.host import installed_versions
from enginebench_protocol.messages import Load, Loaded

from engine_vllm.settings import Settings, environment

if TYPE_CHECKING:
    from engine_vllm.account import Held
    from engine_vllm.decoding import Decoder


class VllmEngine(Engine):
    """vLLM's engine in this process, one request at a time."""

    name = "vllm"
    configurations: ClassVar[Mapping[str, str]] = {
        "default": "16-bit, compiled, CUDA graphs",
        "eager": "16-bit, neither compiled nor graphs",
        "int8": "default with the blocks' matrices in int8, a scale for each row",
        "int4": "default with the blocks' matrices in 4 bits, a scale for each 32",
    }

    shards = True

    def __init__(self) -> None:
        self._decoder: Decoder | None = None
        self._held: Held | None = None

    def load(self, request: Load, progress: ProgressSink) -> Loaded:
        self.unload()
        stages: dict[str, int] = {}
        checkpoint, settings = opened(request, stages, progress)
        with stage(stages, "import"):
            check_library(Path(request.cache))
        from engine_vllm import account, starting

        progress("read", 0.0)
        with refusals():
            self._decoder = starting.started(settings, request.threads, stages)
            workers = self._decoder.engine.collective_rpc(account.held)
            self._held = account.total(workers)
        return report(request, checkpoint, self._held, workers, settings.quantisation, stages)

    def generate(self, prompt: array[int], n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        if sampling.greedy:
            return self._loaded().generate(prompt, n_gen)
        return self._loaded().sample(prompt, n_gen, sampling.temperature, sampling.seed)

    def score(self, tokens: array[int], n_prefill: int) -> Logits:
        return self._loaded().score(tokens, n_prefill).data

    def memory(self) -> MemoryAccount:
        from engine_vllm.account import peak_bytes

        peak = sum(self._loaded().engine.collective_rpc(peak_bytes))
        assert self._held is not None
        return MemoryAccount(self._held.weights_bytes, self._held.kv_cache_bytes, device_peak_bytes=peak)

    def unload(self) -> None:
        decoder, self._decoder, self._held = self._decoder, None, None
        if decoder is not None:
            decoder.close()

    def _loaded(self) -> Decoder:
        return must_be_loaded(self._decoder)


def opened(request: Load, stages: dict[str, int], progress: ProgressSink) -> tuple[Checkpoint, Settings]:
    """The checkpoint, and the folder that vLLM will read; written first where the model is a GGUF file."""
    if request.configuration not in VllmEngine.configurations:
        known = ", ".join(VllmEngine.configurations)
        raise EngineFailure("unsupported", f"no configuration {request.configuration!r}", f"use one of {known}")
    if request.device != "cuda":
        raise EngineFailure("unsupported", f"device {request.device!r}: vLLM needs an NVIDIA GPU", "use --device cuda")
    kind = request.configuration if request.configuration in FORMS else ""
    with failing(ModelError):
        checkpoint = open_checkpoint(Path(request.model_path))
        checkpoint.check_context(request.n_ctx)
        if kind:
            checkpoint.check_unquantised()
        folder = None if kind else own_folder(checkpoint)
        if folder is None:
            with stage(stages, "convert"):
                folder = made_folder(checkpoint, kind, request, lambda fraction: progress("convert", fraction))
    eager, dtype = request.configuration == "eager", sixteen_bit_type(checkpoint)
    return checkpoint, Settings(folder, checkpoint.config, dtype, request.n_ctx, eager, request.shards, kind)


def made_folder(checkpoint: Checkpoint, kind: str, request: Load, progress: Callable[[float], None]) -> Path:
    cache = Path(request.cache) / "hugging-face"
    if kind:
        return packed_folder(checkpoint, kind, cache, request.threads, progress)
    return written_folder(checkpoint, cache, progress)


def check_library(cache: Path) -> None:
    """Import vLLM with its environment set. Raises EngineFailure where it is not installed or sees no GPU."""
    os.environ.update(environment(cache))
    try:
        import torch
        import vllm  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineFailure("unsupported", f"vLLM cannot be imported: {error}", "just sync vllm") from None
    if not torch.cuda.is_available():
        raise EngineFailure("unsupported", "vLLM needs an NVIDIA GPU, torch sees none", "check nvidia-smi")


@contextmanager
def refusals() -> Iterator[None]:
    """What can go wrong while vLLM starts. Only after it is imported."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineFailure("out-of-memory", str(error), "use a smaller model, or more GPUs") from None
    except ValueError as error:  # pydantic's too: how vLLM refuses arguments and memory
        code = "out-of-memory" if "memory" in str(error) else "unsupported"
        raise EngineFailure(code, f"vLLM: {error}"[:4000]) from error


def report(
    request: Load, checkpoint: Checkpoint, held: Held, workers: Sequence[Held], kind: str, stages: dict[str, int]
) -> Loaded:
    """`held`: by all `workers` together. vLLM has one of them for each GPU. `kind`: of quantisation, or ""."""
    import torch

    return Loaded(
        id=request.id,
        weights_fingerprint=checkpoint.fingerprint,
        precision=kind or "16-bit",
        weight_dtype=kind or held.weight_dtype,
        activation_dtype=held.activation_dtype,
        kv_dtype=held.kv_dtype,
        device=held.device,
        threads=torch.get_num_threads(),
        n_ctx=request.n_ctx,
        vocab_size=checkpoint.config.vocab_size,
        weights_bytes=held.weights_bytes,
        kv_cache_bytes=held.kv_cache_bytes,
        read_bytes_per_token=held.read_bytes_per_token,
        stages=stages,
        versions=versions(torch.version.cuda),
        shards=len(workers),
        device_bytes=[w.weights_bytes + w.kv_cache_bytes for w in workers] if len(workers) > 1 else [],
    )


def versions(cuda: str | None) -> dict[str, str]:
    found = installed_versions("vllm", "torch", "triton", "flashinfer-python", "transformers")
    return found | ({"cuda": cuda} if cuda else {})
