"""Plans and compiled kernels that are kept: taken again, or made anew, and by what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_tensorrt.library import Library
from enginebench_protocol.errors import EngineFailure

from .conftest import PROMPT, Loader, Ready, generated
from .fake_gpu import FakeEngine


def replace_stages(report: Any) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__struct_fields__ if name != "stages"}


def cache_of(ready: Ready) -> Any:
    assert ready.engine._session is not None
    assert ready.engine._session.kernels is not None
    return ready.engine._session.kernels.cache


def test_a_second_load_takes_the_plan_from_the_cache(load: Loader, models: dict[str, Path]) -> None:
    first, second = load(models["untied"]), load(models["untied"])
    assert {"convert", "compile"} <= {stage for stage, _ in first.progress}
    assert second.progress == []
    assert "convert" not in second.report.stages
    assert second.report.stages["compile"] < first.report.stages["compile"]
    ids = generated(first, PROMPT, 6)
    assert generated(second, PROMPT, 6) == ids
    assert replace_stages(second.report) == replace_stages(first.report)


def test_kernels_that_were_compiled_are_kept_beside_the_plan(
    load: Loader, models: dict[str, Path], tmp_path: Path
) -> None:
    """Those of the decode step at the end of the load, those of the prompts that came at the end of the session."""
    first = load(models["untied"])
    (file,) = (tmp_path / "tensorrt").glob("*.kernels")
    assert file.with_suffix(".plan").exists()
    assert file.read_bytes().endswith(b":\x01")
    generated(first, PROMPT, 3)
    first.engine.unload()
    assert file.read_bytes().endswith(b":\x01\x05")
    second = load(models["untied"])
    generated(second, PROMPT, 3)
    assert cache_of(second).compiled == 0
    generated(second, PROMPT[:3], 1)
    assert cache_of(second).compiled == 1
    assert [path for path in file.parent.iterdir() if path.name.startswith(".")] == []


def test_kernels_of_another_gpu_are_compiled_anew(load: Loader, models: dict[str, Path], tmp_path: Path) -> None:
    load(models["untied"])
    (file,) = (tmp_path / "tensorrt").glob("*.kernels")
    file.write_bytes(b"of another version")
    assert cache_of(load(models["untied"])).compiled == 1
    assert file.read_bytes().endswith(b":\x01")


def test_a_plan_that_is_built_anew_starts_without_kernels(load: Loader, models: dict[str, Path]) -> None:
    load(models["untied"])
    assert cache_of(load(models["untied"])).compiled == 0
    assert cache_of(load(models["untied"], options={"rebuild": "yes"})).compiled == 1


def test_what_is_called_of_the_runtime_cache_is_there(library: Library) -> None:
    """The real interface, which makes one only from an engine on a GPU."""
    trt = library.trt
    for kind, names in (
        (trt.ICudaEngine, ("create_runtime_config", "create_execution_context")),
        (
            trt.IRuntimeConfig,
            ("create_runtime_cache", "set_runtime_cache", "dynamic_shapes_kernel_specialization_strategy"),
        ),
        (trt.IRuntimeCache, ("deserialize", "serialize")),
    ):
        assert set(names) <= set(dir(kind))


def test_weights_that_a_plan_holds_twice_count_twice(
    load: Loader, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEngine, "weights_bytes", 10**9)
    ready = load(models["untied"])
    assert ready.report.weights_bytes == ready.engine.memory().weights_bytes == 10**9
    assert ready.report.read_bytes_per_token < 10**7


@pytest.mark.parametrize("asked", ["yes", "no"])
def test_a_plan_that_is_kept_is_built_anew_only_if_asked_for(load: Loader, models: dict[str, Path], asked: str) -> None:
    load(models["untied"], "basic")
    stages = load(models["untied"], "basic", options={"rebuild": asked}).report.stages
    assert ("convert" in stages) == (asked == "yes")


def test_another_answer_than_yes_or_no_is_refused(load: Loader, models: dict[str, Path]) -> None:
    with pytest.raises(EngineFailure, match="rebuild 'perhaps'"):
        load(models["untied"], "basic", options={"rebuild": "perhaps"})


def test_each_precision_has_a_plan_of_its_own(load: Loader, models: dict[str, Path]) -> None:
    for options in ({}, {"precision": "bfloat16"}):
        assert "convert" in load(models["untied"], "basic", options=options).report.stages
    assert "convert" not in load(models["untied"], "basic", options={"precision": "bfloat16"}).report.stages
    assert "convert" not in load(models["untied"], "basic", options={"precision": "float32"}).report.stages
