"""What `prompt` and `chat` add to an engine: the time to a first token, and the time of every token after it."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from bench import ROOT, Bench, Row

sys.path.append(str(ROOT / "tests" / "e2e"))

QUESTION = "Explain quantum computing"
CHAT_CONTEXT = 4096


def first_token(bench: Bench, engine: str, configuration: str) -> Row:
    """`enginebench prompt` ÷ the engine's own `generate`: from the spawn to the first byte on stdout, one token."""
    model, threads = str(bench.model), str(bench.threads)
    shared = ["--model", model, "--threads", threads, "--n-gen", "1"]
    own = [str(bench.interpreter(engine).python), "-m", bench.infos[engine].module, "generate", "--prompt", QUESTION]
    own += ["--configuration", configuration, *shared]
    ours = [sys.executable, "-m", "enginebench", "prompt", QUESTION, "--engine", f"{engine}:{configuration}"]
    ours += ["--temperature", "0", *shared]
    first_byte_seconds(own), first_byte_seconds(ours)
    measured: list[tuple[float, float]] = []
    for number in range(bench.rounds):
        if number % 2:
            theirs, taken = first_byte_seconds(own), first_byte_seconds(ours)
        else:
            taken, theirs = first_byte_seconds(ours), first_byte_seconds(own)
        measured.append((taken, theirs))
    ratio = statistics.median(a / b for a, b in measured)
    a, b = (statistics.median(column) for column in zip(*measured, strict=True))
    what = f"first token of `enginebench prompt` ÷ {engine}:{configuration} alone (`generate`), cached"
    return Row(what, f"{ratio:.2f} ({a:.2f} ÷ {b:.2f} s)", "≤ 1.2", ratio <= 1.2)


def first_byte_seconds(command: Sequence[str]) -> float:
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 1)
        taken = time.perf_counter() - begin
        process.communicate()
    if not first or process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}, nothing to measure")
    return taken
