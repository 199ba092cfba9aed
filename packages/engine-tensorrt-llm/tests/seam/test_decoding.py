"""Requests through the engine: the ids as they come, and the logits of forced ones, which pass the fidelity gate."""

from __future__ import annotations

import inspect
import pickle
from array import array
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine_tensorrt_llm.decoding import Misled
from engine_tensorrt_llm.drawing import Drawn
from engine_tensorrt_llm.engine import TensorRtLlmEngine
from engine_tensorrt_llm.forcing import Forced, empty_rows
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.reference import Reference
from enginebench_models.sampling import chooser
from enginebench_protocol.engine import Sampling
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load
from enginebench_protocol.serve import timed_generate

N_PREFILL, N_DECODE = 24, 16
PROMPT = array("i", range(11, 19))
Make = Callable[..., Path]
RequestFor = Callable[..., Load]


def nothing(stage: str, fraction: float) -> None: ...


@pytest.fixture
def engine(libraries: SimpleNamespace, model: Make, request_for: RequestFor) -> TensorRtLlmEngine:
    engine = TensorRtLlmEngine()
    engine.load(request_for(model("tied", "safetensors")), nothing)
    return engine


@pytest.fixture
def llm(engine: TensorRtLlmEngine) -> Any:
    return engine._decoder.llm


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
@pytest.mark.parametrize("name", ["tied", "odd"])
def test_scores_pass_the_fidelity_gate(
    libraries: SimpleNamespace, model: Make, request_for: RequestFor, name: str, kind: str
) -> None:
    """From the file through the folder that is given to the library, forced decoding, and back."""
    engine = TensorRtLlmEngine()
    loaded = engine.load(request_for(model(name, kind)), nothing)
    tokens = probe_ids(loaded.vocab_size, N_PREFILL + N_DECODE)
    rows = np.asarray(engine.score(array("i", tokens), N_PREFILL))
    assert (rows.shape, rows.dtype) == ((N_DECODE + 1, loaded.vocab_size), np.float32)
    reference = Reference(open_checkpoint(model(name, kind)))
    expected = reference.logits(tokens, range(N_PREFILL - 1, N_PREFILL + N_DECODE))
    assert gate(compare(expected, rows), "float32").passed
    shifted = compare(expected[1:], rows[:-1])  # negative control: a row off by one
    assert not gate(shifted, loaded.precision).passed


def test_each_step_yields_its_id_as_it_comes(engine: TensorRtLlmEngine, llm: Any) -> None:
    left = [llm.answers[0].n_left for _ in engine.generate(PROMPT, 5)]
    assert left == [4, 3, 2, 1, 0]


def test_the_timed_region_of_the_suite_takes_the_path(engine: TensorRtLlmEngine, llm: Any) -> None:
    tokens, started_ns, times = timed_generate(engine, PROMPT, 5)
    assert list(tokens) == llm.answers[0].outputs[0].token_ids
    assert started_ns <= times[0] <= times[-1]


def test_sampled_ids_are_drawn_from_the_scored_rows(engine: TensorRtLlmEngine) -> None:
    ids = list(engine.generate(PROMPT, 12, Sampling(0.8, 5)))
    assert len(ids) == 12, "the step that is run ahead of the end draws too, and is thrown away"
    rows = np.asarray(engine.score(array("i", [*PROMPT, *ids[:-1]]), len(PROMPT)))
    for temperature, seed in ((0.8, 5), (0.8, 6), (0.4, 5)):
        choose = chooser(temperature, seed)
        assert ([choose(row) for row in rows] == ids) == ((temperature, seed) == (0.8, 5))
    assert list(engine.generate(PROMPT, 12, Sampling(1e-6, 5))) == list(engine.generate(PROMPT, 12))


def test_a_sampler_that_does_not_follow_the_drawn_id_would_show(engine: TensorRtLlmEngine, llm: Any) -> None:
    """Negative control: this is how the library would answer if it did not call the processor."""
    llm.calls_processors = False
    assert list(engine.generate(PROMPT, 12, Sampling(0.8, 5))) == list(engine.generate(PROMPT, 12))


def test_what_draws_can_be_sent_to_a_worker() -> None:
    drawn = Drawn(0.8, 5, 4)
    copy = pickle.loads(pickle.dumps(drawn))
    assert [copy.rng.random() for _ in range(3)] == [drawn.rng.random() for _ in range(3)]


