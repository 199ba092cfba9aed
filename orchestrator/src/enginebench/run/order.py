"""What one launch is told: everything, resolved once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from enginebench.machine.energy import Meter
from enginebench.machine.watch import Watch
from enginebench.store.record import Case, Kind, StartState

from .limits import Limits


@dataclass(frozen=True)
class LaunchOrder:
    """Everything that one launch needs to know."""

    case: Case
    kind: Kind
    block: int
    order: int
    module: str
    model_path: Path
    device: str
    threads: int
    cache: Path
    seed: int
    warmup: int
    iterations: int
    silence_seconds: float
    """The longest an engine may take for an answer, however alive it seems."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Settings that only this engine has."""
    vocab_size: int | None = None
    """Of the model; None for engines without a model (instruments)."""
    probe: list[int] | None = None
    """Fidelity probe; None for engines without a model (instruments)."""
    watch: Watch | None = None
    """Records the noise around the launch; None: nobody looks."""
    start_state: StartState | None = None
    """What was found just before the spawn."""
    meter: Meter | None = None
    """Of an energy launch."""
    tell: Callable[[str], None] | None = None
    """Hears every frame and every line of stderr; None: nobody does."""
    profile_folder: Path | None = None
    """Where a profile launch leaves its traces."""
    limits: Limits = field(default_factory=Limits)
