"""A rank that is lost is a failure with its last words, never a hang; and no rank outlives rank 0."""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path

import pytest
import torch
from engine_torch import engine as torch_engine
from engine_torch import ranks
from engine_torch.engine import TorchEngine
from enginebench_models.catalogue import entry
from enginebench_models.synthesis import synthesise
from enginebench_protocol.client import Client
from enginebench_protocol.codec import pack_ids
from enginebench_protocol.engine import Sampling
from enginebench_protocol.errors import EngineFailure, ProtocolError
from enginebench_protocol.framing import FrameStream
from enginebench_protocol.messages import Load
from enginebench_protocol.out_of_memory import HOST, memory_failure

PROMPT = array("i", range(20))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(entry("tiny").config, tmp_path_factory.mktemp("models") / "tiny.gguf")


def facts(model: Path, folder: Path) -> dict[str, object]:
    folders = {"cache": str(folder), "scratch": str(folder)}
    return {"configuration": "half", "model_path": str(model), "n_ctx": 2048, "device": "cpu", "threads": 2} | folders


def loaded(model: Path, folder: Path) -> tuple[TorchEngine, subprocess.Popen[bytes]]:
    """An engine of two ranks, and the process of the other one."""
    engine = TorchEngine()
    engine.load(Load(id=1, shards=2, **facts(model, folder)), lambda stage, fraction: None)  # type: ignore[arg-type]
    assert engine._ranks is not None
    return engine, engine._ranks._ranks[0].process


def test_a_lost_rank_fails_its_request_with_its_last_words_and_another_load_helps(tiny: Path, tmp_path: Path) -> None:
    engine, process = loaded(tiny, tmp_path)
    assert engine._ranks is not None
    with engine._ranks._ranks[0].log.open("a") as log:
        log.write("what it said last\n")
    ids, killed = engine.generate(PROMPT, 1000), time.monotonic()
    next(ids)
    process.kill()
    with pytest.raises(EngineFailure, match="rank 1 of 2 ended by signal 9") as failure:
        list(ids)
    assert "what it said last" in failure.value.detail
    assert time.monotonic() - killed < 20
    with pytest.raises(EngineFailure, match="a rank was lost"):
        list(engine.generate(PROMPT, 2))
    engine.unload()
    again, process = loaded(tiny, tmp_path)
    assert len(list(again.generate(PROMPT, 3))) == 3
    process.kill()
    process.wait()
    with pytest.raises(EngineFailure, match="rank 1 of 2 ended by signal 9"):
        again.score(PROMPT, 10)
    again.unload()


def test_a_rank_without_memory_is_a_failure_of_that_name(tiny: Path, tmp_path: Path) -> None:
    engine, process = loaded(tiny, tmp_path)
    assert engine._ranks is not None
    (rank,) = engine._ranks._ranks
    rank.send(Load(id=1, shards=2, **facts(tmp_path / "none", tmp_path)))  # type: ignore[arg-type]
    assert process.wait(60) > 0
    rank.log.write_text("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB\nand more\n")
    with pytest.raises(EngineFailure, match="CUDA out of memory") as failure:
        engine.score(PROMPT, 10)
    assert failure.value.code == "out-of-memory"
    engine.unload()


def test_what_torch_says_where_memory_is_refused_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert str(memory_failure(f"RuntimeError: {caught.value}")).startswith(HOST)


def test_an_error_of_rank_0_alone_ends_the_others_instead_of_leaving_them_out_of_step(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits that hold NaN, for instance: nothing can be drawn from them, and the others wait for an id."""

    def no_draw(logits: object) -> int:
        raise ValueError("nothing can be drawn")

    monkeypatch.setattr(torch_engine, "chooser", lambda temperature, seed: no_draw)
    engine, process = loaded(tiny, tmp_path)
    try:
        with pytest.raises(ValueError, match="nothing can be drawn"):
            list(engine.generate(PROMPT, 4, Sampling(temperature=1.0)))
        assert process.wait(5) == -signal.SIGKILL
        with pytest.raises(EngineFailure, match="a rank was lost"):
            engine.generate(PROMPT, 2)
    finally:
        engine.unload()


@pytest.mark.slow
def test_a_rank_that_stands_still_is_given_up_at_the_deadline(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "COLLECTIVE_SECONDS", 20.0)
    engine, process = loaded(tiny, tmp_path)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(EngineFailure, match="the ranks lost each other"):
        engine.score(PROMPT, 10)
    assert process.poll() == -signal.SIGKILL
    engine.unload()


@pytest.mark.slow
def test_a_rank_that_cannot_start_fails_the_load_with_its_last_words(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EngineFailure, match="rank 1 of 2 ended with 1"):
        loaded(tiny, tmp_path)


# ---- kill -9 ----------------------------------------------------------------------------------------------------


def killed_at_a_random_moment(model: Path, victim: int, chance: random.Random) -> str:
    """Starts the engine as an orchestrator does, kills rank `victim` while it loads or generates, and waits.

    Returns what came of it at the parent. Rank 0 itself, if it lives, is then killed, as an orchestrator does.
    """
    mark = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix=mark) as folder:
        command = [sys.executable, "-m", "engine_torch", "serve", "--nonce", mark]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdin and process.stdout
        client, said = Client(FrameStream(process.stdout.fileno(), process.stdin.fileno())), ""
        at = time.monotonic() + chance.uniform(0.0, 8.0)
        pid = os.fork()
        if pid == 0:  # the killer: load and generate keep us busy
            _kill(process.pid, victim, mark, at)
        try:
            client.hello("torch", mark, 60.0)
            client.load(60.0, shards=2, **facts(model, Path(folder)))
            for _ in range(1000):
                client.generate(pack_ids(PROMPT), 1500, 60.0)
        except (EngineFailure, ProtocolError) as error:
            said = str(error)
        os.waitpid(pid, 0)
        process.stdin.close()
        deadline = time.monotonic() + 5.0
        while (left := set(alive(mark)) - {process.pid}) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
        process.wait()
        process.stdout.close()
        assert not left
    return said


def _kill(root: int, victim: int, mark: str, at: float) -> None:
    """In a forked process: waits for its moment and its victim, kills, and is gone."""
    deadline = time.monotonic() + 60.0
    while time.monotonic() < at or (victim and not alive(mark, victim)):
        time.sleep(0.02)
        if time.monotonic() > deadline:
            break
    for pid in alive(mark, victim) if victim else [root]:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def alive(mark: str, rank: int | None = None) -> list[int]:
    """Processes that carry the mark in their arguments: rank 0 as its nonce, the others in the path of their store."""
    found = []
    for entry_ in Path("/proc").iterdir():
        try:
            words = (entry_ / "cmdline").read_bytes().decode().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if any(mark in word for word in words) and (rank is None or words[3:4] == [str(rank)]):
            found.append(int(entry_.name))
    return found


def test_nothing_is_left_where_rank_0_is_killed(tiny: Path) -> None:
    assert "closed the stream" in killed_at_a_random_moment(tiny, 0, random.Random(0))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_left_wherever_a_rank_is_killed(tiny: Path, seed: int) -> None:
    said = killed_at_a_random_moment(tiny, seed % 2, random.Random(seed))
    assert ("rank 1 of 2 ended by signal 9" if seed % 2 else "stream") in said
