"""Read GPU memory, through nothing but the NVIDIA driver: libcuda by ctypes, and a kernel in PTX.

One device (the first that CUDA_VISIBLE_DEVICES leaves), one allocation. No CUDA toolkit, no framework.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from enginebench_protocol.errors import EngineFailure

from .weights import Bytes

VECTOR_BYTES, UNROLL, THREADS_PER_BLOCK, BLOCKS_PER_MULTIPROCESSOR = 16, 4, 512, 2
"""1024 threads with 4 loads of 16 bytes each keep 64 KiB in flight per multiprocessor; an H200 needs about 25 KiB
(4.8 TB/s x 700 ns over 132 multiprocessors)."""

_OUT_OF_MEMORY = 2  # cuda.h, CUresult
_MULTIPROCESSOR_COUNT = 16  # cuda.h, CUdevice_attribute

# Every thread walks the array with the stride of the whole grid, four 16-byte vectors in flight, and folds what it
# reads with xor; the result is added to one word by an atomic xor. PTX 6.0 for sm_50 runs on every driver since 2017:
# the driver compiles it for the GPU it finds.
PTX = b"""
.version 6.0
.target sm_50
.address_size 64

.visible .entry fold(.param .u64 base, .param .u64 n_vectors, .param .u64 result)
.maxntid 512, 1, 1
{
    .reg .pred %p;
    .reg .b32 %a<4>, %b<4>, %c<4>, %d<4>, %sum, %t<4>;
    .reg .b64 %base, %n, %out, %i, %last, %stride, %bytes, %at, %three, %wide;

    ld.param.u64 %base, [base];
    ld.param.u64 %n, [n_vectors];
    ld.param.u64 %out, [result];
    cvta.to.global.u64 %base, %base;
    cvta.to.global.u64 %out, %out;

    mov.u32 %t0, %ctaid.x;
    mov.u32 %t1, %ntid.x;
    mov.u32 %t2, %tid.x;
    mov.u32 %t3, %nctaid.x;
    mul.wide.u32 %i, %t0, %t1;
    cvt.u64.u32 %wide, %t2;
    add.u64 %i, %i, %wide;
    mul.wide.u32 %stride, %t3, %t1;
    shl.b64 %bytes, %stride, 4;
    mul.lo.u64 %three, %stride, 3;
    mov.b32 %sum, 0;

four:
    add.u64 %last, %i, %three;
    setp.ge.u64 %p, %last, %n;
    @%p bra one;
    shl.b64 %at, %i, 4;
    add.u64 %at, %base, %at;
    ld.global.v4.u32 {%a0, %a1, %a2, %a3}, [%at];
    add.u64 %at, %at, %bytes;
    ld.global.v4.u32 {%b0, %b1, %b2, %b3}, [%at];
    add.u64 %at, %at, %bytes;
    ld.global.v4.u32 {%c0, %c1, %c2, %c3}, [%at];
    add.u64 %at, %at, %bytes;
    ld.global.v4.u32 {%d0, %d1, %d2, %d3}, [%at];
    xor.b32 %a0, %a0, %a1;
    xor.b32 %a2, %a2, %a3;
    xor.b32 %b0, %b0, %b1;
    xor.b32 %b2, %b2, %b3;
    xor.b32 %c0, %c0, %c1;
    xor.b32 %c2, %c2, %c3;
    xor.b32 %d0, %d0, %d1;
    xor.b32 %d2, %d2, %d3;
    xor.b32 %a0, %a0, %a2;
    xor.b32 %b0, %b0, %b2;
    xor.b32 %c0, %c0, %c2;
    xor.b32 %d0, %d0, %d2;
    xor.b32 %a0, %a0, %b0;
    xor.b32 %c0, %c0, %d0;
    xor.b32 %sum, %sum, %a0;
    xor.b32 %sum, %sum, %c0;
    add.u64 %i, %last, %stride;
    bra four;

one:
    setp.ge.u64 %p, %i, %n;
    @%p bra done;
    shl.b64 %at, %i, 4;
    add.u64 %at, %base, %at;
    ld.global.v4.u32 {%a0, %a1, %a2, %a3}, [%at];
    xor.b32 %a0, %a0, %a1;
    xor.b32 %a2, %a2, %a3;
    xor.b32 %a0, %a0, %a2;
    xor.b32 %sum, %sum, %a0;
    add.u64 %i, %i, %stride;
    bra one;

done:
    red.global.xor.b32 [%out], %sum;
    ret;
}
\0"""


class Driver:
    """The calls of libcuda that are needed here. A call that fails raises EngineFailure with the driver's words."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            code = "out-of-memory" if status == _OUT_OF_MEMORY else "unsupported" if name == "cuInit" else "internal"
            raise EngineFailure(code, f"{name}: {self._words(status)} (CUDA error {status})")

    def _words(self, status: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorString(status, ctypes.byref(text))
        return text.value.decode() if text.value else "unknown error"


def load_driver() -> Driver:
    """Raises EngineFailure where there is no NVIDIA driver."""
    try:
        return Driver(ctypes.CDLL("libcuda.so.1"))
    except OSError as error:
        raise EngineFailure("unsupported", f"no NVIDIA driver: {error}", "use --device cpu") from None


class CudaReader:
    """The weights in one allocation on the GPU, padded with zeros to whole vectors."""

    def __init__(self, n_bytes: int, driver: Driver) -> None:
        """Raises EngineFailure if there is no GPU, or no room on it."""
        self.n_bytes = n_bytes
        self._call = driver.call
        self._call("cuInit", 0)
        self._device = self._integer("cuDeviceGet", 0)
        self.device_name = self._name()
        blocks = self._integer("cuDeviceGetAttribute", _MULTIPROCESSOR_COUNT, self._device)
        self._blocks = blocks * BLOCKS_PER_MULTIPROCESSOR
        self._call("cuCtxSetCurrent", self._handle("cuDevicePrimaryCtxRetain", self._device))
        self._kernel = self._handle("cuModuleGetFunction", self._handle("cuModuleLoadData", PTX), b"fold")
        self._n_vectors = -(-n_bytes // VECTOR_BYTES)
        self._weights = self._allocated(self._n_vectors * VECTOR_BYTES)
        self._result = self._allocated(4)
        self._call("cuMemsetD32_v2", self._last_vector(), 0, ctypes.c_size_t(VECTOR_BYTES // 4))

    def fill(self, offset: int, data: Bytes) -> None:
        source = np.ascontiguousarray(data)
        target = ctypes.c_uint64(self._weights.value + offset)
        self._call("cuMemcpyHtoD_v2", target, ctypes.c_void_p(source.ctypes.data), ctypes.c_size_t(len(source)))

    def read(self) -> int:
        """The xor of all 32-bit words."""
        found = ctypes.c_uint32()
        self._call("cuMemsetD32_v2", self._result, 0, ctypes.c_size_t(1))
        self._launch(self._weights, ctypes.c_uint64(self._n_vectors), self._result)
        self._call("cuMemcpyDtoH_v2", ctypes.byref(found), self._result, ctypes.c_size_t(4))  # waits for the kernel
        return found.value

    def close(self) -> None:
        self._call("cuMemFree_v2", self._weights)
        self._call("cuMemFree_v2", self._result)
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def _launch(self, *values: ctypes.c_uint64) -> None:
        parameters = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
        grid, block, shared_bytes, stream = (self._blocks, 1, 1), (THREADS_PER_BLOCK, 1, 1), 0, None
        self._call("cuLaunchKernel", self._kernel, *grid, *block, shared_bytes, stream, parameters, None)

    def _last_vector(self) -> ctypes.c_uint64:
        return ctypes.c_uint64(self._weights.value + (self._n_vectors - 1) * VECTOR_BYTES)

    def _allocated(self, n_bytes: int) -> ctypes.c_uint64:
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(n_bytes))
        return address

    def _handle(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self._call(name, ctypes.byref(handle), *arguments)
        return handle

    def _integer(self, name: str, *arguments: Any) -> int:
        value = ctypes.c_int()
        self._call(name, ctypes.byref(value), *arguments)
        return value.value

    def _name(self) -> str:
        name = ctypes.create_string_buffer(128)
        self._call("cuDeviceGetName", name, len(name), self._device)
        return name.value.decode()
