"""engine-llamacpp against llama.cpp's own benchmark program (`just selfbench llamacpp`).

llama-bench is compiled from the pinned source package and linked to the very libraries that the engine loads, so what
differs is how they are driven. Prefill is pp128, decode is tg64 from an empty context.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench import Bench, Row
from enginebench.run.passed_on import engine_environment
from enginebench.workspace.environment import Interpreter
from enginebench_protocol.host import cache_folder
from side_by_side import Ready, started
from talking import talking

N_PROMPT, N_GEN = 128, 64
TURNS_PER_ROUND = 4  # the two are nearly equal: it takes more turns than a ratio of two


@dataclass(frozen=True)
class Rates:
    """Tokens per second of one turn."""

    prefill: float
    decode: float


def llamacpp(bench: Bench) -> list[Row]:
    """The engine stays loaded, idle while llama-bench has its turn; who starts alternates."""
    program = llama_bench(cache_folder() / "llama-bench", bench.interpreter("llamacpp"))
    ours: list[Rates] = []
    theirs: list[Rates] = []
    with started(bench.contender("llamacpp", "default"), bench.model, N_PROMPT + N_GEN, bench.threads) as ready:
        turn_of_engine(ready, 0)
        for number in range(1, TURNS_PER_ROUND * bench.rounds + 1):
            if number % 2:
                ours.append(turn_of_engine(ready, number))
            theirs.append(turn_of_llama_bench(program, bench.model, bench.threads))
            if not number % 2:
                ours.append(turn_of_engine(ready, number))
    return [
        row("prefill (pp128)", [turn.prefill for turn in ours], [turn.prefill for turn in theirs]),
        row("decode (tg64)", [turn.decode for turn in ours], [turn.decode for turn in theirs]),
    ]


def row(what: str, ours: list[float], theirs: list[float]) -> Row:
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    value = f"{ratio:.3f} ({statistics.median(ours):.2f} ÷ {statistics.median(theirs):.2f} tok/s, {len(ours)} turns)"
    return Row(f"{what} llamacpp:default ÷ llama-bench", value, "≥ 0.98", ratio >= 0.98)


def turn_of_engine(ready: Ready, number: int) -> Rates:
    """As llama-bench does: the prompt by itself, then tokens after a prompt of one."""
    prefill = ready.ask(N_PROMPT, 1, number).prefill_tps
    tpot_ns = ready.ask(1, N_GEN + 1, number).tpot_ns
    assert prefill is not None
    assert tpot_ns is not None
    return Rates(prefill, 1e9 / tpot_ns)


def turn_of_llama_bench(program: Path, model: Path, threads: int) -> Rates:
    """One sample of each after its own warm-up."""
    command = [program, "-m", model, "-p", N_PROMPT, "-n", N_GEN, "-t", threads, "-fa", "on", "-r", 1, "-o", "json"]
    done = subprocess.run(list(map(str, command)), env=engine_environment(), capture_output=True, text=True, check=True)
    prefill, decode = (test["avg_ts"] for test in json.loads(done.stdout))
    return Rates(prefill, decode)


def llama_bench(cache: Path, interpreter: Interpreter) -> Path:
    """The program, compiled now if `cache` has none for this version."""
    version = interpreter.versions["llama_cpp_python"]
    program = cache / f"llama-bench-{version}"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        compile_against(libraries(interpreter), source(cache, version), program)
    return program


def libraries(interpreter: Interpreter) -> Path:
    """Where llama-cpp-python installs what llama.cpp's own build installs, libllama-common among it."""
    (folder,) = interpreter.python.parents[1].glob("lib/python*/site-packages/lib")
    return folder


def source(cache: Path, version: str) -> Path:
    """llama.cpp's source, out of the source package."""
    name = f"llama_cpp_python-{version}"
    if not (cache / f"{name}.tar.gz").exists():
        uv_pip = ["uv", "run", "--no-project", "--with", "pip", "pip"]
        pip = [sys.executable, "-m", "pip"] if find_spec("pip") else uv_pip
        options = ["download", "--no-deps", "--no-binary", ":all:", "--dest", str(cache)]
        subprocess.run([*pip, *options, f"llama-cpp-python=={version}"], check=True, stdout=sys.stderr)
    with tarfile.open(cache / f"{name}.tar.gz") as archive:
        archive.extractall(cache, filter="data")
    return cache / name / "vendor" / "llama.cpp"


def compile_against(folder: Path, sources: Path, program: Path) -> None:
    """Two files; all the rest is in the libraries."""
    headers = [f"-I{sources / part}" for part in ("common", "include", "ggml/include", "vendor", "src")]
    files = [str(sources / "tools" / "llama-bench" / name) for name in ("main.cpp", "llama-bench.cpp")]
    linked = [f"-l{name}" for name in ("llama-common", "llama", "ggml", "ggml-base")]
    command = ["g++", "-std=c++17", "-O3", "-DNDEBUG", *headers, *files, f"-L{folder}", f"-Wl,-rpath,{folder}"]
    subprocess.run([*command, *linked, "-pthread", "-o", str(program)], check=True)


PARTS = {"llamacpp": llamacpp, "llamacpp_chat": talking("llamacpp", "default")}
