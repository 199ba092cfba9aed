"""The models that have a name: shape, licence and where the real files come from.

One TOML file each under catalogue/; a field that is not known for certain is absent.
"""

import difflib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from enginebench_models.config import LlamaConfig, RopeScaling
from enginebench_models.errors import ModelNotFound


@dataclass(frozen=True)
class SourceFile:
    """One file of a repository."""

    name: str
    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Entry:
    """A catalogue entry. `format` and `repository` are None for models that exist as synthetic ones only."""

    name: str
    description: str
    type: str
    config: LlamaConfig
    licence: str | None = None
    format: str | None = None
    repository: str | None = None
    revision: str | None = None
    files: tuple[SourceFile, ...] = ()


def entry(name: str) -> Entry:
    """Raises ModelNotFound, naming the entries there are."""
    found = entries().get(name)
    if found is None:
        near = difflib.get_close_matches(name, entries(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? The" if near else "the"
        raise ModelNotFound(
            f"No model is called {name!r}: {hint} catalogue has {', '.join(entries())}. Or give a path."
        )
    return found


@cache
def entries() -> dict[str, Entry]:
    """All entries by name, the smallest model first."""
    folder = files("enginebench_models") / "catalogue"
    texts = [item.read_text(encoding="utf-8") for item in folder.iterdir() if item.name.endswith(".toml")]
    found = sorted((parse(text) for text in texts), key=lambda each: each.config.weight_elements())
    return {each.name: each for each in found}


def parse(text: str) -> Entry:
    raw = tomllib.loads(text)
    source = raw.get("source", {})
    return Entry(
        name=raw["name"],
        description=raw["description"],
        type=raw["type"],
        config=config_of(raw["shape"]),
        licence=raw.get("licence"),
        format=source.get("format"),
        repository=source.get("repository"),
        revision=source.get("revision"),
        files=tuple(SourceFile(**each) for each in source.get("files", [])),
    )


def config_of(shape: dict[str, Any]) -> LlamaConfig:
    scaling = shape.get("rope_scaling")
    return LlamaConfig(**(shape | {"rope_scaling": RopeScaling(**scaling) if scaling else None}))
