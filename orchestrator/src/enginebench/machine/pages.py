"""Which pages of a file lie in the kernel's page cache; putting them there and taking them out.

By file, without root, and without touching what other programs cached. A page that some process has mapped stays,
whatever is asked: therefore ask again afterwards. mincore(2) tells the truth only to who owns a file or may write it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import psutil

_READ_BYTES = 8 * 2**20


def resident_share(files: Iterable[Path]) -> float | None:
    """Resident pages ÷ all pages, over all files; None where the kernel does not say, or where there is nothing."""
    counted = [_pages(path) for path in files if path.stat().st_size]
    if not counted or any(found is None for found in counted):
        return None
    known = [found for found in counted if found is not None]
    return sum(resident for resident, _ in known) / sum(total for _, total in known)


def _pages(path: Path) -> tuple[int, int] | None:
    """(resident, all) pages. Mapping a file does not read it."""
    if path.stat().st_uid != os.geteuid() and not os.access(path, os.W_OK):
        return None  # mm/mincore.c, can_do_mincore: every page is then called resident
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        address = np.frombuffer(mapped, np.uint8).ctypes.data  # the array is gone before the mapping is closed
        states = np.zeros(-(-len(mapped) // mmap.PAGESIZE), np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped)), ctypes.c_void_p(states.ctypes.data)):
            return None
    return int((states & 1).sum()), len(states)


def evict(files: Iterable[Path]) -> None:
    """Written pages first go to the disk: the kernel drops clean ones only."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def warm(files: Iterable[Path]) -> None:
    """Read every byte once, through the page cache."""
    buffer = bytearray(_READ_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def disk_read_bytes(pid: int) -> int | None:
    """What a process and its living children had from the disk so far; None where the kernel keeps no account."""
    try:
        process = psutil.Process(pid)
        return sum(each.io_counters().read_bytes for each in [process, *process.children(recursive=True)])
    except (psutil.Error, OSError, AttributeError):
        return None


def filesystem(path: Path) -> str | None:
    """The type of the file system that holds `path`: "ext4", "tmpfs", …"""
    resolved = path.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if resolved.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else None
