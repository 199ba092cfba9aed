"""Which TensorRT: the full library or TensorRT for RTX. Both have the same Python interface.

Nothing else imports either, so that the engine can be described where neither is installed.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

FULL, RTX = "tensorrt", "tensorrt_rtx"
REMEDIES = {
    FULL: "uv sync --package engine-tensorrt --extra full, where NVIDIA's own index can be reached",
    RTX: "uv sync --package engine-tensorrt --extra rtx",
}


class Unsupported(Exception):
    """What was asked for cannot be done with this library, device or file. The second argument is the remedy."""


@dataclass(frozen=True)
class Library:
    """`trt` is the imported module `name`; `logger` keeps its errors in `lines`."""

    name: str
    trt: Any
    logger: Any

    @property
    def version(self) -> str:
        return str(self.trt.__version__)

    @property
    def just_in_time(self) -> bool:
        """TensorRT for RTX compiles kernels for the GPU it meets when a plan is run, not when it is built."""
        return self.name == RTX

    @cached_property
    def runtime(self) -> Any:
        """What plans are deserialized with. Kept here: no engine may outlive it."""
        return self.trt.Runtime(self.logger)

    def errors(self) -> str:
        """What the library has complained about since the last call."""
        text = "; ".join(self.logger.lines) or "without a word"
        self.logger.lines.clear()
        return text


def import_library(name: str) -> Library:
    """Raises Unsupported, naming what is missing."""
    try:
        trt = importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: the module is there and its shared libraries are not
        raise Unsupported(f"`{name}` libraries not installed: {error}", REMEDIES[name]) from error
    return Library(name, trt, error_log(trt))


def error_log(trt: Any) -> Any:
    """A TensorRT logger that keeps errors and drops the rest."""

    class ErrorLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.lines.append(message)

    return ErrorLog()
