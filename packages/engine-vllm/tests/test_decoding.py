"""The request path through vLLM's own input and output processing, with recorded steps in place of the GPU's.

recorded.json and recorded.npz come from a real vLLM of the same version: record.py. What stands in for the worker's
side checks what it is asked, and answers with what was recorded.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine_vllm.engine import VllmEngine
from enginebench_protocol.engine import Engine, Sampling
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.serve import timed_generate

pytestmark = pytest.mark.filterwarnings("ignore")  # what vLLM and its libraries say while they are imported
HERE = Path(__file__).parent
RECORD = json.loads((HERE / "recorded.json").read_text())
SHOWN = np.load(HERE / "recorded.npz")["shown"]  # [step, 1 + vocab, (id, logit)], the chosen id first
PROMPT = array("i", RECORD["prompt"])
IDS = [step["ids"][0] for step in RECORD["generate"]]
VOCAB = SHOWN.shape[1] - 1


class RecordedCore:
    """In place of vllm.v1.engine.core_client.InprocClient: a step at a time, one request at a time."""

    def __init__(self) -> None:
        self.sampler = SimpleNamespace(trace_replay_state="the state")
        self.worker = SimpleNamespace(model_runner=SimpleNamespace(sampler=self.sampler))
        self.engine_core = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=None))
        self.requests: list[Any] = []
        self.aborted: list[str] = []
        self.steps: list[Any] = []
        self.follows = True

    def add_request(self, request: Any) -> None:
        params = request.sampling_params
        with_replay = self.sampler.trace_replay_state is not None
        assert with_replay == (params.trace_decode_token_ids is not None)
        self.requests.append(request)
        self.steps = [None, *self._answers(request, params)]  # a step ahead: the first hands nothing over

    def _answers(self, request: Any, params: Any) -> list[Any]:
        from vllm.v1.engine import EngineCoreOutput, FinishReason
        from vllm.v1.outputs import LogprobsLists

        recorded = RECORD["score" if params.logprobs is not None else "generate"]
        answers = []
        for number in range(params.max_tokens):
            step = recorded[number % len(recorded)]
            forced = params.trace_decode_token_ids if self.follows else None
            ids = [forced[number]] if forced else step["ids"]
            answer = EngineCoreOutput(request_id=request.request_id, new_token_ids=ids)
            if params.logprobs is not None:
                shown = SHOWN[number % len(recorded)].copy()
                shown[0] = ids[0], dict(shown[1:].tolist()).get(ids[0], 0.0)
                named, values = shown[None, :, 0].astype(np.int32), shown[None, :, 1]
                answer.new_logprobs = LogprobsLists(named, values, np.array(step["ranks"]), None)
            answers.append(answer)
        answers[-1].finish_reason = FinishReason.LENGTH
        return answers

    def get_output(self) -> Any:
        from vllm.v1.engine import EngineCoreOutputs

        step = self.steps.pop(0)
        return EngineCoreOutputs(outputs=[] if step is None else [step])

    def collective_rpc(self, method: Any, timeout: Any, args: Any, kwargs: Any) -> list[Any]:
        return [method(self.worker)]

    def abort_requests(self, names: list[str]) -> None:
        self.aborted += names

    def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    def dp_engines_running(self) -> bool:
        return False

    def reset_mm_cache(self) -> None: ...

    def shutdown(self) -> None:
        self.engine_core = None


@pytest.fixture
def core() -> RecordedCore:
    return RecordedCore()


@pytest.fixture
def engine(core: RecordedCore, configured: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> VllmEngine:
    """Our engine around vLLM's LLMEngine, whose core is the recorded one."""
    from engine_vllm.decoding import Decoder
    from vllm.v1.engine.core_client import EngineCoreClient
    from vllm.v1.engine.llm_engine import LLMEngine

    monkeypatch.setattr(EngineCoreClient, "make_client", lambda **_: core)
    engine = VllmEngine()
    whole = LLMEngine(configured(eager=True, n_ctx=64), executor_class=None, log_stats=False)  # type: ignore[arg-type]
    engine._decoder = Decoder(whole, VOCAB)
    return engine


def test_the_recording_is_of_the_pinned_version() -> None:
    import vllm

    assert RECORD["vllm"].split()[0] == vllm.__version__


def test_each_step_yields_its_id_as_it_comes(engine: VllmEngine, core: RecordedCore) -> None:
    left, ids = [], []
    for token in engine.generate(PROMPT, len(IDS)):
        ids.append(token)
        left.append(len(core.steps))
    assert ids == IDS
    assert left == list(range(len(IDS) - 1, -1, -1))  # no step is run ahead of the id that is handed over


def test_the_timed_region_of_the_suite_takes_the_path(engine: Engine) -> None:
    tokens, started_ns, times = timed_generate(engine, PROMPT, len(IDS))
    assert list(tokens) == IDS
    assert started_ns <= times[0] <= times[-1]


