"""Advice to the kernel about the pages of a mapped model file: read them now, or give them back.

Pages of a mapped file count as the process's memory once touched. Given back, they stay in the page cache and are
found again when needed: the mapping is read-only and shared.
"""

import ctypes
import mmap

import numpy as np

from enginebench_models.storage import AnyArray

MADV_DONTNEED, MADV_POPULATE_READ = 4, 22  # Linux, asm-generic/mman-common.h; the second is not in Python's mmap


def give_back(data: AnyArray) -> None:
    """The whole pages under `data` leave this process. Does nothing for an array that is not in a mapped file."""
    _advise(data, MADV_DONTNEED)


def read_now(data: AnyArray) -> None:
    """All pages under `data` become this process's. A kernel before 5.14 refuses, and reads at the first touch."""
    _advise(data, MADV_POPULATE_READ)


def _advise(data: AnyArray, advice: int) -> None:
    if not _lies_in_file(data):
        return
    begin = -(-data.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (data.ctypes.data + data.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > begin:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice)


def _lies_in_file(data: AnyArray) -> bool:
    owner: object = data
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner, memoryview) and isinstance(owner.obj, mmap.mmap)
