"""One memory, two frameworks: tinygrad tensors that lie over torch tensors, and who may touch them when.

A view costs about a millisecond to make and nothing to keep, so views are made once. The torch tensor has to outlive
its view.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from tinygrad import Device, Tensor, dtypes
from tinygrad.dtype import DType

DTYPES: dict[torch.dtype, DType] = {
    torch.float32: dtypes.float32,
    torch.float16: dtypes.float16,
    torch.bfloat16: dtypes.bfloat16,
    torch.int32: dtypes.int32,
    torch.int8: dtypes.int8,
    torch.uint8: dtypes.uint8,
}


def shared(tensor: torch.Tensor) -> Tensor:
    """The same bytes as a tinygrad tensor. Raises ValueError for a tensor with gaps between its values."""
    if not tensor.is_contiguous():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} and strides {tensor.stride()} is not contiguous")
    kind, device = DTYPES[tensor.dtype], tinygrad_device(tensor)
    return Tensor.from_blob(tensor.data_ptr(), tuple(tensor.shape), dtype=kind, device=device)


def tinygrad_device(tensor: torch.Tensor) -> str:
    return "CUDA" if tensor.is_cuda else "CPU"


def finish(device: str) -> None:
    """Wait until torch may read what tinygrad was told to write.

    On CUDA there is nothing to wait for: after join_context both frameworks queue on the same stream, in order.
    """
    if device == "CPU":
        Device[device].synchronize()


def join_context() -> None:
    """Move tinygrad into torch's CUDA context, before it has allocated anything in the one it made itself.

    torch uses the device's primary context and its legacy default stream; tinygrad launches on the default stream of
    its own context, so sharing the context also puts both on one stream. Not yet run on a GPU.
    """
    from tinygrad.runtime.autogen import cuda  # noqa: PLC0415 (fails where there is no driver)
    from tinygrad.runtime.ops_cuda import check  # noqa: PLC0415

    torch.cuda.init()
    device: Any = Device["CUDA"]
    primary = cuda.CUcontext()
    check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(primary), device.cu_device))
    own, torchs = (ctypes.cast(context, ctypes.c_void_p).value for context in (device.context, primary))
    if own != torchs:  # an earlier load has joined them
        check(cuda.cuCtxDestroy_v2(device.context))
        device.context = primary
    check(cuda.cuCtxSetCurrent(primary))
