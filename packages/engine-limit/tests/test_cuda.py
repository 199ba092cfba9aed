"""The GPU reader against a driver made of Python: the calls, their arguments and the driver's refusals.

What the kernel does on a GPU is only tested where there is one.
"""

# ruff: noqa: N802 - the simulated calls are named as libcuda names them
import ctypes
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engine_limit import cuda
from engine_limit.cuda import PTX, CudaReader, Driver, load_driver
from enginebench_protocol.errors import EngineFailure

MULTIPROCESSORS = 132


class SimulatedDriver:
    """libcuda with a bytearray for device memory and NumPy for the kernel. `refused`: call name → error code."""

    def __init__(self, refused: dict[str, int] | None = None) -> None:
        self.refused = refused or {}
        self.memory = np.full(1 << 16, 0xEE, np.uint8)  # not zero: what is not written must show
        self.used = 256
        self.calls: list[str] = []
        self.grid: tuple[int, ...] = ()

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name in self.refused:
                return self.refused[name]
            action = getattr(type(self), f"_{name}", None)
            if action is not None:
                action(self, *arguments)
            return 0

        return call

    def cuGetErrorString(self, status: int, text: Any) -> int:
        text._obj.value = f"words for {status}".encode()
        return 0

    def _cuDeviceGetName(self, name: Any, size: int, device: int) -> None:
        name.value = b"A simulated GPU"

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> None:
        assert attribute == 16
        value._obj.value = MULTIPROCESSORS

    def _cuMemAlloc_v2(self, address: Any, size: ctypes.c_size_t) -> None:
        address._obj.value = self.used
        self.used += -(-size.value // 256) * 256

    def _cuMemsetD32_v2(self, address: ctypes.c_uint64, value: int, count: ctypes.c_size_t) -> None:
        self.memory[address.value : address.value + 4 * count.value] = value

    def _cuMemcpyHtoD_v2(self, target: ctypes.c_uint64, source: ctypes.c_void_p, size: ctypes.c_size_t) -> None:
        assert source.value is not None
        data = np.frombuffer(ctypes.string_at(source.value, size.value), np.uint8)
        self.memory[target.value : target.value + size.value] = data

    def _cuMemcpyDtoH_v2(self, target: Any, source: ctypes.c_uint64, size: ctypes.c_size_t) -> None:
        target._obj.value = int(self.memory[source.value : source.value + 4].view(np.uint32)[0])

    def _cuLaunchKernel(self, kernel: Any, *arguments: Any) -> None:
        *self.grid, shared_bytes, stream, parameters, extra = arguments
        assert (shared_bytes, stream, extra) == (0, None, None)
        base, n_vectors, result = (ctypes.c_uint64.from_address(address).value for address in parameters)
        words = self.memory[base : base + 16 * n_vectors].view(np.uint32)
        self.memory[result : result + 4].view(np.uint32)[0] ^= np.bitwise_xor.reduce(words)


@pytest.mark.parametrize("n_bytes", [1, 15, 16, 17, 1000])
def test_a_pass_folds_every_byte_and_nothing_else(n_bytes: int) -> None:
    reader = CudaReader(n_bytes, Driver(SimulatedDriver()))
    data = np.random.default_rng(n_bytes).integers(0, 256, n_bytes, dtype=np.uint8)
    reader.fill(0, data[: n_bytes // 2])
    reader.fill(n_bytes // 2, data[n_bytes // 2 :])
    expected = int(np.bitwise_xor.reduce(np.pad(data, (0, -n_bytes % 4)).view(np.uint32)))
    assert reader.read() == expected
    assert reader.read() == expected, "the second pass must start from zero"


def test_the_grid_fills_every_multiprocessor() -> None:
    library = SimulatedDriver()
    CudaReader(64, Driver(library)).read()
    assert list(library.grid) == [2 * MULTIPROCESSORS, 1, 1, 512, 1, 1]


def test_closing_frees_both_allocations() -> None:
    library = SimulatedDriver()
    reader = CudaReader(64, Driver(library))
    reader.close()
    assert library.calls.count("cuMemFree_v2") == library.calls.count("cuMemAlloc_v2") == 2


@pytest.mark.parametrize(
    ("call", "status", "code"),
    [
        ("cuInit", 100, "unsupported"),
        ("cuMemAlloc_v2", 2, "out-of-memory"),
        ("cuModuleLoadData", 218, "internal"),
    ],
)
def test_a_refusal_keeps_the_words_of_the_driver(call: str, status: int, code: str) -> None:
    with pytest.raises(EngineFailure, match=f"{call}: words for {status}") as caught:
        CudaReader(64, Driver(SimulatedDriver({call: status})))
    assert caught.value.code == code


def test_a_machine_without_a_driver_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(cuda.ctypes, "CDLL", no_library)
    with pytest.raises(EngineFailure, match="no NVIDIA driver") as caught:
        load_driver()
    assert caught.value.code == "unsupported"


def test_the_kernel_is_launched_as_it_is_declared() -> None:
    source = PTX.decode()
    assert source.endswith("\0"), "cuModuleLoadData reads a C string"
    assert f".maxntid {cuda.THREADS_PER_BLOCK}, 1, 1" in source
    assert len(re.findall(r"\.param \.u64", source)) == 3
    in_flight = source.split("four:")[1].split("xor.b32")[0].count("ld.global.v4.u32")
    assert in_flight == cuda.UNROLL


@pytest.mark.gpu
def test_a_gpu_folds_like_numpy() -> None:
    n_bytes = 64 * 2**20 + 20
    reader = CudaReader(n_bytes, load_driver())
    data = np.random.default_rng(1).integers(0, 256, n_bytes, dtype=np.uint8)
    reader.fill(0, data)
    assert reader.read() == int(np.bitwise_xor.reduce(data.view(np.uint32)))
    reader.close()
