"""The root of the command line: its version, a fault in one line, and commands that are imported when asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from enginebench import cli
from enginebench.cli.group import loaded, with_debug
from enginebench.cli.version import version_text
from enginebench.errors import UsageError


def call(monkeypatch: pytest.MonkeyPatch, *words: str, error: Exception) -> int:
    def broken(_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_run", broken)
    monkeypatch.setattr(sys, "argv", ["enginebench", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(str(ended.value.code))


def test_a_fault_is_one_line_that_says_where_to_go(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "engines", error=KeyError("nothing")) == cli.EXIT_FAULT
    told = capsys.readouterr().err
    assert told.startswith("enginebench: KeyError: 'nothing' (this is a fault of enginebench: please report it")
    assert told.count("\n") == 1
    assert "--debug shows where" in told


@pytest.mark.parametrize(("error", "code"), [(KeyError("nothing"), 70), (UsageError("not so"), 2)])
def test_with_debug_it_is_shown_where_it_happened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    assert call(monkeypatch, "engines", "--debug", error=error) == code
    assert "Traceback" in capsys.readouterr().err


def test_a_usage_error_has_no_trace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "engines", error=UsageError("not so")) == cli.EXIT_USAGE
    assert capsys.readouterr().err == "enginebench: not so\n"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("show latest -o jsn", "unknown value of --output 'jsn': did you mean 'json'? there are benchstat, csv, json,"),
        ("models --output=cvs", "unknown value of --output 'cvs': did you mean 'csv'?"),
        ("run all --device cdua", "unknown value of --device 'cdua': did you mean 'cuda'? there are auto, cpu, cuda"),
        ("doctor -otabel", "unknown value of --output 'tabel': did you mean 'table'?"),
        (f"run all --python engine-tinygard={sys.executable}", "package of --python 'engine-tinygard': did you mean"),
        ("report latest --format pgn", "unknown value of --format 'pgn': did you mean 'png'?"),
    ],
)
def test_a_mistyped_value_gets_a_near_match(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, told: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["enginebench", *line.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == cli.EXIT_USAGE
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_takes_debug(name: str) -> None:
    command = loaded(name, cli.COMMANDS[name])
    if getattr(command, "commands", None) is None:
        assert "--debug" in [option for parameter in command.params for option in parameter.opts]


def test_an_option_of_its_own_is_kept() -> None:
    def command(debug: bool = False) -> None: ...

    assert with_debug(command) is command


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_the_version_has_the_commit_and_says_if_the_tree_is_modified(tmp_path: Path) -> None:
    assert "no commit is known" in version_text(tmp_path)
    git(tmp_path, "init")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "one")
    assert version_text(tmp_path).endswith(")")
    assert "commit" in version_text(tmp_path)
    assert "modified" not in version_text(tmp_path)
    (tmp_path / "a").write_text("2")
    assert version_text(tmp_path).endswith(", modified)")
