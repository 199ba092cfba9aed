"""`just selfbench`: measures this benchmark itself and writes docs/selfbench.md.

Ratios only, from engines that take turns in one run; a target and the measured value side by side. Each part can be run
alone: `just selfbench limit harness`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from enginebench import discovery, environment, machine
from enginebench.environment import Interpreter
from enginebench_models.store import locate
from enginebench_protocol.host import default_threads
from side_by_side import Contender, Ready, side_by_side, started

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "selfbench.md"
RAW = ROOT / "docs" / "selfbench.json"


@dataclass(frozen=True)
class Row:
    """One measured statement. `target` is what was asked for, in words; `passed` whether the value reaches it."""

    part: str
    what: str
    value: str
    target: str
    passed: bool


class Bench:
    """The models and interpreters that the parts share."""

    def __init__(self, rounds: int, n_gen: int) -> None:
        self.rounds = rounds
        self.n_gen = n_gen
        self.threads = default_threads()
        self.model = locate("llama3-1b").path
        self.infos = discovery.discover()

    def interpreter(self, engine: str) -> Interpreter:
        return environment.prepare(self.infos[engine], {}, print)

    def contender(self, engine: str, configuration: str) -> Contender:
        python = self.interpreter(engine).python
        command = [str(python), "-m", self.infos[engine].module]
        return Contender(f"{engine}:{configuration}", engine, command, configuration)

    def hugging_face(self, dtype: str) -> Contender:
        """transformers laid over engine-torch's environment, without changing it."""
        command = ["uv", "--quiet", "run", "--project", str(ROOT), "--package", "engine-torch", "--no-default-groups"]
        command += ["--with", "transformers==5.23.0", "python", str(Path(__file__).with_name("hugging_face.py"))]
        settings = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
        settings |= {"UV_PROJECT_ENVIRONMENT": str(ROOT / ".envs" / "engine-torch"), "HF_HUB_OFFLINE": "1"}
        return Contender(f"Hugging Face generate, {dtype}", "hugging-face", command, dtype, settings)

    def duel(self, *contenders: Contender, n_prompt: int = 16) -> list[Ready]:
        return side_by_side(
            contenders, self.model, n_prompt=n_prompt, n_gen=self.n_gen, rounds=self.rounds, threads=self.threads
        )


def torch_optimized(bench: Bench) -> list[Row]:
    """Against both 16-bit types of Hugging Face; what reading at the limit's speed would reach stands beside it."""
    ours, float16, bfloat16, limit = bench.duel(
        bench.contender("torch", "optimized"),
        bench.hugging_face("float16"),
        bench.hugging_face("bfloat16"),
        bench.contender("limit", "default"),
    )
    return [
        ratio_row("torch", ours, float16, 1.5, ceiling=limit),
        ratio_row("torch", ours, bfloat16, 1.5, ceiling=limit),
        ratio_row("torch", ours, limit, 0.7),
    ]


def torch_baseline(bench: Bench) -> list[Row]:
    ours, theirs = bench.duel(bench.contender("torch", "baseline"), bench.hugging_face("float32"))
    return [ratio_row("torch", ours, theirs, 1.0)]


def ratio_row(part: str, ours: Ready, theirs: Ready, target: float, ceiling: Ready | None = None) -> Row:
    """`ceiling`: an engine that does nothing but read the weights, whose ratio no other can exceed."""
    ratio = paired_ratio(ours, theirs)
    what = f"decode {ours.contender.label} ÷ {theirs.contender.label}"
    value = f"{ratio:.2f} ({ours.decode_tps:.2f} ÷ {theirs.decode_tps:.2f} tok/s)"
    if ceiling is not None:
        value += f"; {ceiling.contender.label} would be {paired_ratio(ceiling, theirs):.2f}"
    return Row(part, what, value, f"≥ {target}", ratio >= target)


def paired_ratio(ours: Ready, theirs: Ready) -> float:
    """Median over the rounds of the ratio within a round: what drifts from round to round cancels out."""
    return statistics.median(
        (b.tpot_ns or 0) / (a.tpot_ns or 1) for a, b in zip(ours.timings, theirs.timings, strict=True)
    )


