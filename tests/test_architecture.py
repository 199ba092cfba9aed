"""The dependency direction of docs/architecture.md, read off every import statement, also inside functions."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from enginebench.workspace.discovery import discover

ROOT = Path(__file__).resolve().parents[1]
HARNESS = ("enginebench_protocol", "enginebench_models", "enginebench")
FRAMEWORKS = {"torch", "tinygrad", "transformers", "tensorrt", "onnxruntime", "vllm", "llama_cpp", "tensorrt_llm"}


def imported(folder: Path) -> set[str]:
    """Top-level names of all absolute imports below `folder`, templates left out."""
    names: set[str] = set()
    for file in folder.rglob("*.py"):
        if "template" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.partition(".")[0])
    return names


def engine_modules() -> set[str]:
    return {info.module for info in discover().values()}


def test_protocol_imports_no_member() -> None:
    found = imported(ROOT / "protocol/src")
    assert not found & ({"enginebench_models", "enginebench"} | engine_modules() | FRAMEWORKS)


def test_models_import_no_member() -> None:
    found = imported(ROOT / "models/src")
    assert not found & ({"enginebench_protocol", "enginebench"} | engine_modules() | FRAMEWORKS)


def test_the_orchestrator_imports_no_engine_and_no_framework() -> None:
    found = imported(ROOT / "orchestrator/src")
    assert not found & (engine_modules() | FRAMEWORKS)


@pytest.mark.parametrize("module", sorted(engine_modules()))
def test_an_engine_imports_neither_the_orchestrator_nor_another_engine(module: str) -> None:
    folder = next(ROOT.glob(f"packages/*/src/{module}"))
    assert not imported(folder) & ({"enginebench"} | engine_modules() - {module})


def test_the_scan_sees_imports_inside_functions(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    from torch import nn\n    import enginebench.cli\n    return nn\n")
    assert {"torch", "enginebench"} <= imported(tmp_path)


def test_no_other_file_names_an_engine() -> None:
    """Adding an engine is adding a folder (and a line of the conflict set): nothing else may list them."""
    names = {info.module for info in discover().values()} | {info.package for info in discover().values()}
    instruments = {"engine-fake", "engine_fake", "engine-limit", "engine_limit"}
    for file in (ROOT / "orchestrator/src").rglob("*.py"):
        found = {name for name in names - instruments if name in file.read_text()}
        assert not found, f"{file.name} names {found}"


def test_the_protocol_starts_without_importing_anything_heavy() -> None:
    """`main` owns the descriptors before any other module runs."""
    tree = ast.parse((ROOT / "protocol/src/enginebench_protocol/main.py").read_text())
    top = {a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names}
    assert top == {"os", "stat", "sys", "time"}
    assert top <= sys.stdlib_module_names
