"""Errors that mean memory, and whose, as the libraries word them."""

from __future__ import annotations

import pytest
from enginebench_protocol.out_of_memory import HOST, memory_failure


@pytest.mark.parametrize(
    "told",
    [
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB",
        "AcceleratorError: CUDA error: out of memory",
        "RuntimeError: CUDA Error 2, out of memory",
        "RuntimeError: CUDA_ERROR_OUT_OF_MEMORY",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Fail: [ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 1099511627776",
    ],
)
def test_of_a_device_or_of_whatever_the_engine_runs_on(told: str) -> None:
    assert memory_failure(told) == told


@pytest.mark.parametrize(
    "told",
    [
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to",
        "OSError: [Errno 12] Cannot allocate memory",
        "RuntimeError: std::bad_alloc",
        "_ArrayMemoryError: Unable to allocate 2.00 TiB for an array",
    ],
)
def test_of_the_host(told: str) -> None:
    assert memory_failure(told) == f"{HOST}: {told}"


@pytest.mark.parametrize(
    "told",
    [
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "OSError: libx.so: cannot allocate memory in static TLS block",
        "ValueError: the memory layout is not contiguous",
        "",
    ],
)
def test_of_something_else(told: str) -> None:
    assert memory_failure(told) is None
