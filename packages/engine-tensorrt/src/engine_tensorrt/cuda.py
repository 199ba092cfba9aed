"""The CUDA driver's calls that running a plan takes: memory, copies, one stream, events, graphs. By ctypes, no toolkit.

TensorRT works in the device's primary context, so this does too. One device: the first that CUDA_VISIBLE_DEVICES
leaves. Every address here is a number.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from engine_tensorrt.library import Unsupported

# cuda.h: CUresult, CUdevice_attribute, CUstream_flags, CUevent_flags, CUstreamCaptureMode
OUT_OF_MEMORY = 2
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
NON_BLOCKING, DISABLE_TIMING, CAPTURE_THREAD_LOCAL = 1, 2, 1


class CudaError(Exception):
    """A call of the driver failed."""


def open_driver() -> Any:
    """Raises Unsupported where there is no NVIDIA driver."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise Unsupported(f"needs an NVIDIA GPU: {error}") from None


class Device:
    """One GPU, one stream. What is allocated here is freed by close()."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        try:
            self._call("cuInit", 0)
        except CudaError as error:
            raise Unsupported(f"needs an NVIDIA GPU: {error}") from None
        self._device = self._returned(ctypes.c_int, "cuDeviceGet", 0)
        context = self._returned(ctypes.c_void_p, "cuDevicePrimaryCtxRetain", self._device)
        self._call("cuCtxSetCurrent", ctypes.c_void_p(context))
        self.stream = self._returned(ctypes.c_void_p, "cuStreamCreate", NON_BLOCKING)
        self._memory: list[int] = []
        self._pinned: list[int] = []

    def name(self) -> str:
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, len(text), self._device)
        return text.value.decode()

    def capability(self) -> str:
        """ "9.0" on a Hopper."""
        parts = (
            self._returned(ctypes.c_int, "cuDeviceGetAttribute", attribute, self._device)
            for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR)
        )
        return ".".join(map(str, parts))

    def allocate(self, n_bytes: int) -> int:
        """Zeroed. Raises MemoryError."""
        address = self._returned(ctypes.c_uint64, "cuMemAlloc_v2", ctypes.c_size_t(n_bytes))
        self._memory.append(address)
        self._call("cuMemsetD8Async", ctypes.c_uint64(address), 0, ctypes.c_size_t(n_bytes), self._on_stream())
        return address

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Host memory that copies to and from the device need not stage."""
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = self._returned(ctypes.c_void_p, "cuMemHostAlloc", ctypes.c_size_t(n_bytes), 0)
        self._pinned.append(address)
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * n_bytes).from_address(address))
        return memory.view(dtype).reshape(shape)

    def send(self, target: int, source: npt.NDArray[Any]) -> None:
        """Pinned host memory → device."""
        ends = ctypes.c_uint64(target), ctypes.c_void_p(source.ctypes.data)
        self._call("cuMemcpyHtoDAsync_v2", *ends, ctypes.c_size_t(source.nbytes), self._on_stream())

    def fetch(self, target: npt.NDArray[Any], source: int) -> None:
        """Device → pinned host memory."""
        ends = ctypes.c_void_p(target.ctypes.data), ctypes.c_uint64(source)
        self._call("cuMemcpyDtoHAsync_v2", *ends, ctypes.c_size_t(target.nbytes), self._on_stream())

    def copy(self, target: int, source: int, n_bytes: int) -> None:
        ends = ctypes.c_uint64(target), ctypes.c_uint64(source)
        self._call("cuMemcpyDtoDAsync_v2", *ends, ctypes.c_size_t(n_bytes), self._on_stream())

    def event(self) -> int:
        return self._returned(ctypes.c_void_p, "cuEventCreate", DISABLE_TIMING)

    def record(self, event: int) -> None:
        self._call("cuEventRecord", ctypes.c_void_p(event), self._on_stream())

    def wait(self, event: int) -> None:
        self._call("cuEventSynchronize", ctypes.c_void_p(event))

    def synchronize(self) -> None:
        self._call("cuStreamSynchronize", self._on_stream())

    def captured(self, work: Callable[[], None]) -> int:
        """What `work` queues on the stream, as one graph to launch again and again. It does not run now."""
        self._call("cuStreamBeginCapture_v2", self._on_stream(), CAPTURE_THREAD_LOCAL)
        try:
            work()
        finally:
            graph = self._returned(ctypes.c_void_p, "cuStreamEndCapture", self._on_stream(), out_last=True)
        made_from = ctypes.c_void_p(graph), ctypes.c_uint64(0)
        executable = self._returned(ctypes.c_void_p, "cuGraphInstantiateWithFlags", *made_from)
        self._call("cuGraphDestroy", ctypes.c_void_p(graph))
        return executable

    def launch(self, graph: int) -> None:
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), self._on_stream())

    def close(self) -> None:
        self.synchronize()
        for address in self._memory:
            self._call("cuMemFree_v2", ctypes.c_uint64(address))
        for address in self._pinned:
            self._call("cuMemFreeHost", ctypes.c_void_p(address))
        self._memory, self._pinned = [], []
        self._call("cuStreamDestroy_v2", self._on_stream())
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def _on_stream(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.stream)

    def _returned(self, kind: Any, name: str, *arguments: Any, out_last: bool = False) -> Any:
        """What a call writes to the pointer that is its first argument (or its last)."""
        value = kind()
        given = (*arguments, ctypes.byref(value)) if out_last else (ctypes.byref(value), *arguments)
        self._call(name, *given)
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status == OUT_OF_MEMORY:
            raise MemoryError(f"{name}: no GPU memory left")
        if status:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(status, ctypes.byref(text))
            words = text.value.decode() if text.value else "unknown error"
            raise CudaError(f"{name}: {words} (CUDA error {status})")
