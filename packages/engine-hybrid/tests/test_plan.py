"""Both versions of every region agree; one that does not, or breaks, stays with torch and says why."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_hybrid.engine import HybridEngine
from engine_hybrid.model import Llama
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.reference import Reference

ALL = ("prefill", "qkv", "attention", "mlp", "head")


@pytest.fixture(scope="module", params=["tiny", "odd", "tiny-safetensors"])
def llama(request: pytest.FixtureRequest, loader: Any, models: Callable[[str], Path]) -> Llama:
    return loader.llama(models(request.param))


@pytest.fixture(scope="module")
def tiny(loader: Any, models: Callable[[str], Path]) -> Llama:
    return loader.llama(models("tiny"))


def trial(llama: Llama) -> Any:
    from engine_hybrid.backend import backend_for
    from engine_hybrid.plan import Trial, Versions

    return Trial(Versions(llama, backend_for("cpu").lanes))


@pytest.mark.parametrize("region", ALL)
def test_both_versions_of_a_region_leave_the_same_behind(llama: Llama, region: str) -> None:
    tried = trial(llama)
    assert tried.passes(region), tried.notes[region]


@pytest.mark.parametrize("region", ALL)
def test_a_version_that_does_nothing_is_noticed(tiny: Llama, region: str) -> None:
    """Negative control of the test above."""
    tried = trial(tiny)
    reason = tried.probe.failure(region, tried.call("torch", region, 1), lambda: lambda position: None)
    assert "differs from torch's" in reason


def test_every_way_to_cut_a_step_gives_the_same_logits(tiny: Llama) -> None:
    from engine_hybrid.plan import in_a_row

    tried = trial(tiny)
    for way in (("qkv",), ("mlp",), ("mlp", "qkv"), ("qkv", "attention"), ("mlp", "head"), ALL[1:]):
        steps = tried.versions.whole(way)
        reason = tried.probe.failure("head", in_a_row(tried.versions.whole(())), lambda steps=steps: in_a_row(steps))
        assert not reason, (way, reason)


def test_neighbouring_regions_are_joined(tiny: Llama) -> None:
    from engine_hybrid.pieces import Piece

    versions, n_layers = trial(tiny).versions, tiny.config.n_layers
    assert len(versions.whole(ALL)) == 1
    assert len(versions.whole(())) == 3 * n_layers + 1
    cut = versions.whole(("mlp", "qkv"))  # [qkv] attention [mlp qkv] … attention [mlp] head
    assert [isinstance(step, Piece) for step in cut] == [True, False] * n_layers + [True, False]


def broken(kind: str) -> Callable[..., Any]:
    def region(views: Any, i: int, flow: Any, start: Any) -> Any:
        if kind == "raises":
            raise RuntimeError("no such kernel")
        return type(flow)((flow.x + 1).contiguous())

    return region


@pytest.mark.parametrize(
    ("kind", "reason"), [("raises", "does not compile: RuntimeError: no such kernel"), ("wrong", "differs from torch")]
)
def test_a_broken_region_falls_back_with_its_reason_and_the_answer_stays_right(
    engine: HybridEngine,
    loader: Any,
    models: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    reason: str,
) -> None:
    loader.llama(models("tiny"))
    from engine_hybrid import tinygrad_regions

    monkeypatch.setitem(tinygrad_regions.REGIONS, "mlp", broken(kind))
    loaded = loader.load(engine, models("tiny"))
    regions = dict(part.split(": ", 1) for part in loaded.versions["regions"].split("; "))
    assert regions["mlp"].startswith("torch (tinygrad's version ")
    assert reason in loaded.versions["regions"]
    assert (regions["qkv"], regions["attention"], regions["head"]) == ("tinygrad", "tinygrad", "tinygrad")
    ids = array("i", probe_ids(loaded.vocab_size, 40))
    expected = Reference(open_checkpoint(models("tiny"))).logits(ids, range(23, 40))
    assert gate(compare(expected, np.asarray(engine.score(ids, 24))), loaded.precision).passed


def test_a_kernel_that_fails_when_it_runs_is_a_reason(tiny: Llama) -> None:
    tried, calls = trial(tiny), iter([None])

    def second_call_fails(position: int) -> None:
        if next(calls, "spent") == "spent":
            raise RuntimeError("illegal address")

    reason = tried.probe.failure("mlp", tried.call("torch", "mlp", 1), lambda: second_call_fails)
    assert reason == "tinygrad's version does not run: RuntimeError: illegal address"


def test_values_that_are_no_numbers_disagree() -> None:
    from engine_hybrid.probe import disagreement

    assert disagreement([torch.ones(3)], [torch.tensor([1.0, float("nan"), 1.0])])
    assert not disagreement([torch.ones(3)], [torch.ones(3)])


@pytest.mark.parametrize(("slow", "chosen"), [("torch", "tinygrad"), ("tinygrad", "torch")])
def test_auto_keeps_the_faster_version(tiny: Llama, monkeypatch: pytest.MonkeyPatch, slow: str, chosen: str) -> None:
    tried = trial(tiny)
    from engine_hybrid import torch_regions
    from engine_hybrid.pieces import Piece

    if slow == "torch":
        monkeypatch.setattr(torch_regions, "mlp", delayed(torch_regions.mlp))
    else:
        monkeypatch.setattr(Piece, "__call__", delayed(Piece.__call__))
    plan = tried.fastest(["mlp"])
    assert plan.where["mlp"].startswith(f"{chosen} (torch ")
    assert plan.where["qkv"] == "torch", "only what passed is considered"
    assert any(isinstance(step, Piece) for step in plan.decoder.steps) == (chosen == "tinygrad")


def delayed(function: Callable[..., None]) -> Callable[..., None]:
    def late(*arguments: Any) -> None:
        time.sleep(0.03)
        function(*arguments)

    return late
