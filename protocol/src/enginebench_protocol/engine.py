"""What an engine implements. `serve` turns it into a process; `standalone` into a command for people."""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from .errors import EngineFailure
from .messages import Load, Loaded

Held = TypeVar("Held")
ProgressSink = Callable[[str, float], None]
"""progress(stage, fraction): an engine calls it while it loads."""


@contextmanager
def stage(stages: dict[str, int], name: str) -> Iterator[None]:
    """Time a stage of loading: nanoseconds under `name`, for Loaded.stages."""
    started_ns = time.perf_counter_ns()
    yield
    stages[name] = time.perf_counter_ns() - started_ns


@contextmanager
def failing(*kinds: type[Exception]) -> Iterator[None]:
    """Errors that name their failure code in `code`, as those of enginebench_models do → EngineFailure."""
    try:
        yield
    except kinds as error:
        raise EngineFailure(getattr(error, "code", "internal"), str(error)) from None


def must_be_loaded(held: Held | None) -> Held:
    """What an engine holds once it has loaded. Raises EngineFailure before."""
    if held is None:
        raise EngineFailure("bad-request", "no model is loaded", "send load first")
    return held


def check_tokens(tokens: array[int], n_positions: int, vocab_size: int, n_ctx: int) -> None:
    """Raises EngineFailure unless these are ids of the vocabulary, and `n_positions` fit the cache."""
    if not tokens or min(tokens) < 0 or max(tokens) >= vocab_size:
        raise EngineFailure("bad-request", f"the tokens must be 1 or more ids from 0 to {vocab_size - 1}")
    if n_positions > n_ctx:
        exceeding = f"{n_positions} positions exceed the {n_ctx} of the cache"
        raise EngineFailure("bad-request", exceeding, "load with more n_ctx")


def freeze_garbage() -> None:
    """At the end of a load: the collector need not walk what was imported while a token is timed."""
    gc.collect()
    gc.freeze()


def thaw_garbage() -> None:
    """At the end of an unload: what was loaded goes now."""
    gc.unfreeze()
    gc.collect()


@dataclass(frozen=True)
class Sampling:
    """How the next id is chosen from the logits: the largest one, or drawn from softmax(logits / temperature)."""

    temperature: float = 0.0
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


GREEDY = Sampling()


def must_be_greedy(sampling: Sampling, reason: str) -> None:
    """For engines that cannot draw. Raises EngineFailure with the reason."""
    if not sampling.greedy:
        raise EngineFailure("unsupported", f"no sampling at temperature {sampling.temperature:g}: {reason}", "use 0")


@dataclass(frozen=True)
class MemoryAccount:
    """Bytes the engine knows it holds; None where it cannot know."""

    weights_bytes: int
    kv_cache_bytes: int
    workspace_bytes: int | None = None
    device_peak_bytes: int | None = None


class Logits(Protocol):
    """A buffer of float32, C-contiguous, [n_rows, vocab]: a NumPy array, or a memoryview cast to it."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


class Engine(ABC):
    """One inference engine. Every method may raise EngineFailure(code, message, hint)."""

    name: ClassVar[str]
    configurations: ClassVar[Mapping[str, str]]
    """Configuration name → what it does, in one line."""
    options: ClassVar[Mapping[str, str]] = {}
    """Settings that no other engine has: name → what it is, in one line. They come in Load.options."""
    shards: ClassVar[bool] = False
    """Whether it can spread a model over several devices (Load.shards)."""

    @abstractmethod
    def load(self, request: Load, progress: ProgressSink) -> Loaded:
        """Make the model ready on the device. The report names what was really loaded."""

    @abstractmethod
    def generate(self, prompt: array[int], n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        """Decode from an empty KV cache and yield exactly `n_gen` ids, each as soon as it is on the host.

        The caller stamps every yield: an engine never touches the clock of a timed region. It may close the generator
        after any id (GeneratorExit at that yield): the next request must find the engine as if this one had not been.
        """

    @abstractmethod
    def score(self, tokens: array[int], n_prefill: int) -> Logits:
        """Teacher-forced logits through the code path of `generate`: prefill, then cached decode of the rest.

        Returns float32 [len(tokens) - n_prefill + 1, vocab]: row 0 follows tokens[:n_prefill], row i follows
        tokens[n_prefill + i - 1]. An engine that cannot see all logits says so in Loaded.top_logprobs.
        """

    def profile(self, prompt: array[int], n_gen: int, folder: Path) -> Mapping[str, Path]:
        """Generate greedily under the engine's own profiler. Name → file that was written into `folder`."""
        raise EngineFailure("unsupported", f"{self.name} has no profiler")

    def reported(self) -> Mapping[str, int]:
        """For engines with a server inside: what that says of the last request (Generated.reported)."""
        return {}

    @abstractmethod
    def memory(self) -> MemoryAccount:
        """What the engine itself accounts for; the orchestrator measures from outside."""

    @abstractmethod
    def unload(self) -> None:
        """Free the model, if there is one: also the last call before a stand-alone command ends."""