def test_generated_ids_are_the_likeliest_of_the_scored_rows(engine: TensorRtLlmEngine) -> None:
    ids = list(engine.generate(PROMPT, 5))
    rows = np.asarray(engine.score(array("i", [*PROMPT, *ids[:-1]]), len(PROMPT)))
    assert rows.argmax(axis=1).tolist() == ids


def test_every_request_starts_from_nothing(engine: TensorRtLlmEngine) -> None:
    first = list(engine.generate(PROMPT, 4))
    list(engine.generate(array("i", [900, 5]), 4))
    assert list(engine.generate(PROMPT, 4)) == first


def test_a_prompt_that_was_not_computed_is_found_out(engine: TensorRtLlmEngine, llm: Any) -> None:
    """Negative control: blocks of an earlier request were used again."""
    llm.reused = 32
    with pytest.raises(Misled, match="took 32 positions of the prompt from an earlier request"):
        list(engine.generate(PROMPT, 2))


def test_a_library_that_does_not_follow_is_found_out(engine: TensorRtLlmEngine, llm: Any) -> None:
    llm.follows = False
    with pytest.raises(Misled, match="for 3 "):
        engine.score(array("i", [*PROMPT, 900, 5]), len(PROMPT))


def test_rows_that_nobody_wrote_are_found_out(engine: TensorRtLlmEngine, llm: Any) -> None:
    """Negative control: the ids are those that were to be forced, yet the processor was not asked."""
    llm.calls_processors, llm.decodes = False, [7, 0]
    with pytest.raises(Misled, match="showed 0 of 2006 logits"):
        engine.score(array("i", [*PROMPT, 7]), len(PROMPT))


def test_a_request_that_is_dropped_is_aborted(engine: TensorRtLlmEngine, llm: Any) -> None:
    requested = engine.generate(PROMPT, 5)
    next(requested)
    requested.close()
    assert llm.answers[0].aborted
    list(engine.generate(PROMPT, 2))
    assert not llm.answers[1].aborted


@pytest.mark.parametrize(("tokens", "n_gen"), [([], 1), ([1003], 1), ([-1], 1), ([1] * 60, 5)])
def test_what_cannot_be_asked_is_a_bad_request(engine: TensorRtLlmEngine, tokens: list[int], n_gen: int) -> None:
    with pytest.raises(EngineFailure) as failure:
        engine.generate(array("i", tokens), n_gen)
    assert failure.value.code == "bad-request"


def test_the_longest_request_fits(engine: TensorRtLlmEngine) -> None:
    assert len(list(engine.generate(array("i", [1] * 59), 5))) == 5
    assert np.asarray(engine.score(array("i", [1] * 64), 60)).shape == (5, 1003)


def test_a_context_that_is_used_up_is_said_to_be(
    libraries: SimpleNamespace, model: Make, request_for: RequestFor
) -> None:
    """The model's own limit leaves no room for the step after the last token: TensorRT-LLM decodes one id less."""
    engine = TensorRtLlmEngine()
    engine.load(request_for(model("short"), n_ctx=40), nothing)
    assert len(list(engine.generate(array("i", [1] * 36), 4))) == 4
    with pytest.raises(Misled, match="decoded 4 ids"):
        engine.score(array("i", [1] * 40), 36)


def test_nothing_is_left_in_the_scratch_folder(engine: TensorRtLlmEngine, tmp_path: Path) -> None:
    engine.score(array("i", [*PROMPT, 7]), len(PROMPT))
    assert not list(tmp_path.glob("*.npy"))


def test_the_processor_is_one_for_tensorrt_llm_and_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    """Its parameters are counted there; a worker that is a process of its own gets it pickled."""
    empty_rows(tmp_path / "rows.npy", 2, 3)
    forced = pickle.loads(pickle.dumps(Forced(tmp_path / "rows.npy", [4, 5])))
    assert (forced.tokens, forced.file) == ([4, 5], tmp_path / "rows.npy")
    assert len(inspect.signature(forced).parameters) == 5


def test_unload_shuts_the_library_down(engine: TensorRtLlmEngine, llm: Any) -> None:
    engine.unload()
    assert llm.is_shut_down
    with pytest.raises(EngineFailure, match="no model is loaded"):
        list(engine.generate(PROMPT, 1))
