"""From a checkpoint to the parameters of model.py: in which dtype and memory they end up.

What the processor can use as the checkpoint gives it, mostly in the mapped file, stays there. The rest is copied once,
a block of rows at a time, and the file's pages are given back: the process holds the weights and one block at most.
"""

import mmap
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import prod

import torch
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.layout import expected_shapes
from enginebench_models.pages import give_back, read_now
from enginebench_models.tensor import Tensor as StoredTensor
from torch import Tensor

from engine_torch.model import Llama, Matrix, weight
from engine_torch.shard import ONE, Shard

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
BLOCK_BYTES = 16 << 20
ALIGNMENT = 64  # bytes: a cache line, and a vector register of AVX-512


def load_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    progress: Callable[[float], None],
    matrix: Matrix = weight,
    shard: Shard = ONE,
) -> Llama:
    """Matrices in `dtype`, norms (0.01 % of the weights) in float32. Raises ModelError.

    What `matrix` makes of its own (quantize.py) is left without values.
    """
    model = Llama(checkpoint.config, torch.tensor(checkpoint.inverse_frequencies, device=device), matrix, shard)
    whole = expected_shapes(checkpoint.config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters() if name in whole}
    cuts = {name: shard.cut(name, whole[name]) for name in shapes}
    stored = read(checkpoint, {name: (cuts[name][0], shape) for name, shape in shapes.items()}, dtype, device)
    copied = {name: shape for name, shape in shapes.items() if not is_ready(stored[name], shape, dtype, device)}
    values, done = allocated({name: (s, wanted_dtype(s, dtype)) for name, s in copied.items()}, device), 0
    n_elements = sum(prod(shape) for shape in shapes.values())
    for name in list(stored):
        tensor = stored.pop(name)  # reordered Q and K are copies: kept no longer than needed
        if name in copied:
            fill(values[name], tensor, cuts[name][1])
        else:
            values[name] = as_torch(tensor)
        done += values[name].numel()
        progress(done / n_elements)
    model.load_state_dict(values, strict=False, assign=True)
    if checkpoint.config.tied_embeddings:
        model.lm_head = model.embed_tokens
    return model


def wanted_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> torch.dtype:
    return dtype if len(shape) > 1 else torch.float32


def is_ready(stored: StoredTensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a parameter of this shape can be used as the checkpoint gives it."""
    same = stored.shape == shape and DTYPES.get(stored.dtype) == wanted_dtype(shape, dtype)
    return device.type == "cpu" and same


def read(
    checkpoint: Checkpoint, wanted: dict[str, tuple[slice, torch.Size]], dtype: torch.dtype, device: torch.device
) -> dict[str, StoredTensor]:
    """Rows of each weight. What stays in the mapped file is read now: otherwise the first token would pay, and loading
    would look free.
    """

    def read_one(name: str) -> StoredTensor:
        rows, shape = wanted[name]
        stored = checkpoint.tensor(name, rows)
        if is_ready(stored, shape, dtype, device):
            read_now(stored.data)
        return stored

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return dict(zip(wanted, pool.map(read_one, wanted), strict=True))


def allocated(wanted: dict[str, tuple[torch.Size, torch.dtype]], device: torch.device) -> dict[str, Tensor]:
    """Uninitialised parameters on the device."""
    if device.type != "cpu":
        return {name: torch.empty(shape, dtype=kind, device=device) for name, (shape, kind) in wanted.items()}
    sizes = {name: shape.numel() * kind.itemsize for name, (shape, kind) in wanted.items()}
    memory, offset, tensors = huge_pages(sum(sizes.values()) + ALIGNMENT * len(sizes)), 0, {}
    for name, (shape, kind) in wanted.items():
        tensors[name] = torch.frombuffer(memory, dtype=kind, count=shape.numel(), offset=offset).view(shape)
        offset += -(-sizes[name] // ALIGNMENT) * ALIGNMENT
    return tensors


def huge_pages(n_bytes: int) -> mmap.mmap:
    """Anonymous memory in pages of 2 MiB where the kernel grants them: a token walks all of it."""
    memory = mmap.mmap(-1, max(n_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without transparent huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def fill(target: Tensor, stored: StoredTensor, columns: slice) -> None:
    """Copy block by block, converting; target [rows, in] or [rows]. `columns`: of the stored values."""
    rows = stored.shape[0]
    step = max(1, BLOCK_BYTES * rows // stored.data.nbytes)
    for first in range(0, rows, step):
        block = stored.rows(slice(first, min(first + step, rows)))
        values = as_torch(block)
        own = values if values.ndim == 1 else values[:, columns]
        target[first : first + block.shape[0]].copy_(own.to(target.device))
        give_back(block.data)


def as_torch(stored: StoredTensor) -> Tensor:
    """The values without a copy; block formats expanded to float32."""
    data = stored.data if stored.dtype in DTYPES else stored.float32()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "array is not writable": nothing here writes to a source
        values = torch.from_numpy(data)
    return values.view(torch.bfloat16) if stored.dtype == "bf16" else values
