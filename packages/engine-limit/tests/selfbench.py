"""engine-limit against what threads of plain NumPy reach (`just selfbench limit`)."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

import numpy as np
from bench import Bench, Row
from side_by_side import started


def limit(bench: Bench) -> list[Row]:
    """engine-limit against the best that threaded sums and copies of a buffer as large show, in turns."""
    contender = bench.contender("limit", "default")
    rates: dict[str, list[float]] = {"limit": [], "sum": [], "copy": []}
    with started(contender, bench.model, 128, bench.threads) as ready:
        n_bytes = ready.loaded.read_bytes_per_token
        buffer = np.ones(n_bytes // 8, np.uint64)
        target = np.empty_like(buffer)
        ready.ask(1, 8, 0)
        for _ in range(bench.rounds):
            rates["limit"].append(n_bytes * 1e9 / (ready.ask(1, 12, 0).tpot_ns or 0))
            rates["sum"] += [rate(n_bytes, bench.threads, buffer, np.add.reduce) for _ in range(3)]
            # a copy reads and writes (and may read what it overwrites): at least twice the bytes move
            rates["copy"] += [2 * rate(n_bytes, bench.threads, buffer, copy_into(buffer, target)) for _ in range(3)]
    median = {name: statistics.median(values) / 1e9 for name, values in rates.items()}
    share = median["limit"] / median["sum"]
    value = f"{share:.2f} ({median['limit']:.1f} ÷ {median['sum']:.1f} GB/s; a copy moves {median['copy']:.1f} GB/s)"
    return [Row("engine-limit ÷ threaded sum of as many bytes", value, "≥ 0.90", share >= 0.9)]


def copy_into(buffer: np.ndarray, target: np.ndarray) -> Callable[[np.ndarray], object]:
    start = buffer.__array_interface__["data"][0]

    def copy(part: np.ndarray) -> None:
        first = (part.__array_interface__["data"][0] - start) // 8
        target[first : first + len(part)] = part

    return copy


def rate(n_bytes: int, threads: int, buffer: np.ndarray, work: Callable[[np.ndarray], object]) -> float:
    """Bytes per second of `work` over `buffer`, split over threads."""
    workers = [threading.Thread(target=work, args=(part,)) for part in np.array_split(buffer, threads)]
    begin = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return n_bytes / (time.perf_counter() - begin)


PARTS = {"limit": limit}
