"""What `prompt` and `chat` add to an engine: the time to a first token, and the time of every token after it."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from bench import ROOT, Bench, Row
from side_by_side import Ready, started

sys.path.append(str(ROOT / "tests" / "e2e"))
from terminal import Terminal  # shared with the tests of the chat

QUESTION = "Explain quantum computing"
N_PROMPT = 26
"""Tokens that the question makes with the chat template of synthetic models."""
LARGEST_RATIO = 1.2
LARGEST_MS = 1.0


def talking(engine: str, configuration: str) -> Callable[[Bench], list[Row]]:
    """A part of the self-measurement, for the engine that has it."""
    return lambda bench: [first_token(bench, engine, configuration), per_token(bench, engine, configuration)]


def first_token(bench: Bench, engine: str, configuration: str) -> Row:
    """`enginebench prompt` ÷ the engine's own `generate`: from the spawn to the first byte on stdout, one token."""
    case = ["--model", str(bench.model), "--threads", str(bench.threads), "--n-gen", "1"]
    alone = [str(bench.interpreter(engine).python), "-m", bench.infos[engine].module, "generate"]
    alone += ["--prompt", QUESTION, "--configuration", configuration, *case]
    asked = [sys.executable, "-m", "enginebench", "prompt", QUESTION, "--engine", f"{engine}:{configuration}"]
    asked += ["--temperature", "0", *case]
    first_byte_seconds(alone)  # the file into the page cache
    ours, theirs = in_turns(bench.rounds, asked, alone)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    what = f"first token of `enginebench prompt` ÷ of {engine}:{configuration} alone (`generate`), from the command on"
    value = f"{ratio:.2f} ({statistics.median(ours):.2f} ÷ {statistics.median(theirs):.2f} s)"
    return Row(what, value, f"≤ {LARGEST_RATIO}", ratio <= LARGEST_RATIO)


def in_turns(rounds: int, first: Sequence[str], second: Sequence[str]) -> tuple[list[float], list[float]]:
    """Seconds of both, each once per round; the order turns round by round."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for index in (0, 1) if number % 2 else (1, 0):
            taken[index].append(first_byte_seconds((first, second)[index]))
    return taken


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


def per_token(bench: Bench, engine: str, configuration: str) -> Row:
    """A whole chat on a terminal, and the same engine asked by a bare client: both alive, asked in turn."""
    label, n_ctx = f"{engine}:{configuration}", N_PROMPT + bench.n_gen
    command = [sys.executable, "-m", "enginebench", "chat", label, "--model", str(bench.model), "--timing"]
    command += ["--temperature", "0", "--threads", str(bench.threads), "--n-ctx", str(n_ctx), "-n", str(bench.n_gen)]
    contender = bench.contender(engine, configuration)
    with (
        started(contender, bench.model, n_ctx, bench.threads) as bare,
        Terminal(command, os.environ, columns=200) as chat,
    ):
        chat.expect(r"^>$", 120)
        pairs = [pair_ms(chat, bare, bench.n_gen, number) for number in range(bench.rounds + 1)]
    ours, theirs = zip(*pairs[1:], strict=True)  # the first ones warm up
    added = statistics.median(a - b for a, b in pairs[1:])
    what = f"time per token that `enginebench chat` adds to {label}"
    value = f"{added:+.3f} ms ({statistics.median(ours):.3f} - {statistics.median(theirs):.3f} ms)"
    return Row(what, value, f"≤ {LARGEST_MS:g} ms", added <= LARGEST_MS)


def pair_ms(chat: Terminal, bare: Ready, n_gen: int, number: int) -> tuple[float, float]:
    """Of the chat and of the bare client; the order turns round by round."""
    if number % 2:
        theirs = bare_ms(bare, n_gen, number)
        return chat_ms(chat, number), theirs
    return chat_ms(chat, number), bare_ms(bare, n_gen, number)


def bare_ms(bare: Ready, n_gen: int, number: int) -> float:
    return (bare.ask(N_PROMPT, n_gen, number).tpot_ns or 0) / 1e6


def chat_ms(chat: Terminal, number: int) -> float:
    """As the chat itself tells it, from the engine's own stamps. Its terminal is not drawn while it answers."""
    chat.send("/reset\r")
    chat.expect(rf"(?:forgotten[\s\S]*?){{{number + 1}}}^>$", 30)
    chat.send(f"{QUESTION}\r")
    told = chat.overhear(rb"tokens after the first: ([\d.]+) tok/s", 300)
    chat.expect(rf"(?:tokens after the first[\s\S]*?){{{number + 1}}}^>$", 30)
    return 1e3 / float(told[1])


PARTS = {"chat": lambda bench: [per_token(bench, "fake", "instant")]}
"""Of an engine that costs nothing: what is left is ours."""
