"""The process that reads a file first: it answers in facts or in a rule, whatever the file does to it."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from enginebench_models import validation
from enginebench_models.errors import InvalidModel, UnsupportedModel
from enginebench_models.rules import RULES
from enginebench_models.validation import Verdict, refuse_hostile, validate_path

from .gguf_bytes import llama, string
from .malformed_gguf import malformed
from .malformed_safetensors import malformed as malformed_safetensors

CASES = {case.rule: case.raw for case in [*malformed(), *malformed_safetensors()]}


def written(folder: Path, raw: bytes, name: str = "model.gguf") -> Path:
    (folder / name).write_bytes(raw)
    return folder / name


def test_a_sound_model_is_facts(tiny_gguf: Path, tiny_folder: Path) -> None:
    gguf, folder = validate_path(tiny_gguf), validate_path(tiny_folder)
    assert (gguf.kind, gguf.rule, folder.kind) == ("valid", "", "valid")
    assert gguf.facts["shape"] == folder.facts["shape"]
    assert gguf.facts["shape"]["n_layers"] == 4
    assert gguf.facts["files"][0]["size_bytes"] == tiny_gguf.stat().st_size
    assert len(gguf.facts["files"][0]["header_sha256"]) == 64


@pytest.mark.parametrize(
    "rule", ["gguf-array-too-long", "gguf-alignment", "packed-file", "model-shape", "safetensors-json"]
)
def test_a_malformed_file_is_the_rule_it_breaks(rule: str, tmp_path: Path) -> None:
    found = validate_path(written(tmp_path, CASES[rule]))
    assert (found.kind, found.rule) == ("invalid", rule)


@pytest.mark.slow
@pytest.mark.parametrize("rule", sorted(CASES))
def test_every_rule_is_found_in_the_process_too(rule: str, tmp_path: Path) -> None:
    assert validate_path(written(tmp_path, CASES[rule])).rule == rule


def test_a_header_that_takes_more_than_512_mib_to_read_is_refused(tmp_path: Path) -> None:
    """Fifteen strings of 16 MiB that Python stores in four bytes a letter: 960 MiB."""
    path, length = tmp_path / "model.gguf", 16 << 20
    with path.open("wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 15))
        for number in range(15):
            out.write(string(f"k{number}") + struct.pack("<IQ", 8, length))
            out.seek(length - 4, os.SEEK_CUR)  # a hole in the file: zeros, which are letters of UTF-8
            out.write("😀".encode())
    assert validate_path(path).rule == "memory"


def test_a_check_without_end_is_stopped(tmp_path: Path) -> None:
    program = (
        "import sys, time, enginebench_models.validate as v\n"
        "v.LIMIT_SECONDS = 0.2\n"
        "v.check_format = lambda *_: time.sleep(60)\n"
        "sys.argv = ['validate', sys.argv[1]]\n"
        "sys.exit(v.main())"
    )
    command = [sys.executable, "-c", program, str(written(tmp_path, llama()))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert json.loads(done.stdout)["rule"] == "time", done.stderr


def stand_in(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(validation.sys, "executable", str(program))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -SEGV $$", "-11"),
        ("kill -KILL $$", "-9"),
        ("exit 3", "ended with 3"),
        ("echo nonsense", "no answer"),
        ("echo '[]'", "no answer"),
        ("echo 'Fatal Python error' >&2; exit 134", "Fatal Python error"),
    ],
)
def test_a_check_that_dies_is_a_refusal(
    script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, script, monkeypatch)
    found = validate_path(written(tmp_path, llama()))
    assert (found.kind, found.rule) == ("invalid", "validator-died")
    assert message in found.message
    with pytest.raises(InvalidModel):
        refuse_hostile(tmp_path / "model.gguf")


def test_a_check_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, "exec sleep 60", monkeypatch)
    monkeypatch.setattr(validation, "LIMIT_SECONDS", -4.8)
    assert validate_path(written(tmp_path, llama())).rule == "time"


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    assert validate_path(tmp_path / "pipe.gguf").rule == "regular-file"
    assert validate_path(Path("/dev/zero")).rule == "regular-file"
    assert validate_path(tmp_path / "none").rule == "no-such-path"


def test_the_environment_that_is_passed_on_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert "HF_TOKEN" not in validation.environment()


@pytest.mark.parametrize(
    ("verdict", "refused"),
    [
        (Verdict("valid", "", "", {}), None),
        (Verdict("invalid", "gguf-overlap", "m", {}), InvalidModel),
        (Verdict("unsupported", "gguf-version", "m", {}), UnsupportedModel),
        (Verdict("unsupported", "architecture", "m", {}), None),
        (Verdict("invalid", "no-weights", "m", {}), None),
        (Verdict("invalid", "time", "m", {}), InvalidModel),
        (Verdict("invalid", "memory", "m", {}), InvalidModel),
    ],
)
def test_what_is_broken_ends_a_run_and_what_is_only_foreign_does_not(
    verdict: Verdict, refused: type[Exception] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "validate_path", lambda path: verdict)
    if refused is None:
        refuse_hostile(tmp_path)
        return
    with pytest.raises(refused) as caught:
        refuse_hostile(tmp_path)
    assert caught.value.rule == verdict.rule


def test_rules_are_sentences() -> None:
    assert all(text.endswith(".") for text in RULES.values())
