"""Stand-ins for `torch` and `tensorrt_llm` at the place where they are imported: engine_tensorrt_llm.library.

What stands in for the LLM API takes the names that the real one takes (recorded.json) and refuses others as pydantic
does there, reads the folder that it is given, and computes with the suite's reference in place of a GPU: prefill, then
a step per token over a cache, logits processors between model and choice, one answer per token. Like the overlapped
scheduler it runs a step ahead of the end.
"""

from __future__ import annotations

import inspect
import json
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import engine_tensorrt_llm
import numpy as np
import pytest
from engine_tensorrt_llm import census
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.reference import KvCache, Reference
from enginebench_models.synthesis import synthesise
from enginebench_protocol.messages import Load

RECORD = json.loads((Path(__file__).parent / "recorded.json").read_text())
TINY = replace(entry("tiny").config, vocab_size=1003, n_layers=2)
SHAPES = {
    "tied": TINY,
    # untied, head_dim ≠ dim/heads, no RoPE scaling
    "odd": replace(TINY, dim=96, head_dim=32, hidden_dim=224, tied_embeddings=False, rope_scaling=None),
    "short": replace(TINY, max_context=40),
}


class Tensor:
    """Of torch.Tensor what the engine uses, over a NumPy array."""

    def __init__(self, values: Any, dtype: str) -> None:
        self.values = values
        self.dtype = f"torch.{dtype}"

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes)

    def __getitem__(self, index: Any) -> Tensor:
        return Tensor(self.values[index], self.dtype)

    def __setitem__(self, index: Any, value: float) -> None:
        self.values[index] = value

    def fill_(self, value: float) -> None:
        self.values[...] = value

    def float(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return Tensor(self.values.copy(), self.dtype)

    def numpy(self) -> Any:
        return self.values

    def untyped_storage(self) -> Any:
        return SimpleNamespace(data_ptr=lambda: self.values.ctypes.data, nbytes=lambda: self.nbytes)


def named(kind: str) -> Callable[..., Any]:
    """The constructor of that name: it refuses what TensorRT-LLM's does not have, and fills its defaults in."""

    def make(**given: Any) -> Any:
        known = RECORD[kind]["arguments"] | RECORD[kind]["left_alone"]
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"{kind} got invalid argument: {unknown}")
        return SimpleNamespace(**known | given)

    return make


class Answer:
    """tensorrt_llm.llmapi.RequestOutput of a streaming request, made a step at a time."""

    def __init__(self, llm: LLM, prompt: list[int], parameters: Any) -> None:
        self.llm, self.parameters = llm, parameters
        self.cache, self.given = KvCache(llm.reference.config), prompt
        processor = parameters.logits_processor
        several = len(llm.workers) > 1  # each gets a copy, as it is a process of its own
        self.processors = [pickle.loads(pickle.dumps(processor)) if several else processor for _ in llm.workers]
        self.n_left = min(parameters.max_tokens, llm.args.max_seq_len - len(prompt))
        self.finished, self.aborted, self.cached_tokens = False, False, llm.reused
        self.outputs = [SimpleNamespace(token_ids_diff=[], token_ids=[])]

    def __iter__(self) -> Answer:
        return self

    def __next__(self) -> Answer:
        if self.finished:
            raise StopIteration
        token = self.step()
        self.n_left -= 1
        self.outputs[0].token_ids.append(token)
        self.outputs[0].token_ids_diff = [token]
        self.finished = self.n_left == 0
        if self.finished:
            self.step()  # run ahead of the end, and thrown away
        return self

    def step(self) -> int:
        reference = self.llm.reference
        logits = reference.output(reference.forward(self.given, self.cache)[-1:])
        row = Tensor(logits.astype(np.float32).reshape(1, 1, -1), "float32")
        chosen = int(row.values.argmax())
        for gpu in reversed(range(len(self.llm.workers) - self.llm.n_silent)):
            self.llm.process(self.processors[gpu], gpu, [list(self.given)], row)
        token = int(row.values.argmax()) if self.llm.follows else chosen
        token = dict(enumerate(self.llm.decodes)).get(len(self.outputs[0].token_ids), token)
        self.given = [token]
        return token

    def abort(self) -> None:
        self.aborted = True


