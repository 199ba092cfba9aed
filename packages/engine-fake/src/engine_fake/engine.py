"""The protocol verbs of an engine without a model: it answers by the script of its configuration.

It reads no weights, so it has no logits and no place in a comparison of engines: it stands for one whose speed, size
or fault is known beforehand.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import ClassVar

from enginebench_protocol.engine import (
    GREEDY,
    Engine,
    Logits,
    MemoryAccount,
    ProgressSink,
    Sampling,
    must_be_greedy,
    stage,
)
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load, Loaded

from .pace import now_ns, paced, sharpen_timers, wait_until
from .script import SCRIPTS, VOCABULARY, Script


class FakeEngine(Engine):
    """An engine of known speed."""

    name = "fake"
    configurations: ClassVar[Mapping[str, str]] = {name: script.description for name, script in SCRIPTS.items()}
    options: ClassVar[Mapping[str, str]] = {
        "pace": "every delay times this, like 1.02",
        "seed": "of the jitter, so that two launches need not be alike",
    }

    def __init__(self) -> None:
        self._script = SCRIPTS["default"]
        self._pace, self._seed = 1.0, ""
        self._held = bytearray()
        self._n_requests = self._n_given_up = 0
        self._last_prompt: array[int] | None = None
        self._last_n_gen = 0

    def load(self, request: Load, progress: ProgressSink) -> Loaded:
        """Any path will do; it is only named."""
        self._script = script = SCRIPTS[request.configuration]
        self._pace, self._seed = pace_of(request.options), request.options.get("seed", "")
        self._n_requests = self._n_given_up = 0
        sharpen_timers()
        progress("read", 0.5)
        script.on_load()
        stages = taken(script)
        self._held = touched(script.held_bytes)
        progress("read", 1.0)
        return _report(request, script, stages)

    def generate(self, prompt: array[int], n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        start_ns = now_ns()  # first of all: making the script up is part of the prefill
        script, n_earlier = self._script, self._n_requests
        self._n_requests += 1
        script.on_generate()
        if script.greedy_only:
            must_be_greedy(sampling, "engine-fake was asked to refuse it")
        ids = script.ids(prompt, n_gen, self._n_given_up if script.leftover else n_earlier, sampling)
        repeated, self._last_prompt, self._last_n_gen = prompt == self._last_prompt, prompt, n_gen
        delays_ns = script.delays_ns(len(ids), n_earlier, repeated, self._pace, self._seed)
        tokens = script.on_close(paced(ids, delays_ns, start_ns))
        return self._noticing(tokens) if script.leftover else tokens

    def _noticing(self, tokens: Iterator[int]) -> Iterator[int]:
        try:
            yield from tokens
        except GeneratorExit:
            self._n_given_up += 1
            raise

    def reported(self) -> Mapping[str, int]:
        miscount = self._script.miscount
        return {"n_gen": self._last_n_gen + miscount, "n_requests": 1} if miscount else {}

    def score(self, tokens: array[int], n_prefill: int) -> Logits:
        raise EngineFailure("unsupported", "engine-fake has no model, hence no logits")

    def profile(self, prompt: array[int], n_gen: int, folder: Path) -> Mapping[str, Path]:
        """A trace of one kernel, called once for each token and as long as the script lets a token take."""
        kernel = {"ph": "X", "cat": "kernel", "name": "token", "pid": 0, "tid": 0}
        ends = accumulate(self._script.delays_ns(n_gen, self._n_requests, False, self._pace, self._seed), initial=0)
        events = [{**kernel, "ts": a / 1e3, "dur": (b - a) / 1e3} for a, b in pairwise(ends)]
        path = folder / "trace.json"
        path.write_text(json.dumps({"traceEvents": events}))
        return {path.name: path}

    def memory(self) -> MemoryAccount:
        return MemoryAccount(weights_bytes=len(self._held), kv_cache_bytes=0)

    def unload(self) -> None:
        self._held = bytearray()


def pace_of(options: Mapping[str, str]) -> float:
    text = options.get("pace", "1")
    try:
        pace = float(text)
    except ValueError:
        pace = math.nan
    if not 0 < pace < math.inf:
        raise EngineFailure("unsupported", f"pace {text!r} is no positive number")
    return pace


def touched(n_bytes: int) -> bytearray:
    """Resident memory: a page counts only once it has been written."""
    held = bytearray(n_bytes)
    held[::4096] = b"\x01" * len(held[::4096])
    return held


def fingerprint(path: Path) -> str:
    """Of the name, and the size if there is such a file: enough to tell two runs apart, no hash of any weights."""
    size = path.stat().st_size if path.is_file() else None
    return hashlib.sha256(f"{path.name}:{size}".encode()).hexdigest()


def taken(script: Script) -> dict[str, int]:
    """Let the stages of a load take their time; those with a name are reported as measured."""
    stages: dict[str, int] = {}
    for name, ns in script.stages_ns:
        with stage(stages, name):
            wait_until(now_ns() + ns)
    return {name: ns for name, ns in stages.items() if name}


def _report(request: Load, script: Script, stages: dict[str, int]) -> Loaded:
    return Loaded(
        id=request.id,
        weights_fingerprint=fingerprint(Path(request.model_path)),
        precision="none",
        weight_dtype="none",
        activation_dtype="none",
        kv_dtype=script.kv_dtype,
        device=request.device,
        threads=max(1, request.threads - script.spare_threads),
        n_ctx=request.n_ctx,
        vocab_size=VOCABULARY,
        weights_bytes=script.held_bytes,
        kv_cache_bytes=0,
        read_bytes_per_token=0,
        stages=stages,
        versions={},
    )
