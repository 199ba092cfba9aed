"""`just torture-files`: a million damaged model files against the validator, what it accepts against other readers.

GGUF: llama.cpp's own reader (libggml-base, in this process) reads all that is accepted, data too, and llama.cpp loads
one in so many of the accepted LLaMA models whole, in a process of its own. safetensors: the library loads all that is
accepted. A worker is a process that damages some thousands of files; one that dies is a crash. The tally is JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from enginebench_models.errors import ModelError  # noqa: E402
from enginebench_models.gguf_header import read_header  # noqa: E402
from enginebench_models.gguf_layout import gguf_vocabulary  # noqa: E402
from enginebench_models.rules import RULES  # noqa: E402
from enginebench_models.tokenizer import from_vocabulary  # noqa: E402
from safetensors import deserialize  # noqa: E402

from models.tests import mutations, test_malformed_gguf, test_malformed_safetensors  # noqa: E402

CHUNK = 10_000
HANG_SECONDS = 1.0
MODEL_LEVEL = {"architecture", "metadata-missing", "model-shape", "weights-missing", "weights-extra", "weight-shape"}
MODEL_LEVEL |= {"rope-divisors", "unsupported", ""}
"""Rules that only a sound GGUF file reaches."""


@dataclass
class Tally:
    """`accepted`: sound files of the format; `models`: sound LLaMA models among them."""

    mutations: int = 0
    accepted: int = 0
    models: int = 0
    hangs: int = 0
    slowest_s: float = 0.0
    peak_rss_bytes: int = 0
    errors: list[str] = field(default_factory=list)
    refused_by: Counter[str] = field(default_factory=Counter)
    asked_reader: int = 0
    refused_by_reader: list[str] = field(default_factory=list)
    asked_loader: int = 0
    refused_by_loader: list[str] = field(default_factory=list)


class GgmlReader:
    """gguf_init_from_buffer of libggml-base, with the data."""

    def __init__(self, library: Path) -> None:
        self.lib = ctypes.CDLL(str(library))
        self.lib.gguf_init_from_buffer.restype = ctypes.c_void_p
        self.lib.gguf_init_from_buffer.argtypes = [ctypes.c_char_p, ctypes.c_size_t, _Parameters]
        self.lib.gguf_free.argtypes = self.lib.ggml_free.argtypes = [ctypes.c_void_p]
        self.lib.ggml_log_set(_silent, None)

    def reads(self, raw: bytes) -> bool:
        """Padding behind the last tensor is added: this reader wants it, the loader of models does not."""
        tensors = ctypes.c_void_p()
        padded = raw + bytes(1 << 16)
        found = self.lib.gguf_init_from_buffer(padded, len(padded), _Parameters(False, ctypes.pointer(tensors)))
        if found:
            self.lib.gguf_free(found)
        if tensors:
            self.lib.ggml_free(tensors)
        return bool(found)


class _Parameters(ctypes.Structure):
    """struct gguf_init_params"""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(ctypes.c_void_p)))


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _silent(level: int, text: bytes, data: object) -> None:
    pass


class Loader:
    """llama.cpp loads a file, in the environment of engine-llamacpp."""

    def __init__(self, python: Path) -> None:
        self.command = [str(python), str(Path(__file__).with_name("llama_loads.py"))]
        self.folder = tempfile.TemporaryDirectory()
        self.start()

    def start(self) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            self.command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, bufsize=1
        )

    def loads(self, raw: bytes) -> bool:
        """False, too, where llama.cpp dies of it."""
        assert self.process.stdin and self.process.stdout
        path = Path(self.folder.name) / "m.gguf"
        path.write_bytes(raw)
        self.process.stdin.write(f"{path}\n")
        answer = self.process.stdout.readline().strip()
        if not answer:
            self.process.wait()
            self.start()
        return answer == "1"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


def work(kind: str, seed: int, count: int, environment: Path | None, every: int, answer: Any) -> None:
    warnings.simplefilter("error")  # a number that overflows is a finding
    dice, tally = random.Random(f"{kind} {seed}"), Tally()
    reader = loader = None
    if kind == "gguf" and environment:
        library = next(environment.glob("lib/python3*/site-packages/llama_cpp/lib/libggml-base.so"))
        reader, loader = GgmlReader(library), Loader(environment / "bin" / "python")
    for _ in range(count):
        if kind == "gguf":
            one_gguf(mutations.damaged_gguf(dice), tally, reader, loader, every)
        else:
            one_safetensors(mutations.damaged_safetensors(dice), tally)
    if loader:
        loader.close()
    tally.peak_rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answer.send(vars(tally))


def one_gguf(raw: bytes, tally: Tally, reader: GgmlReader | None, loader: Loader | None, every: int) -> None:
    rule = timed(test_malformed_gguf.broken_rule, raw, tally)
    if rule not in MODEL_LEVEL:
        return
    tally.accepted += 1
    if reader:
        tally.asked_reader += 1
        if not reader.reads(raw):
            tally.refused_by_reader.append(raw.hex())
    if rule == "":
        tally.models += 1
        if loader and tally.models % every == 0 and has_tokenizer(raw, tally):
            tally.asked_loader += 1
            if not loader.loads(raw):
                tally.refused_by_loader.append(raw.hex())


def has_tokenizer(raw: bytes, tally: Tally) -> bool:
    """Whether ours can be built: llama.cpp loads no model without one, our engines get token ids."""
    path = Path("model.gguf")
    try:
        from_vocabulary(gguf_vocabulary(read_header(memoryview(raw), path), memoryview(raw), path))
    except ModelError:
        return False
    except Exception as error:  # noqa: BLE001 - what this looks for
        tally.errors.append(f"tokenizer: {type(error).__name__}: {error}: {raw.hex()}")
        return False
    return True


def one_safetensors(raw: bytes, tally: Tally) -> None:
    if timed(test_malformed_safetensors.broken_rule, raw, tally) != "":
        return
    tally.accepted += 1
    tally.asked_reader += 1
    try:
        deserialize(raw)
    except BaseException as error:  # noqa: BLE001 - a panic of the library is no Exception
        tally.refused_by_reader.append(f"{error}: {raw.hex()}")


def timed(check: Any, raw: bytes, tally: Tally) -> str | None:
    tally.mutations += 1
    started = time.perf_counter()
    rule = None
    try:
        rule = check(raw)
    except Exception as error:  # noqa: BLE001 - what this looks for
        tally.errors.append(f"{type(error).__name__}: {error}: {raw.hex()}")
    seconds = time.perf_counter() - started
    tally.slowest_s = max(tally.slowest_s, seconds)
    tally.hangs += seconds > HANG_SECONDS
    if rule is not None and rule != "" and rule not in RULES:
        tally.errors.append(f"unknown rule {rule!r}: {raw.hex()}")
    tally.refused_by[rule or ""] += 1
    return rule


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=int, default=1_000_000, help="damaged GGUF files")
    parser.add_argument("--safetensors", type=int, default=1_000_000, help="damaged safetensors files")
    parser.add_argument("--seconds", type=float, default=None, help="stop after so long, tally what was done")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--every", type=int, default=10, help="one in so many accepted models is loaded by llama.cpp")
    parser.add_argument("--environment", type=Path, default=ROOT / ".envs" / "engine-llamacpp")
    parser.add_argument("--output", type=Path, default=None, help="where the tally goes, beside stdout")
    options = parser.parse_args()
    environment = options.environment if options.environment.is_dir() else None
    started, found = time.monotonic(), {}
    for kind in ("gguf", "safetensors"):
        found[kind] = torture(kind, getattr(options, kind), options, environment, started)
    found |= {
        "seed": options.seed,
        "seconds": round(time.monotonic() - started, 1),
        "llamacpp": environment is not None,
    }
    text = json.dumps(found, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    bad = ("crashes", "hangs", "errors", "refused_by_reader", "refused_by_loader")
    return 1 if any(found[kind][name] for kind in ("gguf", "safetensors") for name in bad) else 0


def torture(kind: str, count: int, options: Any, environment: Path | None, started: float) -> dict[str, Any]:
    context, running = multiprocessing.get_context("fork"), []
    tallies, crashes = [], []
    jobs = [(n, min(CHUNK, count - n * CHUNK)) for n in range(-(-count // CHUNK))]
    while jobs or running:
        out_of_time = options.seconds is not None and time.monotonic() - started > options.seconds
        jobs = [] if out_of_time else jobs
        while jobs and len(running) < options.workers:
            number, size = jobs.pop(0)
            ours, theirs = context.Pipe(duplex=False)
            arguments = (kind, options.seed + number, size, environment, options.every, theirs)
            process = context.Process(target=work, args=arguments)
            process.start()
            theirs.close()
            running.append((number, process, ours))
        if running:
            number, process, answer = running.pop(0)
            try:
                tallies.append(answer.recv())
            except EOFError:
                crashes.append(f"chunk {number}: exit {process.exitcode}")
            process.join()
            print(f"{kind}: {sum(t['mutations'] for t in tallies):,}", file=sys.stderr)
    return {"crashes": crashes, **summed(tallies)}


def summed(tallies: list[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for name, value in vars(Tally()).items():
        values = [tally[name] for tally in tallies]
        if name in ("slowest_s", "peak_rss_bytes"):
            total[name] = max(values, default=value)
        elif isinstance(value, list):
            total[name] = [item for several in values for item in several][:20]
        elif name == "refused_by":
            total[name] = dict(sum(map(Counter, values), Counter()).most_common())
        else:
            total[name] = sum(values)
    return total


if __name__ == "__main__":
    sys.exit(main())
