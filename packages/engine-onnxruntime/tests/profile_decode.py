"""Where the time of a decode step goes, by ONNX Runtime's own profile. Run by hand, not by pytest:

    .envs/engine-onnxruntime/bin/python packages/engine-onnxruntime/tests/profile_decode.py MODEL_FILE \
        --configuration float32

Prints milliseconds per token by operator, with the bytes of weights it moves, and the operators' share of the step. The
profile itself costs a few microseconds per operator.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from enginebench_models.checkpoint import open_checkpoint

N_PROMPT, WARM_UP = 16, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--configuration", choices=["default", "float32"], default="default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n-gen", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(*profiled_steps(options, str(Path(folder) / "decode")))


def profiled_steps(options: argparse.Namespace, prefix: str) -> tuple[list[float], Path, int]:
    """Seconds of each step after the warm-up, the profile, and when the first of those steps began in it (µs)."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime
    from engine_onnxruntime import decoding, session, weights

    class ProfiledOptions(onnxruntime.SessionOptions):
        def __init__(self) -> None:
            super().__init__()
            self.enable_profiling, self.profile_file_prefix = True, prefix

    session.SessionOptions = ProfiledOptions
    checkpoint = open_checkpoint(options.model)
    stored = checkpoint.tensor("embed_tokens").dtype
    method = session.choose_method(options.configuration, session.CPU, stored)
    located = weights.locate_weights(checkpoint, method.block_elements, "float16", lambda fraction: None)
    n_ctx = N_PROMPT + WARM_UP + options.n_gen
    decoder = decoding.open_decoder(checkpoint, located, session.CPU, method, n_ctx, options.threads)
    print(decoder.held, file=sys.stderr)
    decoder.prefill(range(N_PROMPT))
    seconds = []
    for position in range(N_PROMPT, n_ctx):
        start = time.perf_counter()
        decoder.decode(position)
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:], Path(decoder.session.end_profiling()), WARM_UP + 1


def report(seconds: list[float], profile: Path, skipped_runs: int) -> None:
    events = json.loads(profile.read_text())
    runs = [event for event in events if event["name"] == "model_run"][skipped_runs:]
    kernels = [e for e in events if e["name"].endswith("_kernel_time") and e["ts"] >= runs[0]["ts"]]
    milliseconds: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in kernels:
        milliseconds[event["args"]["op_name"]] += event["dur"] / 1e3 / len(seconds)
        calls[event["args"]["op_name"]] += 1
    step = statistics.median(seconds) * 1e3
    print(f"step: median {step:.1f} ms, {1e3 / step:.2f} tok/s; {len(seconds)} steps")
    for name, spent in milliseconds.most_common():
        print(f"{spent:9.2f} ms {spent / step:6.1%}  {calls[name] // len(seconds):5d} calls  {name}")
    print(
        f"{step - sum(milliseconds.values()):9.2f} ms {1 - sum(milliseconds.values()) / step:6.1%}  between operators"
    )


if __name__ == "__main__":
    main()
