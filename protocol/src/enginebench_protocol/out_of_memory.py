"""Whether an error means that memory did not suffice, and whose: by its words, for libraries have no class in common.

Words of: Python, C++, glibc; PyTorch; CUDA's runtime, driver and cuBLAS; ONNX Runtime.
"""

from __future__ import annotations

import re

HOST = "out of host memory"
"""How a failure begins that means the host's."""
HOSTS = re.compile(r"\b(_Array)?MemoryError\b|bad_alloc|(cannot|can't) allocate memory", re.IGNORECASE)
ANYBODYS = re.compile(r"out[ _]?of[ _]?memory|failed to allocate memory|alloc_failed", re.IGNORECASE)
OTHER = "static TLS"  # dlopen: "cannot allocate memory in static TLS block"


def memory_failure(told: str) -> str | None:
    """The message of a failure with the code `out-of-memory`; None for an error of another kind."""
    if OTHER in told:
        return None
    if HOSTS.search(told):
        return f"{HOST}: {told}"
    return told if ANYBODYS.search(told) else None
