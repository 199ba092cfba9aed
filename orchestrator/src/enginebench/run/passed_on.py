"""What a program that we start sees of our environment: what is named here, and nothing else.

No tokens, no proxies, no settings that tune a library. uv alone gets what it needs to reach its index.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "XDG_CACHE_HOME",
)
"""To an engine, and to every program that has no list of its own."""

FOR_UV = (
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NETRC",
    *(each for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY") for each in (name, name.lower())),
)
"""docs.astral.sh/uv/reference/environment. Packages that are built while it installs see the same."""
OF_UV = "UV_"

FOR_OURSELVES = ("XDG_STATE_HOME", "PYTHONPATH", "TERM", "COLUMNS")


def engine_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """With the fault handler: an engine that is aborted, or crashes, says where it stood."""
    own = {"PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1", "PYTHONFAULTHANDLER": "1"}
    return {**_passed(PASSED_ON), **own, **(extra or {})}


def program_environment() -> dict[str, str]:
    """For programs of the system, such as git."""
    return _passed(PASSED_ON)


def own_environment() -> dict[str, str]:
    """For enginebench itself, started once more: it may have to call uv."""
    return {**uv_environment(), **_passed(FOR_OURSELVES)}


def uv_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Without VIRTUAL_ENV: the caller's own must not leak in."""
    settings = [name for name in os.environ if name.startswith(OF_UV)]
    return {**_passed((*PASSED_ON, *FOR_UV, *settings)), **(extra or {})}


def _passed(names: Iterable[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}
