"""ONNX Runtime's session for a graph: device, threads, where weights come from.

What a setting costs or saves is said here; nothing else chooses settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime
from enginebench_models.config import LlamaConfig
from onnx import ModelProto, TensorProto
from onnxruntime import InferenceSession, OrtValue, SessionOptions
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from engine_onnxruntime.weights import Weights

FOLDER_KEY = "session.model_external_initializers_file_folder_path"  # onnxruntime_session_options_config_keys.h
LOG_ERRORS = 3
BLOCK_ELEMENTS = 1 << 21
"""8 MiB as float32. Tried on 2 cores with 32 MiB of shared cache: half and twice as much do about as well, a quarter
is a third slower (the cost of an operator), eight times as much nearly three times (memory instead of cache)."""
SESSION_ERRORS = (
    errors.EPFail,
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.NotImplemented,
    errors.RuntimeException,
)


@dataclass(frozen=True)
class Device:
    name: str
    provider: str
    options: Mapping[str, str] = field(default_factory=dict)


CPU = Device("cpu", "CPUExecutionProvider")
CUDA = Device(
    "cuda",
    "CUDAExecutionProvider",
    {"device_id": "0", "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"},
)


@dataclass(frozen=True)
class Method:
    """How products get their weights.

    compute         ONNX type of products, activations and cache
    block_elements  0: matrices are converted to `compute` once, while loading. Above: matrices stay as stored, and
                    each run casts them in blocks of this size, which do not leave the processor's cache
    """

    compute: int
    block_elements: int = 0

    @property
    def optimisation(self) -> str:
        """Basic optimisation folds casts of constants, which is what converts once. No more is to gain: the graph is
        written with fused operators."""
        return "ORT_DISABLE_ALL" if self.block_elements else "ORT_ENABLE_BASIC"

    @property
    def arena(self) -> bool:
        """Blocks are the same memory again and again. Converted weights would only be rounded up by an arena."""
        return self.block_elements > 0


class Unsupported(Exception):
    """What was asked for cannot be done with this library, device or file."""


def choose_device(name: str) -> Device:
    """The device for "cpu" or "cuda"; raises Unsupported."""
    if name == CPU.name:
        return CPU
    available = onnxruntime.get_available_providers()
    if name == CUDA.name and CUDA.provider in available:
        return CUDA
    raise Unsupported(
        f"device {name!r}: this onnxruntime has {', '.join(available)}; use cpu, or for cuda an environment with the "
        "extra engine-onnxruntime[cuda]"
    )


def check_shape(config: LlamaConfig) -> None:
    """Raises Unsupported for what GroupQueryAttention refuses (group_query_attention_helper.h, when it rotates)."""
    if config.head_dim % 16:
        raise Unsupported(f"head_dim {config.head_dim}: ONNX Runtime's GroupQueryAttention wants a multiple of 16")


def choose_method(configuration: str, device: Device, stored: str) -> Method:
    """On x86 the CPU's provider has matrix products in float32 only, so 16-bit weights have to be cast there."""
    if configuration == "float32":
        return Method(TensorProto.FLOAT)
    if device is not CPU:
        return Method(TensorProto.FLOAT16)
    return Method(TensorProto.FLOAT, 0 if stored == "f32" else BLOCK_ELEMENTS)


def open_session(model: ModelProto, weights: Weights, device: Device, method: Method, threads: int) -> InferenceSession:
    """The arrays in `weights.values` have to outlive the session."""
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, method.optimisation)
    options.enable_cpu_mem_arena = method.arena
    options.log_severity_level = LOG_ERRORS
    if weights.values:
        given = [OrtValue.ortvalue_from_numpy(array) for array in weights.values.values()]
        options.add_external_initializers(list(weights.values), given)
    if weights.folder != Path():
        options.add_session_config_entry(FOLDER_KEY, str(weights.folder))
    return InferenceSession(model.SerializeToString(), options, providers=[(device.provider, dict(device.options))])
