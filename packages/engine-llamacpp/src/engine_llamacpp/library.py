"""llama.cpp's shared library as one process has it: ready to use, with its log kept instead of printed.

Importing llama-cpp-python loads the library, so this module is itself imported inside `load`.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from typing import Any

import llama_cpp
from llama_cpp import llama_cpp as native

WARNING, ERROR, CONTINUED = 3, 4, 5  # ggml.h, enum ggml_log_level
COMPUTE_BUFFER = re.compile(r"compute buffer size = +([\d.]+) MiB")
GPU = 1  # ggml-backend.h, enum ggml_backend_dev_type


class Log:
    """The last lines of llama.cpp's log."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=1000)
        self._listener: Callable[[str], None] | None = None
        self._callback = native.llama_log_callback(self._take)

    def clear(self) -> None:
        self._lines.clear()

    def complaints(self) -> str:
        """What was logged as an error, else as a warning, since `clear`."""
        for wanted in (ERROR, WARNING):
            lines = [text for level, text in self._lines if level == wanted and text.strip(". \n")]
            if lines:
                return "; ".join(" ".join(line.split()) for line in lines[-4:])
        return "llama.cpp gave no reason"

    def compute_buffer_bytes(self) -> int | None:
        """Working memory of the contexts made since `clear`; None if llama.cpp words it otherwise than here."""
        found = COMPUTE_BUFFER.findall("".join(text for _, text in self._lines))
        return round(sum(map(float, found)) * 2**20) if found else None

    @contextmanager
    def listener(self, told: Callable[[str], None]) -> Iterator[None]:
        """`told` gets each line as it is logged."""
        self._listener = told
        try:
            yield
        finally:
            self._listener = None

    def _take(self, level: int, text: bytes, _: object) -> None:
        if level == CONTINUED and self._lines:
            level = self._lines[-1][0]
        line = text.decode("utf-8", "replace")
        self._lines.append((level, line))
        if self._listener is not None:
            self._listener(line)


class Ggml:
    """The few functions of libggml that tell what a tensor is; llama-cpp-python has none of them.

    They are found through libllama, which is linked to libggml. Signatures: ggml.h, ggml-backend.h.
    """

    def __init__(self) -> None:
        whole, address, text = ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p
        self.op_name = self._function("ggml_op_name", text, whole)
        self.type_name = self._function("ggml_type_name", text, whole)
        self.nbytes = self._function("ggml_nbytes", ctypes.c_size_t, address)
        self.usage = self._function("ggml_backend_buffer_get_usage", whole, address)
        self.buffer_type = self._function("ggml_backend_buffer_get_type", address, address)
        self.device_of_type = self._function("ggml_backend_buft_get_device", address, address)
        self.device_by_kind = self._function("ggml_backend_dev_by_type", address, whole)
        self.device_count = self._function("ggml_backend_dev_count", ctypes.c_size_t)
        self.device_at = self._function("ggml_backend_dev_get", address, ctypes.c_size_t)
        self.device_kind = self._function("ggml_backend_dev_type", whole, address)
        self.device_name = self._function("ggml_backend_dev_name", text, address)
        self.device_description = self._function("ggml_backend_dev_description", text, address)

    @staticmethod
    def _function(name: str, result: Any, *arguments: Any) -> Any:
        function = getattr(native._lib, name)
        function.restype, function.argtypes = result, arguments
        return function


@cache
def ggml() -> Ggml:
    return Ggml()


@cache
def log() -> Log:
    """llama.cpp has one log per process and calls it until the process ends."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # a failed assertion would start gdb and bury its own message
    made = Log()
    native.llama_log_set(made._callback, None)
    native.llama_backend_init()
    return made


def has_gpu() -> bool:
    """Whether llama.cpp was compiled for GPUs and sees one."""
    return bool(native.llama_supports_gpu_offload() and ggml().device_by_kind(GPU))


def gpu_count() -> int:
    found = ggml()
    return sum(found.device_kind(found.device_at(i)) == GPU for i in range(found.device_count()))


def versions() -> dict[str, str]:
    """`instructions` is what llama.cpp was compiled with: which vector units it may use."""
    return {
        "llama-cpp-python": llama_cpp.__version__,
        "llama.cpp": native.llama_version().decode(),
        "instructions": native.llama_print_system_info().decode().strip(" |"),
        "numpy": version("numpy"),
    }
