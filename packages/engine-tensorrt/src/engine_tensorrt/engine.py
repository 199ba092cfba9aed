"""TensorRT behind the engine interface. The only module that knows messages."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
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

from engine_tensorrt import decoding
from engine_tensorrt.account import Held, held
from engine_tensorrt.build import BuildFailed, Options, Sink, build_plan
from engine_tensorrt.cuda import CudaError, Device, open_driver
from engine_tensorrt.kernels import Kernels
from engine_tensorrt.library import FULL, RTX, Library, Unsupported, import_library
from engine_tensorrt.model import Style, llama_network
from engine_tensorrt.plans import Key, Plan, network_digest, read_plan, write_plan
from engine_tensorrt.precision import CLASSES, precision_named
from engine_tensorrt.session import RunFailed, Session, open_engine
from engine_tensorrt.weights import load_weights


@dataclass(frozen=True)
class Settings:
    """captured: fused attention, a profile of its own for decoding and that step as a CUDA graph, timings kept."""

    library: str
    precision: str
    captured: bool
    options: Options


EVERYWHERE = ("float32", "float16")
"""Precisions that every GPU has."""
THOROUGH = Options(level=5, split_profiles=True)
SETTINGS = {
    "basic": Settings(FULL, "float32", captured=False, options=Options()),
    "optimized": Settings(FULL, "float16", captured=True, options=THOROUGH),
    "rtx": Settings(RTX, "float16", captured=True, options=THOROUGH),
    "int8": Settings(FULL, "int8", captured=True, options=THOROUGH),
    "fp8": Settings(FULL, "fp8", captured=True, options=THOROUGH),
    "rtx-int8": Settings(RTX, "int8", captured=True, options=THOROUGH),
    "rtx-fp8": Settings(RTX, "fp8", captured=True, options=THOROUGH),
}


class TensorrtEngine(Engine):
    """LLaMA-3 as our own TensorRT network, on TensorRT and on TensorRT for RTX."""

    name = "tensorrt"
    configurations: ClassVar[Mapping[str, str]] = {
        "basic": "float32 without TF32, default builder, one context, loop on the host",
        "optimized": "float16, fused attention, two profiles, CUDA graph, token fed back on the device",
        "rtx": "optimized through TensorRT for RTX",
        "int8": "optimized with the blocks' matrices in int8, a scale for each row",
        "fp8": "optimized with the blocks' matrices in FP8 E4M3, a scale for each row",
        "rtx-int8": "int8 through TensorRT for RTX",
        "rtx-fp8": "fp8 through TensorRT for RTX",
    }

    options: ClassVar[Mapping[str, str]] = {
        "rebuild": "yes: build the plan even if one is kept",
        "precision": "float32, float16, bfloat16, int8 or fp8 in place of the configuration's own",
    }

    def __init__(self) -> None:
        self._device: Device | None = None
        self._session: Session | None = None
        self._held: Held | None = None

    def load(self, request: Load, progress: ProgressSink) -> Loaded:
        self.unload()
        if request.configuration not in SETTINGS:
            known = ", ".join(self.configurations)
            raise EngineFailure("unsupported", f"no configuration {request.configuration!r}", f"use one of {known}")
        settings, stages = SETTINGS[request.configuration], dict[str, int]()
        checkpoint = opened(request)
        precision = request.options.get("precision", settings.precision)
        with explained("" if precision in EVERYWHERE else precision):
            self._device = chosen_device(request.device)
            with stage(stages, "import"):
                library = import_library(settings.library)
            plan = ready_plan(request, checkpoint, library, settings, self._device, stages, progress)
            with more(stages, "read"):
                engine = open_engine(library, plan.data)
            with more(stages, "compile"):  # TensorRT for RTX compiles kernels here; a graph is captured
                kernels = Kernels(library, engine, plan.kernels) if library.just_in_time else None
                needed = (library, engine, self._device, checkpoint.config, request.n_ctx)
                self._session = Session(*needed, settings.captured, kernels)
            self._keep_kernels()
        self._held = Held(**plan.facts)
        freeze_garbage()
        return report(request, checkpoint, self._session, self._held, stages)

    def generate(self, prompt: array[int], n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        session = self._ready(prompt, len(prompt) + n_gen - 1)
        if sampling.greedy:
            return decoding.generate(session, prompt, n_gen)
        return decoding.sample(session, prompt, n_gen, chooser(sampling.temperature, sampling.seed))

    def score(self, tokens: array[int], n_prefill: int) -> Logits:
        return decoding.score(self._ready(tokens, len(tokens)), tokens, n_prefill).data

    def memory(self) -> MemoryAccount:
        session = self._loaded()
        assert self._held is not None
        weights_bytes = session.weights_bytes(self._held.weights_bytes)
        return MemoryAccount(weights_bytes, session.kv_cache_bytes, session.workspace_bytes)

    def unload(self) -> None:
        self._keep_kernels()
        self._session = None
        thaw_garbage()  # contexts and the engine go before the device they live on
        if self._device is not None:
            self._device.close()
            self._device = None

    def _keep_kernels(self) -> None:
        if self._session is not None and self._session.kernels is not None:
            self._session.kernels.keep()

    def _loaded(self) -> Session:
        return must_be_loaded(self._session)

    def _ready(self, tokens: array[int], n_positions: int) -> Session:
        session = self._loaded()
        check_tokens(tokens, n_positions, session.config.vocab_size, session.n_ctx)
        return session


def opened(request: Load) -> Checkpoint:
    with failing(ModelError):
        checkpoint = open_checkpoint(Path(request.model_path))
        checkpoint.check_context(request.n_ctx)
    return checkpoint


def chosen_device(name: str) -> Device:
    if name != "cuda":
        raise Unsupported(f"device {name!r}: TensorRT needs an NVIDIA GPU", "use --device cuda")
    return Device(open_driver())


def ready_plan(
    request: Load,
    checkpoint: Checkpoint,
    library: Library,
    settings: Settings,
    device: Device,
    stages: dict[str, int],
    progress: ProgressSink,
) -> Plan:
    """From the cache, else built and kept there. What a build takes stands apart in `stages`."""
    precision = precision_named(request.options.get("precision", settings.precision))
    if precision.eight_bit:
        with failing(ModelError):
            checkpoint.check_unquantised()
    fused = settings.captured and precision.has_fused_attention
    style = Style(precision.dtype, request.n_ctx, fused, precision.eight_bit)
    key = Key(
        network=network_digest(style),
        weights=checkpoint.fingerprint,
        library=f"{library.name} {library.version}",
        device=f"{device.name()} sm {device.capability()}",
        options=asdict(settings.options),
    )
    folder = Path(request.cache) / "tensorrt"
    with stage(stages, "read"):
        plan = None if is_rebuilt(request) else read_plan(folder, key)
    if plan is not None:
        return plan
    with stage(stages, "convert"):
        weights = load_weights(checkpoint, style, lambda fraction: progress("convert", fraction))
    with stage(stages, "compile"):
        network = library.trt.Builder(library.logger).create_network(0)
        needed = (checkpoint.config, style, weights, checkpoint.inverse_frequencies)
        made = llama_network(library.trt, network, *needed)

        timings = folder / "timings" if settings.captured else None

        def serialize(sink: Sink) -> None:
            build_plan(library, made, settings.options, sink, lambda fraction: progress("compile", fraction), timings)

        return write_plan(folder, key, serialize, asdict(held(library.trt, made, checkpoint.names())))


def is_rebuilt(request: Load) -> bool:
    asked = request.options.get("rebuild", "no")
    if asked not in ("yes", "no"):
        raise EngineFailure("unsupported", f"rebuild {asked!r}", "say yes or no")
    return asked == "yes"


@contextmanager
def more(stages: dict[str, int], name: str) -> Iterator[None]:
    """Time that counts for a stage besides what is there."""
    before = stages.get(name, 0)
    with stage(stages, name):
        yield
    stages[name] += before


@contextmanager
def explained(special: str) -> Iterator[None]:
    """What can go wrong while loading, as the failures that the protocol knows.

    `special`: a precision that a GPU may lack, or "".
    """
    try:
        yield
    except Unsupported as error:
        raise EngineFailure("unsupported", *map(str, error.args)) from error
    except MemoryError as error:
        raise EngineFailure("out-of-memory", str(error) or "no memory left", "use a smaller model") from error
    except BuildFailed as error:
        code, hint = ("unsupported", f"leave precision {special} away") if special else ("compile", "")
        raise EngineFailure(code, str(error)[:4000], hint) from error
    except ModelError as error:
        raise EngineFailure(error.code, str(error)) from error
    except (CudaError, RunFailed) as error:
        raise EngineFailure("internal", str(error)[:4000]) from error


def report(request: Load, checkpoint: Checkpoint, session: Session, account: Held, stages: dict[str, int]) -> Loaded:
    library = session.library
    return Loaded(
        id=request.id,
        weights_fingerprint=checkpoint.fingerprint,
        precision=CLASSES[account.weight_dtype],
        weight_dtype=account.weight_dtype,
        activation_dtype=account.activation_dtype,
        kv_dtype=session.kv_dtype,
        device=session.device.name(),
        threads=request.threads,
        n_ctx=request.n_ctx,
        vocab_size=checkpoint.config.vocab_size,
        weights_bytes=session.weights_bytes(account.weights_bytes),
        kv_cache_bytes=session.kv_cache_bytes,
        read_bytes_per_token=account.read_bytes_per_token,
        stages=stages,
        versions={"python": sys.version.split()[0], library.name: library.version, "numpy": np.__version__},
    )