def tinygrad(bench: Bench) -> list[Row]:
    """Against the tokens per second that tinygrad's own LLM command prints for the same file and compiler."""
    interpreter = bench.interpreter("tinygrad")
    ours: list[float] = []
    theirs: list[float] = []
    with started(bench.contender("tinygrad", "default"), bench.model, 512, bench.threads) as ready:
        ready.ask(16, bench.n_gen, 0)
        for number in range(bench.rounds):
            ours.append(1e9 / (ready.ask(16, bench.n_gen, number).tpot_ns or 0))
            theirs.append(tinygrad_llm(interpreter, bench))
    ratio = statistics.median(ours) / statistics.median(theirs)
    value = f"{ratio:.2f} ({statistics.median(ours):.2f} ÷ {statistics.median(theirs):.2f} tok/s)"
    return [Row("tinygrad", "decode tinygrad:default ÷ tinygrad's own LLM command", value, "≥ 1.0", ratio >= 1.0)]


def tinygrad_llm(interpreter: Interpreter, bench: Bench) -> float:
    """Median of the rates it prints, the first third (compilation) left out."""
    binaries = interpreter.python.parent
    clang = next(iter(sorted(binaries.glob("clang-[0-9]*"))), None)
    settings = {"DEV": "CPU:X86"}
    if clang is not None:
        settings = {"DEV": "CPU:CLANGJIT", "CPU_COUNT": str(bench.threads), "CC": str(clang)}
    command = [str(interpreter.python), "-m", "tinygrad.llm.cli", "-m", str(bench.model), "--max_context", "512"]
    done = subprocess.run(
        [*command, "--benchmark", str(bench.n_gen)],
        env={**interpreter.environment, **settings}, capture_output=True, text=True, check=True, timeout=900,
    )  # fmt: skip
    rates = [float(rate) for rate in re.findall(r"([\d.]+) tok/s", done.stdout + done.stderr)]
    if not rates:
        raise RuntimeError(f"tinygrad's LLM command printed no rate: {(done.stdout + done.stderr)[-500:]}")
    return statistics.median(rates[len(rates) // 3 :])


def limit(bench: Bench) -> list[Row]:
    """engine-limit against the best that threaded sums and copies of a buffer as large show, in turns."""
    contender = bench.contender("limit", "default")
    rates: dict[str, list[float]] = {"limit": [], "sum": [], "copy": []}
    with started(contender, bench.model, 128, bench.threads) as ready:
        n_bytes = ready.loaded.read_bytes_per_token
        buffer = np.ones(n_bytes // 8, np.uint64)
        target = np.empty_like(buffer)
        ready.ask(1, 8, 0)
        for _ in range(bench.rounds):
            rates["limit"].append(n_bytes * 1e9 / (ready.ask(1, 12, 0).tpot_ns or 0))
            rates["sum"] += [rate(n_bytes, bench.threads, buffer, np.add.reduce) for _ in range(3)]
            # a copy reads and writes (and may read what it overwrites): at least twice the bytes move
            rates["copy"] += [2 * rate(n_bytes, bench.threads, buffer, copy_into(buffer, target)) for _ in range(3)]
    median = {name: statistics.median(values) / 1e9 for name, values in rates.items()}
    share = median["limit"] / median["sum"]
    value = f"{share:.2f} ({median['limit']:.1f} ÷ {median['sum']:.1f} GB/s; a copy moves {median['copy']:.1f} GB/s)"
    return [Row("limit", "engine-limit ÷ threaded sum of as many bytes", value, "≥ 0.90", share >= 0.9)]


def copy_into(buffer: np.ndarray, target: np.ndarray) -> Callable[[np.ndarray], object]:
    start = buffer.__array_interface__["data"][0]

    def copy(part: np.ndarray) -> None:
        first = (part.__array_interface__["data"][0] - start) // 8
        target[first : first + len(part)] = part

    return copy


def rate(n_bytes: int, threads: int, buffer: np.ndarray, work: Callable[[np.ndarray], object]) -> float:
    """Bytes per second of `work` over `buffer`, split over threads."""
    workers = [threading.Thread(target=work, args=(part,)) for part in np.array_split(buffer, threads)]
    begin = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return n_bytes / (time.perf_counter() - begin)


def load(bench: Bench) -> list[Row]:
    """torch:half from a warm page cache, against reading the file once; and what stays resident."""
    contender = bench.contender("torch", "half")
    reading, loading, resident = [], [], 0.0
    for _ in range(bench.rounds):
        begin = time.perf_counter()
        with bench.model.open("rb", buffering=0) as file:
            block = bytearray(16 * 2**20)
            while file.readinto(block):
                pass
        reading.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        with started(contender, bench.model, 128, bench.threads) as ready:
            stages = ready.loaded.stages
            loading.append(sum(ns for name, ns in stages.items() if name != "import") / 1e9)
            ready.ask(16, 2, 0)
            rollup = Path(f"/proc/{ready.child.pid}/smaps_rollup").read_text()
            pss = int(re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[1]) * 1024  # type: ignore[index]
            resident = max(resident, pss / (2 * weight_elements(bench.model)))
    factor = statistics.median(loading) / statistics.median(reading)
    value = f"{factor:.2f} ({statistics.median(loading):.2f} ÷ {statistics.median(reading):.2f} s)"
    return [
        Row("load", "torch:half load of the GGUF, cached ÷ reading the file once", value, "≤ 2", factor <= 2),
        Row("load", "torch:half resident (PSS) ÷ bytes of the weights", f"{resident:.2f}", "≤ 1.3", resident <= 1.3),
    ]


def weight_elements(model: Path) -> int:
    from enginebench_models.checkpoint import open_checkpoint

    return open_checkpoint(model).config.weight_elements()


def harness(bench: Bench) -> list[Row]:
    """Protocol round trip; a scripted millisecond per token; the orchestrator's own CPU time."""
    contender = bench.contender("fake", "default")
    with started(contender, bench.model, 128, 1) as ready:
        trips = sorted(round_trip_us(ready) for _ in range(3000))
    middle = trips[len(trips) // 2]
    metrics, share = scripted_run()
    error = abs(metrics["tpot_ns"]["value"] / 1e6 - 1)
    row = partial(Row, "harness")
    return [
        row("protocol round trip, median", f"{middle:.0f} µs (p99 {trips[2970]:.0f} µs)", "≤ 100 µs", middle <= 100),
        row("a scripted 1 ms per token is reported with an error of", f"{error:.2%}", "≤ 1 %", error <= 0.01),
        row("orchestrator's CPU time while a case is timed, of one core", f"{share:.2%}", "< 2 %", share < 0.02),
    ]


def round_trip_us(ready: Ready) -> float:
    begin = time.perf_counter_ns()
    ready.client.memory(10.0)
    return (time.perf_counter_ns() - begin) / 1e3


def scripted_run() -> tuple[dict[str, Any], float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "enginebench", "run", "fake", "--model", "tiny", "--preset", "smoke"]
        command += ["--n-gen", "500", "--iterations", "10", "--results", folder, "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    case = next(c for c in json.loads(done.stdout)["cases"] if c["engine"] == "fake")
    return case["metrics"], max(launch["harness_cpu_share"] or 0 for launch in case["launches"])


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "harness": harness,
    "limit": limit,
    "load": load,
    "torch_optimized": torch_optimized,
    "torch_baseline": torch_baseline,
    "tinygrad": tinygrad,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n-gen", type=int, default=24)
    options = parser.parse_args()
    bench = Bench(options.rounds, options.n_gen)
    kept = {} if not options.parts or not RAW.exists() else json.loads(RAW.read_text())["parts"]
    for name in options.parts or PARTS:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        kept[name] = [asdict(row) for row in PARTS[name](bench)]
        for row in kept[name]:
            print(f"  {row['what']}: {row['value']} (target {row['target']})", file=sys.stderr, flush=True)
    facts = {"environment": machine.environment(), "rounds": options.rounds, "n_gen": options.n_gen,
             "threads": bench.threads, "versions": versions(bench)}  # fmt: skip
    RAW.write_text(json.dumps({"facts": facts, "parts": kept}, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(facts, [row for name in PARTS for row in kept.get(name, [])]))
    return 0 if all(row["passed"] for rows in kept.values() for row in rows) else 1


def versions(bench: Bench) -> dict[str, str]:
    found = {}
    for engine in ("torch", "tinygrad"):
        found[engine] = bench.interpreter(engine).versions.get(engine, "?")
    return {**found, "transformers": "5.23.0"}


def page(facts: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    cpu = facts["environment"]["cpu"]
    lines = [
        "# The benchmark, measured",
        "",
        "Written by `just selfbench`; the same values are in selfbench.json. Llama 3.2 1B with synthetic weights, "
        f"GGUF F16, on {cpu['model']} ({facts['threads']} threads), {facts['environment']['date'][:10]}, commit "
        f"{(facts['environment']['repository'] or {}).get('commit')}. Versions: "
        + ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        + f". Contenders take turns in one run: {facts['rounds']} rounds, 16 prompt tokens, {facts['n_gen']} "
        "generated, medians. Parts can be measured one at a time: date and commit are those of the last one. "
        "The machine is shared and noisy: only the ratios mean something.",
        "",
        "| what | measured | target | reached |",
        "|---|---|---|---|",
        *(f"| {r['what']} | {r['value']} | {r['target']} | {'yes' if r['passed'] else '**no**'} |" for r in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    os.chdir(ROOT)
    raise SystemExit(main())
