"""A trace of a real request: its operators are those of the model, as often as its tokens ask for."""

from __future__ import annotations

import json
from array import array
from pathlib import Path

from engine_torch.engine import TorchEngine
from enginebench_models.catalogue import entry
from enginebench_models.synthesis import synthesise
from enginebench_protocol.messages import Load


def test_a_trace_has_the_attention_of_every_layer_and_token(tmp_path: Path) -> None:
    config = entry("tiny").config
    path = synthesise(config, tmp_path / "tiny.gguf")
    engine, folder = TorchEngine(), tmp_path / "profile"
    folder.mkdir()
    facts = {"device": "cpu", "threads": 2, "cache": str(tmp_path), "scratch": str(tmp_path)}
    engine.load(Load(id=1, configuration="half", model_path=str(path), n_ctx=16, **facts), lambda *_: None)
    files = engine.profile(array("i", [1, 2, 3]), 4, folder)
    events = json.loads(files["trace.json"].read_text())["traceEvents"]
    attention = [e for e in events if e.get("cat") == "cpu_op" and e["name"] == "aten::scaled_dot_product_attention"]
    assert len(attention) == 4 * config.n_layers
    assert any(event["name"] == "[memory]" for event in events)
