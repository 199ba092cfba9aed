"""One model over several devices of one process: their names, how many there are, what is cut how.

Megatron-LM's cut (arXiv 1909.08053, section 3): Q, K, V, gate and up by output, so that a device owns whole heads; o
and down by input, so that two sums over the devices are all that a block needs. Imports no tinygrad, as `backend.py`.
"""

from __future__ import annotations

import os

from engine_tinygrad.backend import Backend, count_gpus

BY_OUTPUT = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
BY_INPUT = ("o_proj", "down_proj")


class TooFewDevices(Exception):
    """More shards than devices."""


def device_names(device: str, shards: int) -> tuple[str, ...]:
    """As tinygrad canonicalises them: CPU, CPU:1, …"""
    return tuple(f"{device}:{i}" if i else device for i in range(shards))


def check_devices(backend: Backend, shards: int, threads: int) -> None:
    """Raises TooFewDevices. tinygrad makes as many CPUs as it is asked for: here each needs a thread of its own."""
    if backend.device == "CPU":
        found, what = min(threads, len(os.sched_getaffinity(0))), "processor"
    else:
        found, what = count_gpus(), "GPU"
    if shards > found:
        raise TooFewDevices(f"{shards} shards, but {found} {what}{'' if found == 1 else 's'}")


def cut_axis(name: str, shape: tuple[int, ...], shards: int) -> int | None:
    """The axis of a stored weight [out, in] that is divided; None: whole on every device.

    The embedding table is whole, since a row of it is read by position; so is an output head of no even size.
    """
    if name.endswith(BY_INPUT):
        return 1
    if name.endswith(BY_OUTPUT):
        return 0
    return 0 if name == "lm_head" and shape[0] % shards == 0 else None
