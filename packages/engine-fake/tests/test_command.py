"""engine-fake as people call it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def command(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engine_fake", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={"XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )


def test_describe_names_what_it_can_do(tmp_path: Path) -> None:
    facts = json.loads(command(tmp_path, "describe", "-o", "json").stdout)
    assert facts["engine"] == "fake"
    assert {"default", "slow", "crash", "hang", "noisy-stdout"} <= set(facts["configurations"])


def test_bench_reports_the_known_speed(tmp_path: Path) -> None:
    """No bound from above: on a busy machine tokens may be late, but never early."""
    done = command(tmp_path, "bench", "--n-gen", "20", "--iterations", "3", "-o", "json")
    metrics = json.loads(done.stdout)["metrics"]
    assert metrics["ttft_ns"] >= 1e6
    assert 0 < metrics["decode_tps"] < 1010


def test_generate_prints_ids(tmp_path: Path) -> None:
    first = command(tmp_path, "generate", "--ids", "1,2,3", "--n-gen", "4")
    again = command(tmp_path, "generate", "--ids", "1,2,3", "--n-gen", "4", "--configuration", "instant")
    assert first.stdout == again.stdout
    assert len(first.stdout.split(",")) == 4


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("score",), 2, "no model files"),
        (("generate", "--prompt", "text"), 2, "no tokenizer: give --ids"),
        (("bench", "--configuration", "refuse"), 2, "asked to refuse"),
        (("bench", "--configuration", "fast"), 2, "unknown configuration 'fast'"),
        (("bench", "--configuration", "short", "--n-gen", "4"), 1, "3 of 4 tokens"),
    ],
)
def test_what_it_cannot_do_it_says(tmp_path: Path, arguments: tuple[str, ...], code: int, complaint: str) -> None:
    done = command(tmp_path, *arguments)
    assert done.returncode == code
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
