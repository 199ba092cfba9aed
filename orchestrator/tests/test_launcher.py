"""What a launch starts from, before anything is spawned."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from enginebench.judge import fidelity_gate
from enginebench.judge.reference_weights import ReferenceWeights
from enginebench.run import launcher as launcher_module
from enginebench.run.launcher import Launcher, made_weights_now
from enginebench.run.order import LaunchOrder
from enginebench.store.record import Launch
from enginebench_models.catalogue import entry

from .small_run import SmallRun, made_up


@pytest.mark.parametrize(("kind", "given_back"), [("check", 1), ("energy", 0)])
def test_before_memory_is_read_our_own_pages_of_the_model_are_given_back(
    records: Any, kind: Any, given_back: int
) -> None:
    """Else a page that the engine maps would be shared with us, and count half in its proportional set size."""
    calls: list[None] = []
    checkpoint = SimpleNamespace(give_back=lambda: calls.append(None))
    launcher = Launcher.__new__(Launcher)
    launcher.weights = ReferenceWeights(Path())
    launcher.models = {"m": SimpleNamespace(checkpoint=checkpoint)}  # type: ignore[dict-item]
    assert launcher._start_state(records.case(), kind) is None
    assert len(calls) == given_back


# ---- weights that an engine made -----------------------------------------------------------------------------


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    found = Launcher.__new__(Launcher)
    found.weights, found.launches = ReferenceWeights(tmp_path), []
    return found


def test_weights_outside_the_engines_folder_fail_the_gate_of_a_check(
    records: Any, launcher: Launcher, tmp_path: Path
) -> None:
    loaded = records.loaded(weights_path=str(tmp_path / "elsewhere.gguf"), precision="q4_0")
    (tmp_path / "elsewhere.gguf").write_bytes(b"")
    judge = launcher._judge_of(SimpleNamespace(checkpoint=None), tmp_path / "cache")  # type: ignore[arg-type]
    found = judge(tmp_path / "logits.npy", "0" * 64, 65, loaded)
    assert (found.passed, found.precision) == (False, "q4_0")
    assert "outside its own folder" in found.reasons[0]


def test_weights_that_are_not_the_models_are_a_doubt_of_a_timed_launch(
    records: Any, launcher: Launcher, tmp_path: Path
) -> None:
    """They may have changed since the check."""
    loaded = records.loaded(weights_path=str(tmp_path / "gone.gguf"))
    model: Any = SimpleNamespace(checkpoint=None)
    timed = launcher._with_greedy(records.timed([records.request(0, (9, 10, 11))], loaded=loaded), model, tmp_path)
    assert len(timed.doubts) == 1
    assert "not there" in timed.doubts[0]
    reading = fidelity_gate.unjudged("not there", "q4_0")
    check = records.check(loaded=loaded, fidelity=reading)
    assert launcher._with_greedy(check, model, tmp_path) == check


@pytest.mark.parametrize(
    ("stages", "path", "made"),
    [({"convert": 5}, "x.gguf", True), ({"read": 5}, "x.gguf", False), ({"convert": 5}, "", False)],
)
def test_a_check_that_made_its_weights_is_told_from_one_that_found_them(
    records: Any, stages: Any, path: str, made: bool
) -> None:
    loaded = records.loaded(weights_path=path, stages_ns=stages)
    assert made_weights_now(records.timed([records.request(0, (9, 10, 11))], loaded=loaded)) == made


# ---- what an engine must answer within -----------------------------------------------------------------------


def test_ids_of_an_engine_are_held_against_the_vocabulary_of_its_model(tmp_path: Path) -> None:
    """Those of an instrument against what it says itself: it reads no tokens."""
    told: dict[str, int | None] = {}

    def launch(order: LaunchOrder, *arguments: Any) -> Launch:
        told[order.case.engine] = order.vocab_size
        if len(told) == 2:
            raise KeyboardInterrupt
        return made_up(order, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        small = SmallRun(patch, tmp_path / "cache")
        patch.setattr(launcher_module, "run_launch", launch)
        small.run(tmp_path, names=("torch:half",))
    assert told == {"limit": None, "torch": entry("tiny").config.vocab_size}
