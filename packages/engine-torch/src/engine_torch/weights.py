"""From a checkpoint to the parameters of model.py: in which dtype and memory they end up.

What the processor can use as the checkpoint gives it, mostly in the mapped file, stays there. The rest is copied once,
a block of rows at a time, and the file's pages are given back: the process holds the weights and one block at most.
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

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
BLOCK_BYTES = 16 << 20
ALIGNMENT = 64  # bytes: a cache line, and a vector register of AVX-512
MADV_DONTNEED, MADV_POPULATE_READ = 4, 22  # Linux, asm-generic/mman-common.h


def load_model(
    checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, progress: Callable[[float], None]
) -> Llama:
    """Matrices in `dtype`, norms (0.01 % of the weights) in float32. Raises ModelError."""
    model = Llama(checkpoint.config, torch.tensor(checkpoint.inverse_frequencies, device=device))
    stored = {name: checkpoint.tensor(name) for name, _ in model.named_parameters()}
    copied = [tensor for tensor in stored.values() if not is_ready(tensor, dtype, device)]
    values, done = allocated({tensor.name: torch.Size(tensor.shape) for tensor in copied}, dtype, device), 0
    for name, tensor in stored.items():
        if name in values:
            fill(values[name], tensor)
        else:
            values[name] = in_place(tensor)
        done += values[name].numel()
        progress(done / checkpoint.config.weight_elements())
    model.load_state_dict(values, strict=False, assign=True)
    if checkpoint.config.tied_embeddings:
        model.lm_head = model.embed_tokens
    return model


def wanted_dtype(shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> torch.dtype:
    return dtype if len(shape) > 1 else torch.float32


def is_ready(stored: StoredTensor, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a parameter can be used as the checkpoint gives it."""
    return device.type == "cpu" and DTYPES.get(stored.dtype) == wanted_dtype(stored.shape, dtype)


def in_place(stored: StoredTensor) -> Tensor:
    """The mapped bytes themselves, read now: otherwise the first token would pay, and loading would look free."""
    advise(stored.data, MADV_POPULATE_READ)
    return as_torch(stored)


def allocated(shapes: dict[str, torch.Size], dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Uninitialised parameters on the device."""
    if device.type != "cpu":
        return {name: torch.empty(s, dtype=wanted_dtype(s, dtype), device=device) for name, s in shapes.items()}
    sizes = {name: s.numel() * wanted_dtype(s, dtype).itemsize for name, s in shapes.items()}
    memory, offset, tensors = huge_pages(sum(sizes.values()) + ALIGNMENT * len(sizes)), 0, {}
    for name, shape in shapes.items():
        kind = wanted_dtype(shape, dtype)
        tensors[name] = torch.frombuffer(memory, dtype=kind, count=shape.numel(), offset=offset).view(shape)
        offset += -(-sizes[name] // ALIGNMENT) * ALIGNMENT
    return tensors


def huge_pages(n_bytes: int) -> mmap.mmap:
    """Anonymous memory in pages of 2 MiB where the kernel grants them: a token walks all of it."""
    memory = mmap.mmap(-1, max(n_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without transparent huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def fill(target: Tensor, stored: StoredTensor) -> None:
    """Copy block by block, converting; target [rows, in] or [rows]."""
    rows = stored.shape[0]
    step = max(1, BLOCK_BYTES * rows // stored.data.nbytes)
    for first in range(0, rows, step):
        block = stored.rows(slice(first, min(first + step, rows)))
        target[first : first + block.shape[0]].copy_(as_torch(block).to(target.device))
        advise(block.data, MADV_DONTNEED)


def as_torch(stored: StoredTensor) -> Tensor:
    """The values without a copy; block formats expanded to float32."""
    data = stored.data if stored.dtype in DTYPES else stored.float32()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "array is not writable": nothing here writes to a source
        values = torch.from_numpy(data)
    return values.view(torch.bfloat16) if stored.dtype == "bf16" else values


def advise(data: np.ndarray, advice: int) -> None:
    """madvise on the whole pages of a mapped file under `data`; nothing for other arrays (reordered Q and K).

    The mapping is read-only and shared: pages given back stay in the page cache and are found again when needed. The
    answer does not matter: an older kernel refuses MADV_POPULATE_READ, and then reads at the first touch.
    """
    if not lies_in_file(data):
        return
    begin = -(-data.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (data.ctypes.data + data.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > begin:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice)


def lies_in_file(data: np.ndarray) -> bool:
    owner: object = data
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner, memoryview) and isinstance(owner.obj, mmap.mmap)
