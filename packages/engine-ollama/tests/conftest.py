"""One engine per kind of server: a recording of a real one, always; a real one, where `ollama` is on PATH."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine_ollama.engine import OllamaEngine
from enginebench_models.catalogue import entry
from enginebench_models.synthesis import synthesise
from enginebench_protocol.messages import Load, Loaded

TESTS = Path(__file__).parent
RECORDING = TESTS / "recordings" / "v0.24.0.json"
REAL = shutil.which("ollama")


@dataclass(frozen=True)
class Ready:
    """An engine that has loaded `path`."""

    engine: OllamaEngine
    report: Loaded
    path: Path
    cache: Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(entry("tiny").config, tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """stand_in("hangs"): a folder for PATH with a program `ollama` in it that has this fault."""

    def make(fault: str) -> Path:
        folder = tmp_path_factory.mktemp(fault)
        program = folder / "ollama"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {TESTS / "stand_in.py"} {RECORDING} {fault} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return folder

    return make


def load(engine: OllamaEngine, path: Path, cache: Path, **changes: Any) -> Loaded:
    cache.mkdir(exist_ok=True)
    fields: dict[str, Any] = {
        "id": 1,
        "configuration": "default",
        "model_path": str(path),
        "n_ctx": 64,
        "device": "cpu",
        "threads": 2,
        "cache": str(cache),
        "scratch": str(cache),
    }
    progress = changes.pop("progress", lambda stage, fraction: None)
    return engine.load(Load(**(fields | changes)), progress)


@pytest.fixture(scope="session")
def loader() -> Callable[..., Loaded]:
    return load


@pytest.fixture(scope="session", params=["recorded", "real"])
def server(request: pytest.FixtureRequest, stand_in: Callable[[str], Path]) -> Iterator[str]:
    """The kind of server that is first on PATH."""
    if request.param == "real" and REAL is None:
        pytest.skip("no program `ollama` on PATH")
    path = os.environ["PATH"]
    if request.param == "recorded":
        os.environ["PATH"] = f"{stand_in('none')}{os.pathsep}{path}"
    yield request.param
    os.environ["PATH"] = path


@pytest.fixture(scope="session")
def ready(server: str, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ready]:
    """One engine for the tests that only ask."""
    engine, cache = OllamaEngine(), tmp_path_factory.mktemp(f"cache-{server}")
    yield Ready(engine, load(engine, tiny, cache), tiny, cache)
    engine.unload()


@pytest.fixture
def engine() -> Iterator[OllamaEngine]:
    engine = OllamaEngine(silence_seconds=2.0)
    yield engine
    engine.unload()
