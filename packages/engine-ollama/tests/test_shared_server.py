"""A server that runs already: used, released, and left running. Recorded always, real where `ollama` is on PATH."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_ollama.engine import OllamaEngine, found_program
from engine_ollama.server import Server
from enginebench_models.checkpoint import open_checkpoint
from enginebench_protocol.errors import EngineFailure

PROMPT = array("i", [5, 900, 3, 77, 1])


@pytest.fixture
def running(server: str, tmp_path: Path) -> Iterator[Server]:
    """Somebody else's."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    started = Server(found_program(), theirs, theirs, {})
    yield started
    started.close()


def test_it_does_the_same_work_and_is_left_running(
    ready: Any, running: Server, engine: OllamaEngine, tiny: Path, tmp_path: Path, loader: Callable[..., Any]
) -> None:
    report = loader(engine, tiny, tmp_path / "ours", options={"host": running.address})
    assert list(engine.generate(PROMPT, 17)) == list(ready.engine.generate(PROMPT, 17))
    engine.unload()
    assert running.exit_code() is None
    assert report.shared_server
    assert report.versions["ollama"] == running.version
    assert not list((tmp_path / "ours" / "to-send").glob("import-*")), "the copy is sent, not kept"


def test_what_only_its_log_tells_is_not_told(
    running: Server, engine: OllamaEngine, tiny: Path, tmp_path: Path, loader: Callable[..., Any]
) -> None:
    report = loader(engine, tiny, tmp_path / "ours", options={"host": running.address})
    assert (report.weight_dtype, report.kv_dtype, report.device) == ("float16", "not told", "CPU")
    assert report.weights_bytes == open_checkpoint(tiny).weight_bytes
    assert report.versions["flash attention"] == "not told"


@pytest.mark.parametrize("host", ["127.0.0.1:9", "no such host"])
def test_a_host_where_no_server_answers_is_named(
    engine: OllamaEngine, tiny: Path, tmp_path: Path, loader: Callable[..., Any], host: str
) -> None:
    with pytest.raises(EngineFailure, match=f"no Ollama server answers at {host}"):
        loader(engine, tiny, tmp_path / "ours", options={"host": host})
