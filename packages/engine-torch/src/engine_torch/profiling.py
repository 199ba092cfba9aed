"""One request under PyTorch's own profiler: a trace in Chrome's format, which Perfetto opens."""

from __future__ import annotations

from array import array
from collections import deque
from pathlib import Path

import torch
from torch._inductor import config
from torch.profiler import ProfilerActivity, profile

from engine_torch.decoding import Decoder, step


def traced(decoder: Decoder, prompt: array[int], n_gen: int, folder: Path) -> dict[str, Path]:
    """Name of the file → where it was written. Kernels on a GPU have the category "kernel", operators "cpu_op"."""
    if decoder.compiled and decoder.device.type == "cpu":
        tell_kernels_apart(decoder)
        run(decoder, prompt, n_gen)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if decoder.device.type == "cuda" else [])]
    with profile(activities=activities, profile_memory=True) as found:
        run(decoder, prompt, n_gen)
    path = folder / "trace.json"
    found.export_chrome_trace(str(path))
    return {path.name: path}


def run(decoder: Decoder, prompt: array[int], n_gen: int) -> None:
    deque(decoder.generate(prompt, n_gen), maxlen=0)


def tell_kernels_apart(decoder: Decoder) -> None:
    """Compile anew with a record around each C++ kernel: else the whole step is one nameless call to the profiler."""
    torch._dynamo.reset()
    config.cpp.enable_kernel_profile = True
    decoder.step = torch.compile(step, fullgraph=True)
