"""The state in which a launch finds its model: on the disk alone, or in the page cache. Made, checked, recorded.

Compiled kernels and the files of the engine's environment stay cached in both states: what is cold is the model, and
what the engine keeps of its own between launches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil
from enginebench_models.checkpoint import Checkpoint

from enginebench.machine import pages
from enginebench.store.record import StartState

MOST_COLD, LEAST_WARM = 0.01, 0.99
"""Shares of resident pages."""
FREE_SHARE = 0.8
"""A model larger than this share of the free memory is not read ahead: it would push itself out again."""


def disk_cold(checkpoint: Checkpoint, engine_cache: Path) -> StartState:
    """Evict the model and what the engine keeps. Our own pages of the model are given back first."""
    checkpoint.give_back()
    files = [*checkpoint.files, *(path for path in engine_cache.rglob("*") if path.is_file())]
    pages.evict(files)
    share = pages.resident_share(files)
    return StartState(
        asked="disk-cold",
        resident_share=share,
        filesystem=pages.filesystem(checkpoint.files[0]),
        reason=_not_cold(share),
    )


def _not_cold(share: float | None) -> str | None:
    if share is None:
        return "the kernel does not say which pages of the model are in memory: own the files, or be able to write them"
    if share > MOST_COLD:
        return f"{share:.1%} of the model stayed in memory after eviction: another process maps it, or it is no disk"
    return None


def cache_warm(files: Sequence[Path]) -> StartState:
    """Read the model into the page cache if it is not there and fits."""
    share = pages.resident_share(files)
    if share is not None and share < LEAST_WARM and _fits(files):
        pages.warm(files)
        share = pages.resident_share(files)
    return StartState(
        asked="cache-warm", resident_share=share, filesystem=pages.filesystem(files[0]), reason=_not_warm(share)
    )


def _not_warm(share: float | None) -> str | None:
    """A kernel that does not say is believed: the check launch has just read the model."""
    if share is None or share >= LEAST_WARM:
        return None
    return f"only {share:.1%} of the model was in the page cache"


def _fits(files: Sequence[Path]) -> bool:
    return sum(path.stat().st_size for path in files) < FREE_SHARE * psutil.virtual_memory().available
