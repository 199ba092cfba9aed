"""A model of the catalogue that is somewhere else, and pulling it."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from enginebench_models.catalogue import Entry
from enginebench_models.pull import downloaded, planned

from .fake_hub import FakeHub

REPOSITORY = "someone/tiny-GGUF"
MODEL = "tiny-f16.gguf"
TOKEN = "hf_secretsecretsecret"


def pull(model: Entry, cache: Path, hub: FakeHub) -> Path:
    return downloaded(planned(model, cache, hub.address))


def leftovers(cache: Path) -> list[str]:
    return sorted(
        str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"
    )


def waits(monkeypatch: pytest.MonkeyPatch, sleep: Callable[[float], None]) -> None:
    from huggingface_hub import file_download

    monkeypatch.setattr(file_download, "time", SimpleNamespace(**(vars(time) | {"sleep": sleep})))
