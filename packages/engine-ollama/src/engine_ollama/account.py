"""What the server really runs, read off its log: Ollama's API tells neither dtypes nor buffers, llama.cpp's log does.

The sizes in the log have two decimals of a MiB. What decoding one token must read is counted on the model file, whose
tensors the server has byte for byte.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from enginebench_models.checkpoint import Checkpoint
from enginebench_protocol.messages import Load

NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
LOAD = "llama_model_loader: loaded meta data"
"""The first line of a load; what stands before it is about an earlier one, or the vocabulary alone."""

TYPES = re.compile(r"llama_model_loader: - type +(?P<type>\w+): +(?P<tensors>\d+) tensors")
WEIGHTS = re.compile(r"load_tensors: +(?P<device>\S+) model buffer size = +(?P<mib>[\d.]+) MiB")
WORKSPACE = re.compile(r"llama_context: +(?P<device>\S+) +(?:compute|output) buffer size = +(?P<mib>[\d.]+) MiB")
CACHE = re.compile(r"llama_kv_cache: size = +(?P<mib>[\d.]+) MiB.* K \((?P<keys>\w+)\):.* V \((?P<values>\w+)\):")
THREADS = re.compile(r"NumThreads:(?P<threads>\d+)")
FLASH = re.compile(r"Flash Attention was auto, set to enabled|flash_attn += enabled")
DEVICE = re.compile(r'msg="inference compute".* description="?(?P<name>[^"]*?)"? libdirs=')
HOST = ("CPU", "CUDA_Host")
UNTOLD = "not told"
MIB = 1 << 20


class NothingTold(Exception):
    """The log does not hold what it is read for: another version of the server."""


@dataclass(frozen=True)
class Account:
    """`weight_dtype` names the types of the matrices, the one with the most tensors first."""

    weight_dtype: str
    activation_dtype: str
    kv_dtype: str
    precision: str
    device: str
    threads: int
    flash_attention: bool | None
    weights_bytes: int
    kv_cache_bytes: int
    workspace_bytes: int
    read_bytes_per_token: int


def of(log: str, checkpoint: Checkpoint) -> Account:
    """Of the last load in the log. Raises NothingTold."""
    before, found, loading = log.rpartition(LOAD)
    weights, cache = WEIGHTS.findall(loading), CACHE.search(loading)
    threads = THREADS.findall(before)
    if not (found and weights and cache and threads):
        raise NothingTold("the server's log has no lines about buffers, cache and threads as llama.cpp writes them")
    matrices = matrix_types(loading)
    caches = {NAMES.get(cache[name], cache[name]) for name in ("keys", "values")}
    return Account(
        weight_dtype=",".join(matrices),
        activation_dtype="float32",  # ggml's graphs for LLaMA; each product rounds its own copy
        kv_dtype=",".join(sorted(caches)),
        precision=precision(matrices, caches),
        device=device({name for name, _ in weights}, before),
        threads=int(threads[-1]),
        flash_attention=FLASH.search(loading) is not None,
        weights_bytes=total(weights),
        kv_cache_bytes=round(float(cache["mib"]) * MIB),
        workspace_bytes=total(WORKSPACE.findall(loading)),
        read_bytes_per_token=read_bytes(checkpoint),
    )


def untold(checkpoint: Checkpoint, request: Load, bytes_on_device: int) -> Account:
    """Of a server whose log is not ours to read: what the file holds and what was asked for; the cache as is usual."""
    counts = Counter(tensor.dtype for tensor in map(checkpoint.tensor, checkpoint.names()) if tensor.data.ndim > 1)
    matrices = [NAMES.get(name, name) for name, _ in counts.most_common()]
    return Account(
        weight_dtype=",".join(matrices),
        activation_dtype="float32",
        kv_dtype=UNTOLD,
        precision=precision(matrices, {UNTOLD}),
        device="GPU of a shared server" if bytes_on_device else "CPU",
        threads=request.threads,
        flash_attention=None,
        weights_bytes=checkpoint.weight_bytes,
        kv_cache_bytes=request.n_ctx * checkpoint.config.kv_bytes_per_token(element_bytes=2),
        workspace_bytes=0,
        read_bytes_per_token=read_bytes(checkpoint),
    )


def total(sizes: list[tuple[str, str]]) -> int:
    return sum(round(float(mib) * MIB) for _, mib in sizes)


def device(buffers: set[str], log: str) -> str:
    """The GPU's name if any weight lies on one, as the server found it at its start."""
    if all(name.startswith(HOST) for name in buffers):
        return "CPU"
    found = DEVICE.findall(log)
    return found[-1] if found else ",".join(sorted(buffers))


def matrix_types(log: str) -> list[str]:
    """The one with the most tensors first. The norms are float32 in every file."""
    tensors = {NAMES.get(name, name.lower()): int(count) for name, count in TYPES.findall(log)}
    return sorted(tensors.keys() - {"float32"}, key=lambda name: -tensors[name]) or ["float32"]


def precision(matrices: list[str], caches: set[str]) -> str:
    """The class that the fidelity gate applies; a quantised model is named by its commonest type."""
    quantised = [name for name in matrices if name not in NAMES.values()]
    if quantised:
        return quantised[0]
    return "float32" if {*matrices, *caches} == {"float32"} else "16-bit"


def read_bytes(checkpoint: Checkpoint) -> int:
    """All but an embedding table of its own, of which a token reads one row."""
    table = 0 if checkpoint.config.tied_embeddings else checkpoint.tensor("embed_tokens").data.nbytes
    return checkpoint.weight_bytes - table
