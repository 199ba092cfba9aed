"""A plan on the GPU: execution contexts, the cache and all other buffers, and how one position is run.

A step is either queued by the host, in one context for everything; or `captured`: a context of its own for decoding,
replayed as one CUDA graph, in which the chosen id and the next position flow back to where the next step reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from enginebench_models.config import LlamaConfig

from engine_tensorrt.cuda import Device
from engine_tensorrt.kernels import Kernels
from engine_tensorrt.library import Library, Unsupported
from engine_tensorrt.model import (
    IDS,
    LAST,
    LOGITS,
    NEXT_ID,
    NEXT_POSITIONS,
    POSITIONS,
    START,
    UPDATED,
    cache_names,
)
from engine_tensorrt.number_types import name_of

INT = 4  # bytes of an id or a position


class RunFailed(Exception):
    """TensorRT did not run a plan."""


def open_engine(library: Library, data: memoryview) -> Any:
    """The deserialized plan. Raises Unsupported where the library or the GPU does not take it."""
    engine = library.runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise Unsupported(f"{library.name} {library.version} does not take the plan: {library.errors()}"[:4000])
    return engine


class Session:
    """`step` runs one position: the id and position at `token` and `position` on the device.

    Addresses are of the device: token, position and zero int32 [1]; next_id int32 [1]; next_positions int32 [n_ctx];
    logits float32 [vocab]; cache: [1, n_kv_heads, n_ctx, head_dim] each. `kernels`: for a library that compiles them,
    which it does when a shape is first met, and not behind the back of what is being timed.
    """

    def __init__(
        self,
        library: Library,
        engine: Any,
        device: Device,
        config: LlamaConfig,
        n_ctx: int,
        captured: bool,
        kernels: Kernels | None = None,
    ) -> None:
        self.library = library
        self.kernels = kernels
        self.engine = engine
        self.device = device
        self.config = config
        self.n_ctx = n_ctx
        self.captured = captured
        self.cache = {name: device.allocate(tensor_bytes(engine, name)) for name in cache_names(config)}
        self.logits = device.allocate(4 * config.vocab_size)
        self.next_id, self.next_positions = device.allocate(INT), device.allocate(INT * n_ctx)
        self.ids, self.positions, self.last = (device.allocate(INT * size) for size in (n_ctx, n_ctx, 1))
        # Each allocation is aligned as TensorRT's kernels may expect; parts of one need not be.
        self.token, self.position, self.zero = (device.allocate(INT) for _ in range(3))
        self.host_ids, self.host_last = device.pinned((n_ctx,), np.int32), device.pinned((1,), np.int32)
        self.host_place, self.host_token = device.pinned((2, 1), np.int32), device.pinned((2, 1), np.int32)
        self.host_logits = device.pinned((config.vocab_size,), np.float32)
        self.arrivals = [device.event(), device.event()]
        self._number_positions()
        self.prefilling = self.decoding = self._context(0)
        if captured:
            self.decoding = self._context(engine.num_optimization_profiles - 1)
            self._bind_decoding()
            self._enqueue(self.decoding)  # at least once before capture: TensorRT allocates and compiles at first
            device.synchronize()
            self._check_capturable()
            self.graph = device.captured(self._step_and_feed)

    def weights_bytes(self, in_network: int) -> int:
        """As held: a plan of two shape profiles may keep a matrix in two layouts. `in_network`: each counted once."""
        return max(in_network, int(self.engine.get_engine_stat(self.library.trt.EngineStat.TOTAL_WEIGHTS_SIZE)))

    @property
    def kv_dtype(self) -> str:
        return name_of(self.engine.get_tensor_dtype(cache_names(self.config)[0]))

    @property
    def kv_cache_bytes(self) -> int:
        return sum(tensor_bytes(self.engine, name) for name in self.cache)

    @property
    def workspace_bytes(self) -> int:
        """Activations of each context, and the buffers that are not the cache."""
        contexts = 2 if self.captured else 1
        return contexts * self.engine.device_memory_size_v2 + 4 * self.config.vocab_size + INT * (3 * self.n_ctx + 5)

    def prefill(self, tokens: Sequence[int]) -> None:
        """From position 0. What an earlier request left in the cache is masked or overwritten."""
        self.device.synchronize()  # a request that was given up may still be running
        n = len(tokens)
        self.host_ids[:n] = tokens
        self.host_last[0] = n - 1
        self.device.send(self.ids, self.host_ids[:n])
        self.device.send(self.last, self.host_last)
        inputs = {IDS: self.ids, POSITIONS: self.positions, START: self.zero, LAST: self.last}
        self._bind(self.prefilling, n, inputs)
        self._enqueue(self.prefilling)
        if self.captured:
            self._feed(self.next_positions + INT * (n - 1))

    def place(self, token: int, position: int) -> None:
        """What the next step runs. Only when the device is idle: the host's copy is sent from where it lies."""
        self.host_place[:, 0] = token, position
        self.device.send(self.token, self.host_place[0])
        self.device.send(self.position, self.host_place[1])

    def step(self) -> None:
        if self.captured:
            self.device.launch(self.graph)
        else:
            self._bind_decoding()
            self._enqueue(self.decoding)

    def fetch_id(self, slot: int) -> None:
        """Start bringing the choice of the last run to the host; there are slots 0 and 1."""
        self.device.fetch(self.host_token[slot], self.next_id)
        self.device.record(self.arrivals[slot])

    def arrived_id(self, slot: int) -> int:
        self.device.wait(self.arrivals[slot])
        return int(self.host_token[slot, 0])

    def read_logits(self) -> npt.NDArray[np.float32]:
        """What the choice was made from, float32 [vocab]; overwritten by the next call."""
        self.device.fetch(self.host_logits, self.logits)
        self.device.synchronize()
        return self.host_logits

    def _step_and_feed(self) -> None:
        self._enqueue(self.decoding)
        self._feed(self.next_positions)

    def _feed(self, next_position: int) -> None:
        self.device.copy(self.token, self.next_id, INT)
        self.device.copy(self.position, next_position, INT)

    def _context(self, profile: int) -> Any:
        given = (self.kernels.config,) if self.kernels else ()
        context = self.engine.create_execution_context(*given)
        if context is None:
            raise MemoryError(f"no execution context: {self.library.errors()}")
        if not context.set_optimization_profile_async(profile, self.device.stream):
            raise RunFailed(f"profile {profile}: {self.library.errors()}")
        self.device.synchronize()
        for name, address in self.cache.items():
            for tensor in (name, UPDATED + name):
                context.set_tensor_address(tensor, address)
        outputs = {LOGITS: self.logits, NEXT_ID: self.next_id, NEXT_POSITIONS: self.next_positions}
        for name, address in outputs.items():
            context.set_tensor_address(name, address)
        return context

    def _bind_decoding(self) -> None:
        inputs = {IDS: self.token, POSITIONS: self.position, START: self.position, LAST: self.zero}
        self._bind(self.decoding, 1, inputs)

    def _bind(self, context: Any, n: int, inputs: dict[str, int]) -> None:
        for name in (IDS, POSITIONS):
            context.set_input_shape(name, (n,))
        for name, address in inputs.items():
            context.set_tensor_address(name, address)

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self.device.stream):
            raise RunFailed(f"{self.library.name} did not run the plan: {self.library.errors()}")

    def _check_capturable(self) -> None:
        if self.library.just_in_time and not self.decoding.is_stream_capturable(self.device.stream):
            raise Unsupported(f"{self.library.name} says that the decode step cannot be captured as a CUDA graph")

    def _number_positions(self) -> None:
        self.host_ids[:] = range(self.n_ctx)
        self.device.send(self.positions, self.host_ids)
        self.device.synchronize()


def tensor_bytes(engine: Any, name: str) -> int:
    size = int(engine.get_tensor_dtype(name).itemsize)
    for extent in engine.get_tensor_shape(name):
        size *= extent
    return size
