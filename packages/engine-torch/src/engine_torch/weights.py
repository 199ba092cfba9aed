"""From a checkpoint to the parameters of model.py: which tensors are joined, in which dtype and memory they end up.

Every weight is copied once, a block of rows at a time, and the pages of the mapped file are given back as it goes:
host memory never holds more than the weights and one block. Quantised blocks are expanded to the dtype asked for.
"""

import ctypes
import mmap
import warnings
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.tensor import Tensor as StoredTensor
from torch import Tensor

from engine_torch.model import Llama

# One matrix product instead of two or three, reading the same bytes.
JOINED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
BLOCK_BYTES = 16 << 20
ALIGNMENT = 64  # bytes: a cache line, and a vector register of AVX-512
MADV_DONTNEED = 4  # Linux, asm-generic/mman-common.h


def load_model(
    checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, progress: Callable[[float], None]
) -> Llama:
    """Matrices in `dtype`, norms (0.01 % of the weights) in float32. Raises ModelError."""
    model = Llama(checkpoint.config, torch.tensor(checkpoint.inverse_frequencies, device=device))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}  # a tied table appears once
    targets = allocated(shapes, dtype, device)
    total, done = sum(map(torch.numel, targets.values())), 0
    for name, target in targets.items():
        fill(target, [checkpoint.tensor(part) for part in parts(name)])
        done += target.numel()
        progress(done / total)
    model.load_state_dict(targets, strict=False, assign=True)
    if checkpoint.config.tied_embeddings:
        model.lm_head = model.embed_tokens
    return model


def parts(name: str) -> list[str]:
    """The stored tensors whose rows, one below the other, make up a parameter."""
    for joined, stored in JOINED.items():
        if name.endswith(joined):
            return [name.removesuffix(joined) + part for part in stored]
    return [name]


def weight_dtype(shape: torch.Size, dtype: torch.dtype) -> torch.dtype:
    return dtype if len(shape) > 1 else torch.float32


def weights_bytes(shapes: list[torch.Size], dtype: torch.dtype) -> int:
    """What the parameters will occupy."""
    return sum(shape.numel() * weight_dtype(shape, dtype).itemsize for shape in shapes)


def allocated(shapes: dict[str, torch.Size], dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Uninitialised parameters on the device."""
    if device.type != "cpu":
        return {name: torch.empty(s, dtype=weight_dtype(s, dtype), device=device) for name, s in shapes.items()}
    padded = weights_bytes(list(shapes.values()), dtype) + ALIGNMENT * len(shapes)
    memory, offset, tensors = huge_pages(padded), 0, {}
    for name, shape in shapes.items():
        kind = weight_dtype(shape, dtype)
        tensors[name] = torch.frombuffer(memory, dtype=kind, count=shape.numel(), offset=offset).view(shape)
        offset += -(-shape.numel() * kind.itemsize // ALIGNMENT) * ALIGNMENT
    return tensors


def huge_pages(n_bytes: int) -> mmap.mmap:
    """Anonymous memory in pages of 2 MiB where the kernel grants them: a token walks all of it (README, "Measured")."""
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without transparent huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def fill(target: Tensor, stored: list[StoredTensor]) -> None:
    """Copy the stored tensors below one another, converting; target [rows, in] or [rows]."""
    start = 0
    for tensor in stored:
        rows = tensor.shape[0]
        step = max(1, BLOCK_BYTES * rows // tensor.data.nbytes)
        for first in range(0, rows, step):
            block = tensor.rows(slice(first, first + step))
            values = as_torch(block).to(target.device)
            target[start + first : start + first + len(values)].copy_(values)
            give_back(block.data)
        start += rows


def as_torch(stored: StoredTensor) -> Tensor:
    """The values without a copy; block formats expanded to float32."""
    data = stored.data if stored.dtype in ("f32", "f16", "bf16") else stored.float32()
    with warnings.catch_warnings():
        # "The given NumPy array is not writable": nothing here writes to a source.
        warnings.simplefilter("ignore", UserWarning)
        values = torch.from_numpy(data)
    return values.view(torch.bfloat16) if stored.dtype == "bf16" else values


def give_back(data: np.ndarray) -> None:
    """Drop the whole pages of a mapped file under `data` from this process; they stay in the page cache.

    Harmless for the file, as the mapping is shared and read-only; not for ordinary memory, which would be zeroed.
    """
    if not is_mapped(data):
        return
    begin = -(-data.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (data.ctypes.data + data.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > begin:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_DONTNEED)


def is_mapped(data: np.ndarray) -> bool:
    """Whether the bytes lie in a mapped file: Q and K of a GGUF file are reordered copies."""
    owner = data
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner, memoryview) and isinstance(owner.obj, mmap.mmap)
