"""A GPU that is not there: the driver's calls on host memory, and a plan that the interpreter runs.

The stream does nothing before somebody waits for it, so that host memory which is written too early, or read without
waiting, shows. Fresh memory holds NaNs.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from engine_tensorrt.build import Options, profiles
from engine_tensorrt.model import IDS, UPDATED, LlamaNetwork
from engine_tensorrt.number_types import name_of
from enginebench_models.sixteen_bits import rounded_to_bfloat16

from .interpreter import Interpreter, decoded

Work = Callable[[], object]
SCALARS = (ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p)


class FakeDriver:
    """What cuda.py calls of libcuda. `calls` counts them by name; `fail` makes one return a status."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.queue: list[tuple[Work, int | None]] = []
        self.recording: list[Work] | None = None
        self.graphs: dict[int, list[Work]] = {}
        self.handles = itertools.count(1)
        self.calls: dict[str, int] = {}
        self.fail: dict[str, int] = {}
        self.effects: dict[str, Callable[..., None]] = {
            "cuGetErrorString": self.words_of,
            "cuDeviceGetName": self.name,
            "cuDeviceGetAttribute": self.attribute,
            "cuStreamCreate": self.new_handle,
            "cuEventCreate": self.new_handle,
            "cuMemAlloc_v2": self.allocate,
            "cuMemHostAlloc": self.allocate,
            "cuMemFree_v2": self.free,
            "cuMemFreeHost": self.free,
            "cuMemsetD8Async": self.fill,
            "cuMemcpyHtoDAsync_v2": self.copy,
            "cuMemcpyDtoHAsync_v2": self.copy,
            "cuMemcpyDtoDAsync_v2": self.copy,
            "cuEventRecord": self.record,
            "cuEventSynchronize": self.wait,
            "cuStreamSynchronize": self.synchronize,
            "cuStreamBeginCapture_v2": self.begin_capture,
            "cuStreamEndCapture": self.end_capture,
            "cuGraphInstantiateWithFlags": self.instantiate,
            "cuGraphLaunch": self.launch,
        }

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls[name] = self.calls.get(name, 0) + 1
            if name in self.fail:
                return self.fail[name]
            given = [argument.value if isinstance(argument, SCALARS) else argument for argument in arguments]
            self.effects.get(name, self.nothing)(*given)
            return 0

        return call

    def nothing(self, *arguments: Any) -> None:
        """Calls whose effect no test looks at."""

    def words_of(self, status: int, text: Any) -> None:
        text._obj.value = b"made up"

    def name(self, text: Any, size: int, device: int) -> None:
        text.value = b"Made-up GPU"

    def attribute(self, value: Any, attribute: int, device: int) -> None:
        value._obj.value = {75: 8, 76: 9}[attribute]

    def new_handle(self, stream: Any, flags: int) -> None:
        stream._obj.value = next(self.handles)

    def allocate(self, address: Any, n_bytes: int, flags: int = 0) -> None:
        memory = (ctypes.c_uint8 * n_bytes)()
        ctypes.memset(memory, 0xFF, n_bytes)
        address._obj.value = ctypes.addressof(memory)
        self.memory[address._obj.value] = memory

    def free(self, address: int) -> None:
        del self.memory[address]

    def fill(self, address: int, value: int, n_bytes: int, stream: int) -> None:
        self.enqueue(lambda: ctypes.memset(address, value, n_bytes))

    def copy(self, target: int, source: int, n_bytes: int, stream: int) -> None:
        self.enqueue(lambda: ctypes.memmove(target, source, n_bytes))

    def record(self, event: int, stream: int) -> None:
        assert self.recording is None
        self.queue.append((lambda: None, event))

    def wait(self, event: int) -> None:
        last = max((i for i, (_, mark) in enumerate(self.queue) if mark == event), default=-1)
        self.run(last + 1)

    def synchronize(self, stream: int) -> None:
        assert self.recording is None, "waits for a stream that is being captured"
        self.run(len(self.queue))

    def begin_capture(self, stream: int, mode: int) -> None:
        self.recording = []

    def end_capture(self, stream: int, graph: Any) -> None:
        assert self.recording is not None
        graph._obj.value = next(self.handles)
        self.graphs[graph._obj.value] = self.recording
        self.recording = None

    def instantiate(self, executable: Any, graph: int, flags: int) -> None:
        executable._obj.value = next(self.handles)
        self.graphs[executable._obj.value] = self.graphs[graph]

    def launch(self, graph: int, stream: int) -> None:
        for work in self.graphs[graph]:
            self.enqueue(work)

    def enqueue(self, work: Work) -> None:
        if self.recording is not None:
            self.recording.append(work)
        else:
            self.queue.append((work, None))

    def run(self, count: int) -> None:
        due, self.queue = self.queue[:count], self.queue[count:]
        for work, _ in due:
            work()


