"""What only a GPU can say: each configuration whose library is installed, on the tiny model."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pytest
from engine_tensorrt.engine import SETTINGS, TensorrtEngine
from engine_tensorrt.library import Unsupported, import_library
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_protocol.messages import Load

from .conftest import reference

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("configuration", SETTINGS)
def test_a_real_gpu_passes_the_gate_from_a_new_and_from_a_cached_plan(
    models: dict[str, Path], tmp_path: Path, configuration: str
) -> None:
    try:
        import_library(SETTINGS[configuration].library)
    except Unsupported as error:
        pytest.skip(str(error))
    facts = {"id": 1, "n_ctx": 128, "device": "cuda", "threads": 1, "cache": str(tmp_path), "scratch": str(tmp_path)}
    request = Load(**facts, configuration=configuration, model_path=str(models["tiny"]))
    ids = array("i", probe_ids(4096, 80))
    for cached in (False, True):
        engine = TensorrtEngine()
        report = engine.load(request, lambda stage, fraction: None)
        assert ("convert" not in report.stages) == cached
        found = compare(reference(models["tiny"], list(ids), 39, report.precision), np.asarray(engine.score(ids, 40)))
        assert gate(found, report.precision).passed, found
        generated = list(engine.generate(ids[:40], 20))
        scored = np.asarray(engine.score(ids[:40] + array("i", generated[:-1]), 40))
        assert scored.argmax(axis=1).tolist() == generated
        engine.unload()
