"""The parts of the self-measurement are found; what they measure is for `just selfbench`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_parts_of_the_harness_and_of_the_engines_are_found() -> None:
    command = [sys.executable, str(ROOT / "tests" / "selfbench" / "run.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    parts = ["harness", "chat", "limit", "torch_load", "torch_chat", "tinygrad", "hybrid", "llamacpp", "onnxruntime"]
    for part in parts:
        assert part in done.stdout
