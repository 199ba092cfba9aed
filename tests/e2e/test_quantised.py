"""Files of quantised blocks run in every engine that can run here, in its first configuration, and give what their
blocks expand to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enginebench.workspace import discovery
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.store import LocalModels
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, Keys
from gguf.quants import quantize

Run = Callable[..., tuple[int, dict[str, Any], str]]


def quantised(source: Path, target: Path, block: GGMLQuantizationType) -> Path:
    """The same model with its matrices in blocks. Follows gguf's own gguf_new_metadata.py."""
    reader, writer = GGUFReader(source), GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name != Keys.General.ARCHITECTURE and not field.name.startswith("GGUF."):
            kind = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=kind)
    for tensor in reader.tensors:
        if len(tensor.shape) == 1:
            writer.add_tensor(tensor.name, tensor.data)
        else:
            writer.add_tensor(tensor.name, quantize(tensor.data.astype(np.float32), block), raw_dtype=block)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_a_quantisation_that_only_a_gpu_has_is_a_row_that_says_so(run: Run) -> None:
    _, result, _ = run("tensorrt", "vllm", "tensorrt-llm", "--device", "cpu", "--quantize", "int8", "fp8")
    reasons = {f"{case['engine']}:{case['configuration']}": case["reason"] for case in result["cases"]}
    del reasons["limit:default"]
    assert reasons == {
        **{f"tensorrt:{name}": "needs an NVIDIA GPU" for name in ("int8", "rtx-int8", "fp8", "rtx-fp8")},
        "vllm:int8": "needs an NVIDIA GPU",
        "vllm:fp8": "no fp8; nearest: --quantize int8",
        "tensorrt-llm:int8": "no int8; it makes no quantised weights",
        "tensorrt-llm:fp8": "no fp8; it makes no quantised weights",
    }


@pytest.mark.parametrize("block", [GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0])
def test_every_engine_reads_quantised_files(run: Run, tmp_path: Path, block: GGMLQuantizationType) -> None:
    tiny, _, _ = LocalModels().locate("tiny", "synthetic")
    model = quantised(Path(tiny), tmp_path / f"tiny-{block.name}.gguf", block)
    assert open_checkpoint(model).tensor("layers.0.mlp.down_proj").dtype == block.name.lower()
    engines = [info for info in discovery.discover().values() if info.role == "engine"]
    labels = [f"{info.name}:{next(iter(info.configurations))}" for info in engines]
    _, result, errors = run(*labels, "--model", str(model), "--n-prompt", "8", "--n-gen", "4")
    rows = {f"{c['engine']}:{c['configuration']}": c for c in result["cases"] if c["status"] != "unavailable"}
    assert {"torch:baseline", "tinygrad:default", "limit:default"} <= set(rows), errors
    del rows["limit:default"]  # it has no logits
    assert {label: c["reason"] for label, c in rows.items() if not (c["fidelity"] or {}).get("passed")} == {}
