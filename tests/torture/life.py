"""The life of an engine process, many times over: how each ends, and what the vigil over it costs.

Endings: a child that goes, sleeps, hangs in native code, ignores signals, is stopped, or has children in sessions of
their own, is closed by the kill ladder; counted is what came to another end than expected, or left something behind.
Cost: requests to an engine without delays, waited for in turns by the vigil and by a plain poll; the price of a look.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from enginebench.machine.liveness import read_signs
from enginebench.machine.memory import process_tree
from enginebench.run.limits import Ladder, Limits
from enginebench.run.passed_on import engine_environment
from enginebench.run.process import ChildProcess, become_subreaper
from enginebench.run.vigil import watched
from enginebench_protocol.codec import pack_ids

ROOT = Path(__file__).resolve().parents[2]
LADDER = Ladder(grace=0.1, term=0.4, abort=0.4)
HEAD = "import ctypes, os, signal, subprocess, sys, time\n"
READY = "print('ready', file=sys.stderr, flush=True)\n"
IGNORE = "for s in (signal.SIGTERM, signal.SIGABRT): signal.signal(s, signal.SIG_IGN)\n"
SLEEP = "time.sleep(1000)\n"
BELOW = f"{HEAD}subprocess.Popen(['sleep', '1000'], start_new_session=True); time.sleep(1000)"
FAMILY = f"for _ in range(2): subprocess.Popen([sys.executable, '-I', '-c', {BELOW!r}], start_new_session=True)\n"


@dataclass(frozen=True)
class Misdeed:
    """What a child does, and the last signal of ours that it should take."""

    code: str
    ended_with: str
    stack: bool = False


MISDEEDS = {
    "goes when asked": Misdeed(READY + "sys.stdin.read()", ""),
    "sleeps": Misdeed(READY + SLEEP, "SIGTERM"),
    "sleeps, taken for a hang": Misdeed(READY + SLEEP, "SIGABRT", stack=True),
    "holds the interpreter": Misdeed(READY + "ctypes.PyDLL(None).sleep(1000)", "SIGABRT", stack=True),
    "ignores SIGTERM": Misdeed("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + SLEEP, "SIGABRT"),
    "ignores SIGTERM and SIGABRT": Misdeed(IGNORE + READY + SLEEP, "SIGKILL"),
    "is stopped": Misdeed(READY + "os.kill(os.getpid(), signal.SIGSTOP)", "SIGKILL"),
    "has a family in sessions of their own": Misdeed(FAMILY + READY + SLEEP, "SIGTERM"),
    "has such a family and ignores signals": Misdeed(IGNORE + FAMILY + READY + SLEEP, "SIGKILL"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endings", type=int, default=50, help="of each kind")
    parser.add_argument("--requests", type=int, default=10_000, help="by each of the two waits")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    become_subreaper()
    tally = {"endings": endings(options.endings), "cost": cost(options.requests)}
    text = json.dumps(tally, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    ctypes.CDLL(None).prctl(36, 0)
    return 1 if any(found["wrong"] for found in tally["endings"].values()) else 0


def endings(n: int) -> dict[str, Any]:
    return {name: ending(name, misdeed, n) for name, misdeed in MISDEEDS.items()}


def ending(name: str, misdeed: Misdeed, n: int) -> dict[str, Any]:
    wrong, slowest = [], 0.0
    for _ in range(n):
        with tempfile.TemporaryDirectory() as folder:
            child = ChildProcess(
                [sys.executable, "-I", "-X", "faulthandler", "-c", HEAD + misdeed.code],
                engine_environment(), Path(folder), ladder=LADDER,
            )  # fmt: skip
            while "ready" not in child.last_lines():
                time.sleep(0.005)
            started = time.monotonic()
            child.close(stack=misdeed.stack)
            slowest = max(slowest, time.monotonic() - started)
        wrong += faults(child, misdeed)
    print(f"{name}: {n}, {len(wrong)} wrong, {slowest:.1f} s", file=sys.stderr)
    return {"closed": n, "wrong": wrong, "slowest_s": round(slowest, 2)}


def faults(child: ChildProcess, misdeed: Misdeed) -> list[str]:
    assert child.ending is not None
    found = [f"ended with {child.ending.ended_with!r}"] if child.ending.ended_with != misdeed.ended_with else []
    if misdeed.stack and not any("most recent call first" in line for line in child.last_lines()):
        found.append("no stack")
    strays = psutil.Process().children(recursive=True)
    return found + child.ending.remains + [f"left {stray.pid}" for stray in strays]


# ---- cost -----------------------------------------------------------------------------------------------------


def cost(n: int) -> dict[str, Any]:
    """Of whole requests, as the parent sees them: medians in nanoseconds, and a 95 % interval of the difference."""
    with tempfile.TemporaryDirectory() as folder:
        source = {"PYTHONPATH": f"{ROOT}/packages/engine-fake/src:{ROOT}/protocol/src"}
        command = [sys.executable, "-m", "engine_fake", "serve", "--nonce", "n"]
        child = ChildProcess(command, engine_environment(source), Path(folder))
        client, vigil = watched(child, Limits(), 60.0)
        vigil.enter("hello")
        client.hello("fake", "n", 60.0)
        vigil.enter("load")
        client.load(
            60.0, configuration="instant", model_path="m", n_ctx=64, device="cpu", threads=1,
            cache=folder, scratch=folder,
        )  # fmt: skip
        waits = {"plain": None, "vigil": vigil.wait}
        gaps: dict[str, list[int]] = {name: [] for name in waits}
        dice, prompt = random.Random(0), pack_ids(range(16))
        for _ in range(n + 100):
            for name in dice.sample(sorted(waits), 2):
                client.stream._own_wait = waits[name]
                vigil.enter("request 1")
                _, received = client.generate(prompt, 1, 60.0)
                gaps[name].append(received.t_received_ns - received.t_sent_ns)
        looks = [look(child.pid) for _ in range(50)]
        child.close()
    kept = {name: found[100:] for name, found in gaps.items()}
    differences = sorted(b - a for a, b in zip(kept["plain"], kept["vigil"], strict=True))
    return {
        "requests": n,
        "plain_ns": statistics.median(kept["plain"]),
        "vigil_ns": statistics.median(kept["vigil"]),
        "difference_ns": statistics.median(differences),
        "difference_95_ns": [differences[round(n / 2 + sign * 0.98 * n**0.5)] for sign in (-1, 1)],
        "look_ns": statistics.median(looks),
    }


def look(pid: int) -> int:
    started = time.perf_counter_ns()
    read_signs(process_tree(pid))
    return time.perf_counter_ns() - started


if __name__ == "__main__":
    sys.exit(main())
