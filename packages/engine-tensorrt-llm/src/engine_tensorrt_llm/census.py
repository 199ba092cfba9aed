"""What each of several workers holds: they are processes of their own, and only a logits processor runs in all of them.

A request of one token takes a processor along that writes down what the process holds which it finds itself in. Every
worker gets a copy of it (`py_logits_post_processors` is broadcast to all ranks), so there is a file for each GPU.
"""

from __future__ import annotations

import gc
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine_tensorrt_llm.account import Held, held

WORKER = "GenerationExecutorWorker"
"""tensorrt_llm.executor.worker; found by its name, since nothing of a worker's is handed to a processor."""
SECONDS = 30.0
"""For the slowest worker to come to the end of the step whose answer is here already."""


class Incomplete(Exception):
    """Not every worker said what it holds."""


class Census:
    """tensorrt_llm.sampling_params.LogitsProcessor. Can be pickled, for a worker. Leaves the logits as they are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, req_id: int, logits: Any, token_ids: Any, stream_ptr: int | None, client_id: int | None) -> None:
        import torch  # noqa: PLC0415 - here only in the worker, and replaced where there is none

        file = self.folder / f"{torch.cuda.current_device()}.json"
        if file.exists():  # a step that was run ahead of the end
            return
        part = file.with_suffix(".part")
        part.write_text(json.dumps(asdict(held(worker_here()))), encoding="utf-8")
        part.replace(file)


def worker_here() -> Any:
    """Of this process. Raises LookupError."""
    found = next((each for each in gc.get_objects() if type(each).__name__ == WORKER), None)
    if found is None:
        raise LookupError(f"there is no {WORKER} in this process")
    return found


def counted(folder: Path, workers: int, seconds: float = SECONDS) -> list[Held]:
    """In the order of the GPUs. Raises Incomplete."""
    deadline = time.monotonic() + seconds
    while len(files := sorted(folder.glob("*.json"), key=lambda file: int(file.stem))) < workers:
        if time.monotonic() > deadline:
            raise Incomplete(f"{len(files)} of {workers} workers said what they hold")
        time.sleep(0.01)
    return [Held(**json.loads(file.read_text(encoding="utf-8"))) for file in files]
