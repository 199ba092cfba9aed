"""Models that the server quantises: where their file is, and that it computes what that file holds.

The last needs a real server: its file is megabytes of weights, which no recording of its traffic holds.
"""

from __future__ import annotations

import json
import shutil
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blocks import in_q8_0
from engine_ollama.engine import OllamaEngine
from engine_ollama.importing import WEIGHTS, blob_of
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.made_weights import made_weights
from enginebench_models.reference import Reference
from enginebench_protocol.errors import EngineFailure

N_PREFILL, N_DECODE = 20, 20


def manifest(folder: Path, digests: list[str]) -> Path:
    """As ollama 0.24.0 writes it."""
    path = folder / "manifests" / "registry.ollama.ai" / "library" / "enginebench-ab" / "1-q8_0"
    path.parent.mkdir(parents=True)
    layers = [{"mediaType": WEIGHTS, "digest": digest, "size": 1} for digest in digests]
    layers.append({"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:ef", "size": 1})
    path.write_text(json.dumps({"schemaVersion": 2, "config": {"digest": "sha256:01"}, "layers": layers}))
    return path


def test_the_file_of_a_model_is_the_layer_that_holds_weights(tmp_path: Path) -> None:
    digest = "ab" * 32
    manifest(tmp_path, [f"sha256:{digest}"])
    assert blob_of(tmp_path, "enginebench-ab:1-q8_0") == tmp_path / "blobs" / f"sha256-{digest}"


@pytest.mark.parametrize("digests", [[], ["sha256:ab", "sha256:cd"]])
def test_anything_but_one_file_of_weights_is_an_error(tmp_path: Path, digests: list[str]) -> None:
    manifest(tmp_path, digests)
    with pytest.raises(OSError, match=f"names {len(digests)} files of weights"):
        blob_of(tmp_path, "enginebench-ab:1-q8_0")


def test_a_file_of_blocks_is_not_quantised_again(
    engine: OllamaEngine, loader: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(EngineFailure, match="holds q8_0: quantising starts from") as refused:
        loader(engine, in_q8_0(tiny, tmp_path / "q8_0.gguf"), tmp_path / "cache", configuration="q4_k_m")
    assert refused.value.code == "unsupported"


def test_a_shared_server_does_not_quantise_for_us(
    engine: OllamaEngine, loader: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(EngineFailure, match="cannot be checked") as refused:
        loader(engine, tiny, tmp_path / "cache", configuration="q8_0", options={"host": "127.0.0.1:9"})
    assert refused.value.code == "unsupported"


@pytest.mark.skipif(shutil.which("ollama") is None, reason="no program `ollama` on PATH")
@pytest.mark.parametrize(("configuration", "precision"), [("q8_0", "q8_0"), ("q4_k_m", "q4_k")])
def test_a_real_server_computes_with_the_file_that_it_names(
    engine: OllamaEngine, loader: Callable[..., Any], tiny: Path, tmp_path: Path, configuration: str, precision: str
) -> None:
    told = loader(engine, tiny, tmp_path / "cache", configuration=configuration, n_ctx=N_PREFILL + N_DECODE)
    assert (told.precision, "convert" in told.stages) == (precision, True)
    assert told.weights_fingerprint == open_checkpoint(tiny).fingerprint
    path = Path(told.weights_path)
    assert path.is_relative_to(tmp_path / "cache")
    weights = made_weights(path, open_checkpoint(tiny), tmp_path)
    ids = probe_ids(told.vocab_size, N_PREFILL + N_DECODE)
    expected = Reference(weights).logits(ids, range(N_PREFILL - 1, len(ids)))
    found = compare(expected, np.asarray(engine.score(array("i", ids), N_PREFILL)), told.top_logprobs)
    assert gate(found, told.precision).passed, found
    engine.unload()
    again = loader(engine, tiny, tmp_path / "cache", configuration=configuration)
    assert (again.weights_path, "convert" in again.stages) == (told.weights_path, False)
