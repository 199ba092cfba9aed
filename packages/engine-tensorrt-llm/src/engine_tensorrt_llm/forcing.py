"""Teacher forcing: a logits processor that writes the logits of each step down and lets only the given id win.

The processor works on the logits in place, after the model and before the sampler (`_execute_logit_post_processors` of
tensorrt_llm/_torch/pyexecutor), so prefill, CUDA graph, cache and sampler are those of `generate`. The logits that
TensorRT-LLM itself returns would be the changed ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class Forced:
    """tensorrt_llm.sampling_params.LogitsProcessor, whose parameters are counted.

    Rows go to a file, because a worker may be another process, which gets a copy of this.
    """

    def __init__(self, file: Path, tokens: Sequence[int]) -> None:
        self.file = file
        self.tokens = list(tokens)
        self.n_rows = 0

    def __call__(self, req_id: int, logits: Any, token_ids: Any, stream_ptr: int | None, client_id: int | None) -> None:
        """`logits`: a float32 tensor [beams = 1, 1, vocab] on the GPU."""
        if self.n_rows == len(self.tokens):  # a step that was run ahead of the end
            return
        rows = np.lib.format.open_memmap(self.file, mode="r+")
        rows[self.n_rows] = logits.float().cpu().numpy().reshape(-1)[: rows.shape[1]]
        rows.flush()
        logits.fill_(float("-inf"))
        logits[..., self.tokens[self.n_rows]] = 0.0
        self.n_rows += 1


def empty_rows(file: Path, n_rows: int, vocab_size: int) -> None:
    """NaN, float32 [n_rows, vocab_size], as a .npy file."""
    rows = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(n_rows, vocab_size))
    rows[:] = np.nan
    rows.flush()


def written_rows(file: Path) -> npt.NDArray[np.float32]:
    """What the processor wrote. The file is removed."""
    rows: npt.NDArray[np.float32] = np.load(file)
    file.unlink()
    return rows
