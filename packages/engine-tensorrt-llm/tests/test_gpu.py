"""The real library on a real GPU: the fidelity gate, and nothing kept between requests."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine_tensorrt_llm.engine import TensorRtLlmEngine
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.fidelity import PROBE_DECODE, PROBE_PREFILL, compare, gate, probe_ids
from enginebench_models.reference import Reference
from enginebench_models.store import LocalModels
from enginebench_protocol.messages import Load

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def path() -> Path:
    return LocalModels().locate("tiny", "synthetic")[0]


@pytest.fixture(scope="module")
def engine(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TensorRtLlmEngine]:
    scratch = tmp_path_factory.mktemp("scratch")
    engine = TensorRtLlmEngine()
    facts = {"configuration": "default", "device": "cuda", "threads": 2, "n_ctx": PROBE_PREFILL + PROBE_DECODE}
    folders = {"cache": str(scratch / "cache"), "scratch": str(scratch)}
    engine.load(Load(id=1, model_path=str(path), **facts, **folders), lambda stage, fraction: None)
    yield engine
    engine.unload()


def test_it_passes_the_fidelity_gate(engine: TensorRtLlmEngine, path: Path) -> None:
    reference = Reference(open_checkpoint(path))
    tokens = probe_ids(reference.config.vocab_size, PROBE_PREFILL + PROBE_DECODE)
    rows = np.asarray(engine.score(array("i", tokens), PROBE_PREFILL))
    expected = reference.logits(tokens, range(PROBE_PREFILL - 1, len(tokens)))
    assert gate(compare(expected, rows), "16-bit").reasons == ()


def test_a_request_does_not_depend_on_the_one_before(engine: TensorRtLlmEngine) -> None:
    prompt = array("i", range(11, 75))
    first = list(engine.generate(prompt, 16))
    list(engine.generate(array("i", range(500, 564)), 16))
    assert list(engine.generate(prompt, 16)) == first
    assert len(first) == 16
