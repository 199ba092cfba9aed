"""What is asked before a model is made: nothing is written for a command that is refused, or only planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from enginebench.cli import command_line
from enginebench.plan.fit import Memory
from enginebench.plan.workload import parsed
from enginebench.run import admission, model
from enginebench.run.admission import cannot_run
from enginebench.store.record import Case
from enginebench.workspace.discovery import discover
from enginebench_models.catalogue import entry
from typer.testing import CliRunner, Result

GB = 10**9


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh one, on a machine of 25 GB."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for module in (model, admission):
        monkeypatch.setattr(module, "memory_here", lambda device: Memory(25 * GB))
    return tmp_path


def typed(*words: str) -> Result:
    return CliRunner().invoke(command_line(), list(words))


def refusal(done: Result) -> str:
    return f"{type(done.exception).__name__}: {done.exception}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "torch:half"], "llama3-70b does not fit: weights in 16 bits and their cache need 141.2 GB, there are"),
        (["run", "torch", "--quantize", "nf4"], "weights in nf4 and their cache need 40.6 GB, there are 25.0 GB"),
        (["run", "torch:half", "--shard", "2"], "need 70.6 GB on each of 2 devices, there are 12.5 GB"),
        (["run", "fake", "--dry-run"], "llama3-70b does not fit: weights and their cache need 141.2 GB"),
        (["run", "fake", "--model-type", "gpt"], "Expected 'gpt' but detected 'llama'"),
        (["run", "fake", "-n", "200000"], "llama3-70b, pp128+tg200000: n_prompt 128 + n_gen 200000 = 200128 tokens"),
    ],
)
def test_what_cannot_run_is_refused_before_a_model_is_made(cache: Path, words: list[str], message: str) -> None:
    done = typed(*words, "--model", "llama3-70b")
    assert "UsageError" in refusal(done)
    assert message in refusal(done)
    assert not list(cache.rglob("*.gguf"))


def test_all_models_are_asked_before_the_first_is_made(cache: Path) -> None:
    done = typed("run", "fake", "--model", "tiny", "--model", "llama3-70b")
    assert "llama3-70b does not fit" in refusal(done)
    assert not list(cache.rglob("*.gguf"))


def test_no_environment_is_installed_for_a_model_that_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from enginebench.chat import model as chat_model
    from enginebench.workspace import environment

    monkeypatch.setattr(chat_model, "memory_here", lambda device: Memory(25 * GB))
    monkeypatch.setattr(environment, "is_synced", lambda info, root=None, extra="": False)
    monkeypatch.setattr(environment, "startable", lambda *_, **__: pytest.fail("installed"))
    for name, message in (("llama3-70b", "does not fit"), ("llama3-1c", "did you mean 'llama3-1b'")):
        assert message in refusal(typed("prompt", "hello", "--engine", "torch:half", "--model", name))


def test_a_dry_run_makes_no_model(cache: Path) -> None:
    done = typed("run", "fake", "--model", "llama3-8b", "--dry-run")
    assert (done.exit_code, "llama3-8b  pp128+tg64" in done.stdout) == (0, True)
    assert not list(cache.rglob("*.gguf"))


def test_a_case_that_does_not_fit_what_is_free_is_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "free_here", lambda device: Memory(20 * GB))
    info = discover()["torch"]
    eight = SimpleNamespace(config=entry("llama3-8b").config, format="gguf", file_bytes=16_100_000_000)
    case = Case(info.name, "baseline", "llama3-8b", parsed("pp128+tg64"))
    reason = cannot_run(info, case, eight, "cpu", {})
    assert reason == "weights in float32 and their cache need 32.2 GB, there are 20.0 GB"
    half = Case(info.name, "half", "llama3-8b", parsed("pp128+tg64"))
    assert cannot_run(info, half, eight, "cpu", {}) is None
    small = SimpleNamespace(**{**vars(eight), "config": replace(entry("tiny").config)})
    assert cannot_run(info, case, small, "cpu", {}) is None
