"""What a broken server, disk or machine makes of a launch: a failure with its reason, and nobody left behind."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_ollama import gguf_copy, server
from engine_ollama.engine import OllamaEngine
from enginebench_models.making import PREFIX
from enginebench_protocol.errors import EngineFailure

PROMPT = array("i", [5, 900, 3, 77, 1])


@pytest.fixture
def broken(
    stand_in: Callable[[str], Path],
    engine: OllamaEngine,
    tiny: Path,
    tmp_path: Path,
    loader: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], OllamaEngine]:
    """broken("dies"): the engine, loaded from a stand-in with that fault."""

    def load(fault: str) -> OllamaEngine:
        monkeypatch.setenv("PATH", f"{stand_in(fault)}{os.pathsep}{os.environ['PATH']}")
        loader(engine, tiny, tmp_path / "cache")
        return engine

    return load


def group_of(engine: OllamaEngine) -> int:
    assert engine._server is not None
    return engine._server._process.pid


def is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_without_the_program_the_engine_is_unsupported(
    engine: OllamaEngine, tiny: Path, tmp_path: Path, loader: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineFailure, match="program `ollama` not found on PATH") as failure:
        loader(engine, tiny, tmp_path / "cache")
    assert failure.value.code == "unsupported"
    assert "ollama.com" in failure.value.hint


def test_a_server_that_cannot_listen_is_quoted(broken: Callable[[str], OllamaEngine]) -> None:
    with pytest.raises(EngineFailure, match="did not start; `ollama serve` has ended with 1") as failure:
        broken("taken")
    assert "address already in use" in failure.value.detail


def test_a_server_that_never_listens_is_given_up(
    broken: Callable[[str], OllamaEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.Server.__init__, "__defaults__", (0.3,))
    with pytest.raises(EngineFailure, match="does not listen"):
        broken("silent")


def test_a_model_that_the_server_refuses_is_a_bad_model(
    broken: Callable[[str], OllamaEngine], engine: OllamaEngine
) -> None:
    with pytest.raises(EngineFailure, match="unable to load model") as failure:
        broken("refuses")
    assert failure.value.code == "bad-model"
    assert engine._server is None, "a failed load leaves no server"


def test_a_server_that_dies_in_the_middle_of_an_answer_is_noticed(broken: Callable[[str], OllamaEngine]) -> None:
    request = broken("dies").generate(PROMPT, 17)
    with pytest.raises(EngineFailure, match="does not answer"):
        list(request)


def test_a_server_that_hangs_is_given_up_after_the_silence(broken: Callable[[str], OllamaEngine]) -> None:
    request, started = broken("hangs").generate(PROMPT, 17), time.monotonic()
    with pytest.raises(EngineFailure, match="does not answer: ReadTimeout"):
        list(request)
    assert time.monotonic() - started < 10


def test_an_answer_that_breaks_off_is_noticed(broken: Callable[[str], OllamaEngine]) -> None:
    with pytest.raises(EngineFailure, match="broke off after 2 of 17 tokens"):
        list(broken("stops").generate(PROMPT, 17))


def test_other_work_than_asked_for_is_refused(broken: Callable[[str], OllamaEngine]) -> None:
    with pytest.raises(EngineFailure, match="counts 95 prompt tokens and 17 generated ones, 5 were sent and 17 came"):
        list(broken("miscounts").generate(PROMPT, 17))


def test_text_that_is_no_word_is_refused(broken: Callable[[str], OllamaEngine]) -> None:
    with pytest.raises(EngineFailure, match="is no word of the 4096 ids"):
        list(broken("babbles").generate(PROMPT, 17))


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_written(
    broken: Callable[[str], OllamaEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(EngineFailure, match=r"The import takes 0\.0 GB.* has 0\.0 GB free"):
        broken("none")
    assert not list((tmp_path / "cache" / "models").glob("blobs/*"))


def test_a_disk_that_becomes_full_leaves_no_half_copy(
    broken: Callable[[str], OllamaEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gguf_copy, "copy_range", full)
    with pytest.raises(EngineFailure, match="No space left on device") as failure:
        broken("none")
    assert failure.value.hint == "make room on the disk"
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir()] == ["import.lock"]


def test_what_a_killed_import_left_goes_with_the_next(broken: Callable[[str], OllamaEngine], tmp_path: Path) -> None:
    left = tmp_path / "cache" / "models" / f"{PREFIX}left"
    left.mkdir(parents=True)
    (left / "copy").write_bytes(b"GGUF")
    os.utime(left, (0, 0))
    broken("none")
    assert not left.exists()


def test_a_file_that_is_no_model_never_reaches_the_server(
    engine: OllamaEngine, tmp_path: Path, loader: Callable[..., Any], stand_in: Callable[[str], Path]
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(EngineFailure) as failure:
        loader(engine, tmp_path / "model.gguf", tmp_path / "cache")
    assert failure.value.code in ("bad-model", "unsupported")
    assert not (tmp_path / "cache" / "ollama.log").exists()


@pytest.mark.parametrize("fault", ["none", "hangs"])
def test_unload_leaves_nobody(broken: Callable[[str], OllamaEngine], fault: str) -> None:
    engine = broken(fault)
    group = group_of(engine)
    assert not is_gone(group)
    engine.unload()
    assert is_gone(group)


LAUNCH = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from conftest import load
from engine_ollama.engine import OllamaEngine
engine = OllamaEngine()
load(engine, Path({model!r}), Path({cache!r}))
print(engine._server._process.pid, flush=True)
sys.stdin.read()
"""


def test_the_server_dies_with_an_engine_that_is_killed(server: str, tiny: Path, tmp_path: Path) -> None:
    script = LAUNCH.format(tests=str(Path(__file__).parent), model=str(tiny), cache=str(tmp_path / "cache"))
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as launched:
        assert launched.stdout is not None
        group = int(launched.stdout.readline())
        assert not is_gone(group)
        launched.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not is_gone(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_gone(group)


def test_the_server_sees_nothing_of_the_callers_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_DEBUG", "1")
    monkeypatch.setenv("HTTPS_PROXY", "http://localhost:1")
    seen = server.environment(tmp_path, tmp_path, {})
    assert "HTTPS_PROXY" not in seen
    assert "OLLAMA_DEBUG" not in seen
    assert seen["OLLAMA_MODELS"] == str(tmp_path / "models")
    assert seen["OLLAMA_HOST"] == "127.0.0.1:0"
