"""What a conversation is asked for. The commands of a chat put a changed copy in its place."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_TEMPERATURE = 0.85
DEFAULT_N_GEN = 256
DEFAULT_N_CTX = 4096
"""Some twenty turns. Engines with a cache of fixed size read all of it for every token: more is slower."""


@dataclass(frozen=True)
class Settings:
    model: str
    weights: str
    device: str
    threads: int
    temperature: float = DEFAULT_TEMPERATURE
    seed: int | None = None
    """None: another one each turn."""
    n_gen: int = DEFAULT_N_GEN
    """The longest reply."""
    n_ctx: int | None = None
    """None: DEFAULT_N_CTX, or what one prompt needs."""
    plain: bool = False
    """The text as it stands, without the model's chat template."""
    debug: bool = False
    model_type: str | None = None
    """Refuse a model of another type."""
    shards: int = 1
    """Devices, or ranks on one processor, that share the model."""
    overrides: Mapping[str, Path] = field(default_factory=dict)
    """Engine package → an interpreter that exists already."""

    def draw_seed(self) -> int:
        return secrets.randbelow(2**31) if self.seed is None else self.seed
