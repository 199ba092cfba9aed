"""Kernels that TensorRT for RTX compiled for this GPU, kept beside the plan for the next load.

The library checks what it is given (its version, GPU, driver) and rejects the rest: then it starts from nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine_tensorrt.build import replace_file
from engine_tensorrt.library import Library


class Kernels:
    """`config` makes execution contexts that share one IRuntimeCache; `keep` writes what it holds by then."""

    def __init__(self, library: Library, engine: Any, file: Path) -> None:
        trt = library.trt
        self.file = file
        self.config = engine.create_runtime_config()
        self.config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self.cache = self.config.create_runtime_cache()
        self.kept = file.read_bytes() if file.exists() else b""
        self.found = bool(self.kept) and bool(self.cache.deserialize(self.kept))
        if not self.found:
            library.errors()  # what it said of a stale file is no failure, and not to be told with a later one
        self.config.set_runtime_cache(self.cache)

    def keep(self) -> None:
        """Once at the end of a load, and at the end of the session: a prompt of another length compiles more."""
        compiled = bytes(self.cache.serialize())
        if compiled != self.kept:
            replace_file(self.file, compiled)
            self.kept = compiled