def test_vllm_is_asked_for_our_ids_and_nothing_that_ends_early(engine: VllmEngine, core: RecordedCore) -> None:
    list(engine.generate(PROMPT, 3))
    request = core.requests[0]
    assert request.prompt_token_ids == PROMPT.tolist()
    params = request.sampling_params
    assert (params.max_tokens, params.temperature) == (3, 0.0)
    assert (params.eos_token_id, params.stop_token_ids, params.stop) == (None, [], [])


def test_vllm_is_asked_to_draw_by_the_seed_of_the_request_and_to_cut_nothing_off(
    engine: VllmEngine, core: RecordedCore
) -> None:
    assert list(engine.generate(PROMPT, 3, Sampling(0.8, 5))) == IDS[:3], "the recorded steps"
    params = core.requests[0].sampling_params
    assert (params.max_tokens, params.temperature, params.seed) == (3, 0.8, 5)
    assert (params.top_k, params.top_p, params.min_p) == (0, 1.0, 0.0)
    assert (params.presence_penalty, params.frequency_penalty, params.repetition_penalty) == (0.0, 0.0, 1.0)


def test_the_next_request_is_another_one(engine: VllmEngine, core: RecordedCore) -> None:
    assert list(engine.generate(PROMPT, 2)) == list(engine.generate(PROMPT, 2))
    assert len({request.request_id for request in core.requests}) == 2


def test_a_request_that_is_dropped_is_taken_out_of_the_engine(engine: VllmEngine, core: RecordedCore) -> None:
    requested = engine.generate(PROMPT, 5)
    next(requested)
    requested.close()
    assert core.aborted == [core.requests[0].request_id]
    assert not engine._decoder.engine.has_unfinished_requests()
    assert list(engine.generate(PROMPT, len(IDS))) == IDS


def test_scores_are_the_logits_of_each_step_in_the_order_of_the_vocabulary(engine: VllmEngine) -> None:
    tokens = array("i", [*PROMPT, *IDS[:-1]])
    rows = np.asarray(engine.score(tokens, len(PROMPT)))
    assert (rows.shape, rows.dtype) == ((len(IDS), VOCAB), np.float32)
    expected = np.empty_like(rows)
    for row, shown in zip(expected, SHOWN, strict=True):
        row[shown[1:, 0].astype(int)] = shown[1:, 1]
    np.testing.assert_array_equal(rows, expected)
    assert rows.argmax(axis=1).tolist() == IDS


def test_the_tokens_given_are_forced_and_one_more_for_the_last_row(engine: VllmEngine, core: RecordedCore) -> None:
    tokens = array("i", [*PROMPT, 900, 5])
    assert np.asarray(engine.score(tokens, len(PROMPT))).shape == (3, VOCAB)
    params = core.requests[0].sampling_params
    assert params.trace_decode_token_ids[:2] == [900, 5]
    assert (len(params.trace_decode_token_ids), params.max_tokens, params.logprobs) == (3, 3, -1)
    assert core.requests[0].prompt_token_ids == PROMPT.tolist()


def test_a_vllm_that_does_not_follow_is_found_out(engine: VllmEngine, core: RecordedCore) -> None:
    """Negative control: the choice is not overwritten."""
    core.follows = False
    with pytest.raises(Exception, match="instead of"):
        engine.score(array("i", [*PROMPT, 900, 5]), len(PROMPT))


def test_logits_that_are_missing_are_found_out(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SHOWN", SHOWN[:, : VOCAB // 2])
    with pytest.raises(Exception, match=rf"of {VOCAB} logits"):
        engine.score(array("i", [*PROMPT, int(SHOWN[0, 1, 0])]), len(PROMPT))


def test_forcing_is_switched_on_for_scores_only(engine: VllmEngine, core: RecordedCore) -> None:
    """Its kernel would run for each token; RecordedCore.add_request checks it during a request."""
    assert core.sampler.trace_replay_state is None
    engine.score(PROMPT, len(PROMPT))
    assert core.sampler.trace_replay_state is None
    assert core.sampler.hidden_replay_state == "the state"


def test_vllms_sampler_is_one_that_can_do_without_its_replay_state() -> None:
    """The file that swap_replay relies on; importing it needs a GPU."""
    from importlib.util import find_spec

    source = Path(find_spec("vllm").submodule_search_locations[0]) / "v1/worker/gpu/sample/sampler.py"
    text = source.read_text()
    assert text.count("if self.trace_replay_state is not None:") == 3
    assert text.count("self.trace_replay_state") == 7  # made, asked for three times, used three times


def test_the_longest_request_fits(engine: VllmEngine) -> None:
    longest = array("i", [1] * (64 - len(IDS)))
    assert list(engine.generate(longest, len(IDS))) == IDS
    assert np.asarray(engine.score(longest + array("i", IDS), len(longest))).shape == (len(IDS) + 1, VOCAB)


def test_unload_shuts_the_engine_down(engine: VllmEngine, core: RecordedCore) -> None:
    engine.unload()
    assert core.engine_core is None
    with pytest.raises(EngineFailure, match="no model is loaded"):
        list(engine.generate(PROMPT, 1))
