"""engine-tinygrad against tinygrad's own LLM command (`just selfbench tinygrad`)."""

from __future__ import annotations

import re
import statistics
import subprocess

from bench import Bench, Row
from enginebench.workspace.environment import Interpreter
from side_by_side import started


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
    return [Row("decode tinygrad:default ÷ tinygrad's own LLM command", value, "≥ 1.0", ratio >= 1.0)]


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


PARTS = {"tinygrad": tinygrad}