class FakeEngine:
    """A deserialized plan: the network it was built from, on the memory of a FakeDriver."""

    device_memory_size_v2 = 1000
    weights_bytes = 0

    def __init__(self, trt: Any, made: LlamaNetwork, options: Options, driver: FakeDriver) -> None:
        self.trt = trt
        self.driver = driver
        self.interpreter = Interpreter(trt, made)
        self.lengths = profiles(made.style.n_ctx, options)
        self.num_optimization_profiles = len(self.lengths)
        network = made.network
        self.inputs = [network.get_input(i) for i in range(network.num_inputs)]
        self.outputs = [network.get_output(i) for i in range(network.num_outputs)]
        self.tensors = {tensor.name: tensor for tensor in (*self.inputs, *self.outputs)}

    def get_engine_stat(self, stat: Any) -> int:
        return self.weights_bytes

    def get_tensor_dtype(self, name: str) -> Any:
        return self.tensors[name].dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def create_runtime_config(self) -> FakeRuntimeConfig:
        return FakeRuntimeConfig()

    def create_execution_context(self, config: FakeRuntimeConfig | None = None) -> FakeContext:
        return FakeContext(self, config)


class FakeRuntimeConfig:
    """IRuntimeConfig and the IRuntimeCache that it makes."""

    def __init__(self) -> None:
        self.cache: FakeRuntimeCache | None = None

    def create_runtime_cache(self) -> FakeRuntimeCache:
        return FakeRuntimeCache()

    def set_runtime_cache(self, cache: FakeRuntimeCache) -> bool:
        self.cache = cache
        return True


class FakeRuntimeCache:
    """The lengths that contexts have run: what TensorRT for RTX would have compiled. `compiled` counts them anew."""

    FORM = b"kernels of a made-up GPU:"

    def __init__(self) -> None:
        self.lengths: set[int] = set()
        self.compiled = 0

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(self.FORM):
            return False
        self.lengths = set(blob.removeprefix(self.FORM))
        return True

    def serialize(self) -> bytes:
        return self.FORM + bytes(sorted(self.lengths))

    def meet(self, length: int) -> None:
        self.compiled += length not in self.lengths
        self.lengths.add(length)


class FakeContext:
    def __init__(self, engine: FakeEngine, config: FakeRuntimeConfig | None) -> None:
        self.engine = engine
        self.config = config
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return profile < self.engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        fewest, _, most = self.engine.lengths[self.profile]
        assert fewest <= shape[0] <= most, f"{name} {shape} is outside of profile {self.profile}"
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert name in self.engine.tensors, name
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return True

    def execute_async_v3(self, stream: int) -> bool:
        """With the shapes and addresses of now, when the stream gets there."""
        assert stream
        if self.config is not None and self.config.cache is not None:
            self.config.cache.meet(self.shapes[IDS][0])
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        for name, address in addresses.items():
            if name.startswith(UPDATED):
                assert address == addresses[name.removeprefix(UPDATED)], "the cache is updated in place"
        self.engine.driver.enqueue(lambda: self.execute(shapes, addresses))
        return True

    def execute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        inputs = {}
        for tensor in self.engine.inputs:
            shape = shapes.get(tensor.name, tuple(tensor.shape))
            inputs[tensor.name] = decoded(
                self.view(addresses[tensor.name], shape, tensor), name_of(tensor.dtype)
            ).copy()
        results = self.engine.interpreter.run(inputs)
        for tensor in self.engine.outputs:
            value = results[tensor.name]
            bits = rounded_to_bfloat16(value) if name_of(tensor.dtype) == "bfloat16" else value
            self.view(addresses[tensor.name], value.shape, tensor)[...] = bits

    def view(self, address: int, shape: tuple[int, ...], tensor: Any) -> Any:
        dtype = np.dtype({"bfloat16": "uint16"}.get(name_of(tensor.dtype), name_of(tensor.dtype)))
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer((ctypes.c_uint8 * n_bytes).from_address(address), dtype).reshape(shape)
