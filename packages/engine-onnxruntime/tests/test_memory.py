"""Weights in the mapped file are not copied; converted weights are held once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from enginebench_models.catalogue import entry
from enginebench_models.synthesis import synthesise

ANONYMOUS_GROWTH = """
import json, sys
from array import array
from engine_onnxruntime import decoding, engine, genai
from enginebench_protocol.messages import Load

def held():
    rows = (line.split() for line in open("/proc/self/smaps_rollup"))
    return {row[0]: 1024 * int(row[1]) for row in rows if row[0] in ("Anonymous:", "Rss:")}

before = held()
ready = engine.OnnxruntimeEngine()
report = ready.load(Load(id=1, configuration=sys.argv[2], model_path=sys.argv[1], n_ctx=64, device="cpu", threads=1,
                         cache=sys.argv[3], scratch=sys.argv[3]), lambda stage, fraction: None)
list(ready.generate(array("i", [1, 2, 3]), 4))
after = held()
print(json.dumps({"weights": report.weights_bytes, "anonymous": after["Anonymous:"] - before["Anonymous:"],
                  "resident": after["Rss:"] - before["Rss:"]}))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """320 MB in float16: large beside what the library itself takes."""
    config = replace(
        entry("tiny").config,
        dim=1024, n_layers=12, n_heads=16, n_kv_heads=4, head_dim=64, hidden_dim=3072, vocab_size=16384,
    )  # fmt: skip
    return synthesise(config, tmp_path_factory.mktemp("model") / "model.gguf")


def growth(model: Path, configuration: str, scratch: Path) -> dict[str, int]:
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "ORT_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", ANONYMOUS_GROWTH, str(model), configuration, str(scratch)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("configuration", ["default", "genai"])
def test_weights_in_the_file_are_resident_once(model: Path, tmp_path: Path, configuration: str) -> None:
    found = growth(model, configuration, tmp_path)
    assert found["resident"] > 0.9 * found["weights"], "they were read"
    assert found["resident"] < 1.3 * found["weights"]
    assert found["anonymous"] < 0.25 * found["weights"]


def test_converted_weights_are_held_once_and_the_file_is_let_go(model: Path, tmp_path: Path) -> None:
    found = growth(model, "float32", tmp_path)
    assert 0.9 * found["weights"] < found["anonymous"] < 1.2 * found["weights"]
    assert found["resident"] < 1.3 * found["weights"]
