"""A complete engine of 16 tokens whose logits are one line of arithmetic, and the model files it does not have."""

import ctypes
import math
import os
import random
import subprocess
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from enginebench_protocol.engine import GREEDY, Engine, MemoryAccount, ProgressSink, Sampling
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load, Loaded

VOCABULARY = 16


class ToyEngine(Engine):
    """Sixteen tokens, no weights."""

    name = "toy"
    configurations: ClassVar[Mapping[str, str]] = {
        "plain": "does as it is told",
        "noisy": "writes to stdout in every way there is",
        "stuck": "sleeps in Python code",
        "native": "sleeps in native code that holds the interpreter",
        "short": "yields one token too few",
        "long": "yields one token too many",
        "bug": "raises in generate",
        "bare": "imports a library that is not there",
    }

    options: ClassVar[Mapping[str, str]] = {"offset": "added to every id"}

    def __init__(self) -> None:
        self.configuration = ""
        self.offset = 0

    def load(self, request: Load, progress: ProgressSink) -> Loaded:
        if not Path(request.model_path).exists():
            raise EngineFailure("bad-model", f"no file {request.model_path}", "give a file that exists")
        self.configuration = request.configuration
        self.offset = int(request.options.get("offset", "0"))
        progress("read", 0.5)
        progress("read", 7.0)
        self._act()
        return loaded(request)

    def generate(self, prompt: array, n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        self._act()
        tokens, choose = list(prompt), argmax if sampling.greedy else drawing(sampling)
        for _ in range(n_gen + {"short": -1, "long": 1}.get(self.configuration, 0)):
            tokens.append(choose(logits(tokens)))
            yield (tokens[-1] + self.offset) % VOCABULARY

    def score(self, tokens: array, n_prefill: int) -> memoryview:
        rows = [logits(tokens[:end]) for end in range(n_prefill, len(tokens) + 1)]
        flat = array("f", [value for row in rows for value in row])
        return memoryview(flat).cast("B").cast("f", (len(rows), VOCABULARY))

    def memory(self) -> MemoryAccount:
        return MemoryAccount(weights_bytes=64, kv_cache_bytes=32)

    def unload(self) -> None:
        self.configuration = ""

    def _act(self) -> None:
        match self.configuration:
            case "noisy":
                make_noise()
            case "stuck":
                time.sleep(1000)
            case "native":
                ctypes.PyDLL(None).sleep(1000)
            case "bug":
                raise RuntimeError("a bug of the toy engine")
            case "bare":
                import_module("no_such_library")


def logits(tokens: Sequence[int]) -> list[float]:
    favourite = (7 * sum(tokens) + len(tokens)) % VOCABULARY
    return [-float((i - favourite) % VOCABULARY) for i in range(VOCABULARY)]


def argmax(values: list[float]) -> int:
    return values.index(max(values))


def drawing(sampling: Sampling) -> Callable[[list[float]], int]:
    """From the softmax, seeded."""
    draw = random.Random(sampling.seed)
    return lambda values: draw.choices(range(len(values)), [math.exp(v / sampling.temperature) for v in values])[0]


def make_noise() -> None:
    print("NOISE from print", flush=True)
    os.write(1, b"NOISE from write(1)\n")
    libc = ctypes.CDLL(None)
    libc.puts(b"NOISE from C stdio")
    libc.fflush(None)
    subprocess.run(["sh", "-c", "echo NOISE from a grandchild"], check=True)
    subprocess.run(["sh", "-c", "cat >/dev/null"], check=True)  # must not eat the requests


def loaded(request: Load) -> Loaded:
    return Loaded(
        id=request.id,
        weights_fingerprint="0" * 64,
        precision="float32",
        weight_dtype="float32",
        activation_dtype="float32",
        kv_dtype="float32",
        device="none",
        threads=request.threads,
        n_ctx=request.n_ctx,
        vocab_size=VOCABULARY,
        weights_bytes=64,
        kv_cache_bytes=32,
        read_bytes_per_token=64,
        stages={"read": 5},
        versions={"toy": "1"},
    )


class ToyModels:
    """The `Models` seam of `standalone`: every existing path is a model named by its stem."""

    def locate(self, name_or_path: str, weights: str) -> tuple[Path, str, str]:
        path = Path(name_or_path)
        if not path.exists():
            raise ValueError(f"no model {name_or_path!r}; give a file that exists")
        return path, path.stem, "synthetic" if weights == "auto" else weights

    def encode(self, path: Path, text: str) -> list[int]:
        return [ord(c) % VOCABULARY for c in text]

    def decode(self, path: Path, ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + i) for i in ids)

    def probe(self, path: Path, n_prefill: int, n_decode: int) -> list[int]:
        return [i % VOCABULARY for i in range(n_prefill + n_decode)]

    def compare(
        self,
        path: Path,
        tokens: Sequence[int],
        n_prefill: int,
        logits_npy_path: Path,
        precision: str,
        top_logprobs: int = 0,
    ) -> dict[str, object]:
        expected = array("f", [v for end in range(n_prefill, len(tokens) + 1) for v in logits(tokens[:end])])
        same = logits_npy_path.read_bytes().endswith(expected.tobytes())
        return {"passed": same and path.stem != "other", "reasons": [], "precision": precision}
