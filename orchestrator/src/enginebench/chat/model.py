"""The model of a conversation: checked by a process of its own before anything opens it, its tokenizer read meanwhile.

The tokenizer of 128,256 tokens takes as long as an engine takes to load: a thread builds it while the engine loads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from enginebench_models.config import LlamaConfig
from enginebench_models.errors import ModelError
from enginebench_models.store import LocatedModel
from enginebench_models.tokenizer import Tokenizer, load_tokenizer

from enginebench.errors import UsageError
from enginebench.plan.fit import Demand
from enginebench.run.model import Model, find_model, located_model, memory_here

from .choice import Choice
from .settings import DEFAULT_N_CTX, Settings


@dataclass(frozen=True)
class Span:
    """When something ran, on the clock of time.perf_counter_ns."""

    begin_ns: int
    end_ns: int


class SpokenModel:
    """A sound model, and its tokenizer as soon as that is there."""

    def __init__(self, settings: Settings, choices: Sequence[Choice]) -> None:
        """Raises UsageError for a model that is missing, not sound, of another type, or too large for all `choices`."""
        begin_ns = time.perf_counter_ns()
        demand = demand_of(settings, choices)
        self.found: Model = find_model(settings.model, settings.weights, settings.model_type, demand)
        self.checked = Span(begin_ns, time.perf_counter_ns())
        self.tokenizer_span = Span(0, 0)
        self._tokenizer: Tokenizer | None = None
        self._error: ModelError | None = None
        self._thread = threading.Thread(target=self._read, daemon=True, name="tokenizer")
        self._thread.start()

    @property
    def config(self) -> LlamaConfig:
        return self.found.checkpoint.config

    @property
    def synthetic(self) -> bool:
        return self.found.located.weights == "synthetic"

    @property
    def tokenizer(self) -> Tokenizer:
        """Waits for it. Raises UsageError where the model brings none that can be read."""
        self._thread.join()
        if self._tokenizer is None:
            raise UsageError(f"{self.found.name} cannot be talked to: {self._error}")
        return self._tokenizer

    def check_readable_by(self, choice: Choice) -> None:
        """Raises UsageError where this engine does not read files of this format."""
        if self.found.checkpoint.format not in choice.info.formats:
            formats = " and ".join(choice.info.formats)
            raise UsageError(
                f"{choice.label} reads {formats} files, {self.found.name} is {self.found.checkpoint.format}"
            )

    def n_ctx(self, wanted: int | None) -> int:
        """Raises UsageError beyond what the model has."""
        if wanted is not None and wanted > self.config.max_context:
            raise UsageError(f"--n-ctx {wanted}: {self.found.name} has {self.config.max_context} positions at most")
        return min(wanted or DEFAULT_N_CTX, self.config.max_context)

    def _read(self) -> None:
        begin_ns = time.perf_counter_ns()
        try:
            tokenizer = load_tokenizer(self.found.checkpoint)
            if tokenizer.chat_template is not None:
                tokenizer.render_chat([{"role": "user", "content": "."}])  # imports the language of templates
            self._tokenizer = tokenizer
        except ModelError as error:
            self._error = error
        self.tokenizer_span = Span(begin_ns, time.perf_counter_ns())


def place(settings: Settings, choices: Sequence[Choice]) -> LocatedModel:
    """Where the model is or will be; nothing is made. Raises UsageError, as SpokenModel does."""
    return located_model(settings.model, settings.weights, settings.model_type, demand_of(settings, choices))


def demand_of(settings: Settings, choices: Sequence[Choice]) -> Demand:
    room = memory_here(settings.device).room(settings.device, settings.shards)
    return Demand((), tuple(choice.precision for choice in choices), settings.shards, room)