class LLM:
    """tensorrt_llm.LLM with its worker in this process. The class attributes are switches of the tests."""

    follows, calls_processors, reused, fails, n_silent = True, True, 0, None, 0
    decodes: Sequence[int] = ()

    def __init__(self, **given: Any) -> None:
        self.args = named("LLM")(**given)
        if self.fails is not None:
            raise self.fails
        checkpoint = open_checkpoint(Path(self.args.model))
        self.reference, self.answers, self.is_shut_down = Reference(checkpoint), [], False
        self.args.max_seq_len = min(self.args.max_seq_len, checkpoint.config.max_context)
        self.workers = [worker(checkpoint, self.args) for _ in range(self.args.tensor_parallel_size)]
        self._executor = self.workers[0] if len(self.workers) == 1 else SimpleNamespace()  # a proxy knows nothing

    def generate_async(self, inputs: list[int], sampling_params: Any, streaming: bool = False) -> Answer:
        assert streaming
        assert not self.is_shut_down
        assert all(type(token) is int for token in inputs)
        assert sampling_params.end_id is not None  # it would ask for the tokenizer, which there is not
        if len(inputs) > self.args.max_num_tokens:
            raise ValueError(f"prompt length ({len(inputs)}) should not exceed {self.args.max_num_tokens}")
        self.answers.append(Answer(self, inputs, sampling_params))
        return self.answers[-1]

    def process(self, processor: Any, gpu: int, given: list[list[int]], row: Tensor) -> None:
        """In the worker on that GPU; the others' rows are their own."""
        if processor is None or not self.calls_processors:
            return
        assert 4 <= len(inspect.signature(processor).parameters) <= 5
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules["torch"].cuda, "current_device", lambda: gpu, raising=False)
            patch.setattr(census, "worker_here", lambda: self.workers[gpu])
            processor(1, row if gpu == 0 else Tensor(row.values.copy(), "float32"), given, None, None)

    def shutdown(self) -> None:
        self.is_shut_down = True


def worker(checkpoint: Any, args: Any) -> Any:
    """GenerationExecutorWorker, with the attributes that account.py reads. Tied weights are two parameters.

    Of several each has its part of the matrices and of the cache.
    """
    dtype, n = (
        {"f16": "float16", "bf16": "bfloat16"}[checkpoint.tensor("embed_tokens").dtype],
        args.tensor_parallel_size,
    )
    whole = {name: np.array(checkpoint.tensor(name).data) for name in checkpoint.names()}
    own = {name: values[: -(-len(values) // n)] if values.ndim > 1 else values for name, values in whole.items()}
    held = {name: Tensor(np.array(values), dtype) for name, values in own.items()}
    table = held["embed_tokens"]
    head = held.get("lm_head") or Tensor(table.values, dtype)
    model = SimpleNamespace(
        model=SimpleNamespace(embed_tokens=SimpleNamespace(weight=table)),
        lm_head=SimpleNamespace(weight=head),
        parameters=lambda: [*held.values(), head],
    )
    config, cache = checkpoint.config, args.kv_cache_config
    blocks = cache.max_tokens // cache.tokens_per_block
    shape = (blocks, config.n_layers, 2, cache.tokens_per_block * config.n_kv_heads // n * config.head_dim)
    pool = Tensor(np.zeros(shape, np.float16), dtype)
    engine = SimpleNamespace(
        model_engine=SimpleNamespace(model=model, dtype=f"torch.{dtype}"),
        kv_cache_manager=SimpleNamespace(get_unique_primary_pool=lambda: pool),
    )
    return SimpleNamespace(engine=engine, max_seq_len=args.max_seq_len)


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Both stand-ins, in sys.modules. `torch.n_gpus` and attributes of `LLM` can be changed."""
    torch = ModuleType("torch")
    torch.n_gpus = 1
    torch.OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})
    torch.version = SimpleNamespace(cuda="13.0")
    torch.set_num_threads = lambda n: setattr(torch, "n_threads", n)
    torch.get_num_threads = lambda: torch.n_threads
    torch.cuda = SimpleNamespace(device_count=lambda: torch.n_gpus, get_device_name=lambda: "NVIDIA H200")
    package, llmapi = ModuleType("tensorrt_llm"), ModuleType("tensorrt_llm.llmapi")
    package.LLM, package.SamplingParams = type("LLM", (LLM,), {}), named("SamplingParams")
    llmapi.KvCacheConfig, llmapi.CudaGraphConfig = named("KvCacheConfig"), named("CudaGraphConfig")
    for module in (torch, package, llmapi):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    forget_library(monkeypatch)
    return SimpleNamespace(torch=torch, LLM=package.LLM)


def forget_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the next import of the seam sees what stands in sys.modules."""
    monkeypatch.delitem(sys.modules, "engine_tensorrt_llm.library", raising=False)
    monkeypatch.delattr(engine_tensorrt_llm, "library", raising=False)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """missing("torch"): its import fails, as where it is not installed."""

    def forget(name: str) -> None:
        monkeypatch.setitem(sys.modules, name, None)
        forget_library(monkeypatch)

    return forget


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the engine sets stays in its test."""
    from engine_tensorrt_llm.settings import environment

    for name in environment(tmp_path):
        monkeypatch.setenv(name, "set by the test")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """model("odd", "safetensors"): that shape as a file or a folder, made once."""
    folder = tmp_path_factory.mktemp("models")

    def make(name: str, kind: str = "gguf") -> Path:
        path = folder / (f"{name}.gguf" if kind == "gguf" else name)
        return path if path.exists() else synthesise(SHAPES[name], path, kind)

    return make


@pytest.fixture
def request_for(tmp_path: Path) -> Callable[..., Load]:
    def make(path: Path, **changes: Any) -> Load:
        fields: dict[str, Any] = {
            "id": 1,
            "configuration": "default",
            "model_path": str(path),
            "n_ctx": 64,
            "device": "cuda",
            "threads": 2,
            "cache": str(tmp_path / "cache"),
            "scratch": str(tmp_path),
        }
        return Load(**(fields | changes))

    return make
