"""`enginebench verify`: what it prints and its exit codes. Engines are stood in for; the ladder is in test_ladder."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from enginebench.cli import command_line
from enginebench.cli import verify as command
from enginebench.judge.ladder import Rung
from enginebench.run import verify as module
from enginebench.run.verify import Unverified, VerifyOrder, verify
from enginebench.workspace.environment import Interpreter
from enginebench_protocol.codec import pack_ids, pack_times
from typer.testing import CliRunner

Invoke = Callable[..., tuple[int, str]]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Invoke:
    """invoke(answer, *arguments): `answer` is what asking an engine gives, or raises."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(command.environment, "prepare", lambda *args, **kwargs: None)
    monkeypatch.setattr(command.discovery, "unavailable_reason", lambda *args: None)
    monkeypatch.setattr(command, "become_subreaper", lambda: None)

    def call(answer: Any, *arguments: str) -> tuple[int, str]:
        def verify(order: Any, checkpoint: Any, interpreter: Any, watchdog: Any) -> list[Rung]:
            if isinstance(answer, Exception):
                raise answer
            rungs: list[Rung] = answer
            return rungs

        monkeypatch.setattr(command, "verify", verify)
        done = CliRunner().invoke(command_line(), ["verify", "torch:half", "--model", "tiny", *arguments])
        return done.exit_code, done.output

    return call


def test_every_rung_is_printed_and_all_passed_is_exit_0(invoke: Invoke) -> None:
    code, text = invoke([Rung("G1", True, "mean KLD 1e-6"), Rung("G2", None, "needs all logits")])
    assert code == 0
    assert "32 sequences of 64 + 64 ids, as many answers of 64" in text
    assert "tokenizer                G0      pass  1000 of 1000 strings come back" in text
    assert "torch:half               G1      pass  mean KLD 1e-6" in text
    assert "                         G2      -     needs all logits" in text


def test_one_failed_rung_is_exit_1(invoke: Invoke) -> None:
    code, text = invoke([Rung("G1", True, "fine"), Rung("G3", False, "token 2 is 3 nat below the likeliest")])
    assert code == 1
    assert "G3      FAIL  token 2 is 3 nat below the likeliest" in text


def test_an_engine_that_dies_is_exit_1_and_one_that_cannot_run_here_is_not(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = invoke(Unverified("the stream was closed"))
    assert (code, "FAIL  the stream was closed" in text) == (1, True)
    monkeypatch.setattr(command.discovery, "unavailable_reason", lambda *args: "needs an NVIDIA GPU")
    code, text = invoke([])
    assert (code, "unavailable: needs an NVIDIA GPU" in text) == (0, True)


@pytest.mark.parametrize("name", ["fake", "limit", "fake:slow"])
def test_what_computes_no_model_says_so_where_it_is_named(invoke: Invoke, name: str) -> None:
    told = rf"{name.partition(':')[0]}:\w+ +- +-  +computes no model: there is no answer to verify"
    assert re.search(told, invoke([], name)[1])
    assert "computes no model" not in invoke([])[1]


def test_an_interpreter_that_cannot_be_started_is_no_stack_trace(tmp_path: Path) -> None:
    watchdog: Any = SimpleNamespace(folder=tmp_path)
    order = VerifyOrder("x", "y", "m", tmp_path, "cpu", 1, tmp_path, 1, 1, 1.0)
    with pytest.raises(Unverified, match="No such file"):
        verify(order, None, Interpreter(tmp_path / "python", {}, None, {}), watchdog)  # type: ignore[arg-type]


def test_an_answer_outside_the_vocabulary_is_no_stack_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference has no logits for such an id: without a check it is an IndexError."""
    answer = SimpleNamespace(tokens=pack_ids([1, 512]), t_token_ns=pack_times([1, 2]))
    loaded = SimpleNamespace(weights_path="w", precision="f32", top_logprobs=0)
    client: Any = SimpleNamespace(hello=Mock(), load=Mock(return_value=loaded), generate=Mock(return_value=(answer, 0)))
    monkeypatch.setattr(module, "ChildProcess", Mock())
    monkeypatch.setattr(module, "watched", lambda *_: (client, Mock()))
    monkeypatch.setattr(module, "ReferenceWeights", Mock())
    monkeypatch.setattr(module, "_scored", Mock())
    checkpoint: Any = SimpleNamespace(config=SimpleNamespace(vocab_size=512))
    watchdog: Any = SimpleNamespace(folder=tmp_path)
    order = VerifyOrder("x", "y", "m", tmp_path, "cpu", 1, tmp_path, 1, 2, 1.0)
    with pytest.raises(Unverified, match="token id 512 outside the vocabulary of 512"):
        verify(order, checkpoint, Interpreter(tmp_path / "python", {}, None, {}), watchdog)
