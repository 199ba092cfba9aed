"""What a shell completes, asked as Typer's scripts ask; and that it imports nothing slow for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from enginebench.cli import command_line, completion
from typer.testing import CliRunner

HEAVY = ("numpy", "duckdb", "scipy", "jsonschema", "enginebench.run.run", "enginebench.report.table")


def completed(line: str) -> list[str]:
    """`line` without its last word is what stands there; a space at the end asks for a new word."""
    words = line.split() + ([""] if line.endswith(" ") else [])
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_ENGINEBENCH_COMPLETE": "complete_bash"}
    return CliRunner().invoke(command_line(), [], prog_name="enginebench", env=asked).stdout.split()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("enginebench doc", ["doctor"]),
        ("enginebench run limi", ["limit"]),
        ("enginebench run fake:insta", ["fake:instant"]),
        ("enginebench run fake : insta", ["instant"]),
        ("enginebench run : limi", ["limit"]),
        ("enginebench run fake limi", ["limit"]),
        ("enginebench run --dry-run limi", ["limit"]),
        ("enginebench run --seed 3 limi", ["limit"]),
        ("enginebench run --model ti", ["tiny"]),
        ("enginebench run --model-path ti", ["tiny"]),
        ("enginebench run fake --preset sm", ["smoke"]),
        ("enginebench run fake -w dec", ["decode"]),
        ("enginebench run --quantize int8,n", ["int8,nf4"]),
        ("enginebench run fake -o json", ["json", "jsonl"]),
        ("enginebench run fake --itera", ["--iterations"]),
        ("enginebench prompt --engine limi", ["limit"]),
        ("enginebench models pul", ["pull"]),
        ("enginebench models pull ti", ["tiny"]),
    ],
)
def test_a_word_that_was_begun_is_completed(line: str, found: list[str]) -> None:
    assert completed(line) == found


def test_runs_are_completed_the_newest_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("20260101-a", "20260202-b"):
        (tmp_path / "results" / "runs" / name).mkdir(parents=True)
        (tmp_path / "results" / "runs" / name / "journal").touch()
    monkeypatch.setattr(completion, "ROOT", tmp_path)
    assert completed("enginebench show ") == ["latest", "20260202-b", "20260101-a"]
    assert completed("enginebench compare 20260101-a 202602") == ["20260202-b"]


def test_nothing_slow_is_imported_to_complete_a_name() -> None:
    program = f"""
import os, sys
os.environ |= {{"COMP_WORDS": "enginebench run limi", "COMP_CWORD": "2", "_ENGINEBENCH_COMPLETE": "complete_bash"}}
from enginebench.cli import main
try:
    main()
except SystemExit:
    pass
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["limit", "[]"]


def test_a_real_shell_completes_with_the_script_that_is_installed(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("enginebench")
    script = tmp_path / "completion.bash"
    asked = {"_ENGINEBENCH_COMPLETE": "source_bash", "PATH": "/usr/bin:/bin"}
    script.write_text(subprocess.run([program], env=asked, capture_output=True, text=True, check=True).stdout)
    words = "COMP_WORDS=(enginebench run limi); COMP_CWORD=2; _enginebench_completion"
    shell = f'source {script}; {words} {program}; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["limit"]
