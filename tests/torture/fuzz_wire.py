"""`just torture-wire`: a coverage-guided fuzzer (atheris, which is libFuzzer) against both ends of the wire.

Targets: `engine`, bytes to a session of the toy engine; `client`, bytes to a session of the client; `message`, bytes as
one payload of either direction. Whatever comes is a message or a ProtocolError, within 100 ms of CPU and 64 MiB beyond
what the process has when it starts. The corpus is the golden frames, cut and joined by libFuzzer. The tally is JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "protocol" / "tests" / "support"))
TARGETS = ("engine", "client", "message")
SECONDS, MIB = 0.1, 64
SESSIONS = {
    "answers": "hello progress loaded token generated scored profiled account done done",
    "requests": "load generate cancel score profile memory unload shutdown",
    "cancels": "load generate cancel cancel generate score",
    "failures": "hello failed failed failed",
}


def fuzz(target: str, arguments: list[str]) -> None:
    """In a process of its own, which ends with libFuzzer."""
    import atheris

    with atheris.instrument_imports(include=["enginebench_protocol", "msgspec", "wire"]):
        import wire
    sys.stderr.flush()
    act: Callable[[bytes], object] = {"engine": wire.to_engine, "client": wire.from_engine, "message": wire.decoded}[
        target
    ]
    base = rss_mib()

    def one(raw: bytes) -> None:
        started = time.process_time()
        cuts = [raw[0] % 40, raw[-1] * 3] if target != "message" and raw else None
        try:
            act(raw, cuts) if cuts else act(raw)
        except wire.ProtocolError:
            if target == "message":
                raise
        seconds = time.process_time() - started
        if seconds > SECONDS:
            raise RuntimeError(f"{seconds:.3f} s for {len(raw)} bytes")
        if rss_mib() - base > MIB:
            raise RuntimeError(f"{rss_mib() - base} MiB more than at the start")

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def rss_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3_500_000, help="inputs for each target")
    parser.add_argument("--seconds", type=int, default=0, help="for each target; 0: until the runs are done")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--target", choices=TARGETS, default=None, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.target:
        fuzz(options.target, rest)
        return 0
    found = {target: campaign(target, options) for target in TARGETS}
    text = json.dumps(found, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    return 1 if any(each["exit_code"] for each in found.values()) else 0


def campaign(target: str, options: argparse.Namespace) -> dict[str, object]:
    """libFuzzer's own statistics of one target."""
    import wire

    with tempfile.TemporaryDirectory() as folder:
        frames, corpus = wire.golden_frames(), Path(folder) / "corpus"
        corpus.mkdir()
        for name, frame in frames.items():
            (corpus / name).write_bytes(frame[4:] if target == "message" else frame)
        for name, session in SESSIONS.items():
            (corpus / name).write_bytes(b"".join(frames[each] for each in session.split()))
        (Path(folder) / "dictionary").write_text(dictionary(frames))
        words = [str(corpus), f"-dict={folder}/dictionary", f"-runs={options.runs}", f"-seed={options.seed}"]
        words += [f"-max_total_time={options.seconds}", "-max_len=2048", "-print_final_stats=1"]
        words += [f"-artifact_prefix={folder}/"]
        command = [sys.executable, __file__, "--target", target, *words]
        done = subprocess.run(command, capture_output=True, check=False)
    text = done.stderr.decode("utf-8", "replace")
    return {
        "exit_code": done.returncode,
        "inputs": statistic("number_of_executed_units", text),
        "inputs_per_second": statistic("average_exec_per_sec", text),
        "slowest_input_s": statistic("slowest_unit_time_sec", text),
        "peak_rss_mib": statistic("peak_rss_mb", text),
        "edges_covered": int((re.findall(r"cov: (\d+)", text) or ["0"])[-1]),
        "crash": "" if done.returncode == 0 else text[-2000:],
    }


def dictionary(frames: dict[str, bytes]) -> str:
    """Whole frames for libFuzzer to put anywhere: no chance puts a length before its payload."""
    escaped = ["".join(map("\\x{:02x}".format, frame)) for frame in frames.values() if len(frame) < 64]
    return "".join(f'"{entry}"\n' for entry in escaped)


def statistic(name: str, text: str) -> int | None:
    found = re.search(rf"stat::{name}:\s+(\d+)", text)
    return int(found.group(1)) if found else None


if __name__ == "__main__":
    sys.exit(main())
