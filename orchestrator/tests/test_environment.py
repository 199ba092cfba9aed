"""Environments by name, and what is said when one cannot be made."""

import sys
from pathlib import Path

import pytest
from enginebench.errors import UnavailableError
from enginebench.workspace import environment
from enginebench.workspace.discovery import EngineInfo, discover, environments

PYPROJECT = """
[project]
name = "engine-demo"
[tool.enginebench.engine]
name = "demo"
module = "engine_demo"
description = "a demo"
role = "engine"
formats = ["gguf"]
gpu = "none"
[tool.enginebench.engine.configurations]
"""

FAILED_BUILD = """Resolved 5 packages
error: Failed to build `a==1`
  cause: The build backend returned an error
  cause: Call to `b` failed

         [stderr] long output

hint: Build failures usually indicate a problem with the package
"""


def demo(tmp_path: Path, configurations: str) -> EngineInfo:
    folder = tmp_path / "packages" / "engine-demo"
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT + configurations)
    return discover(tmp_path)["demo"]


def test_configurations_with_the_same_extra_share_an_environment(tmp_path: Path) -> None:
    lines = [f'{name} = {{ description = "d", precision = "float32"{extra} }}' for name, extra in
             (("a", ', extra = "full"'), ("b", ', extra = "full"'), ("c", ""))]  # fmt: skip
    info = demo(tmp_path, "\n".join(lines))
    assert environments(info) == ["full", ""]
    assert [environment.environment_name(info, extra) for extra in environments(info)] == [
        "engine-demo+full",
        "engine-demo",
    ]


def test_an_environment_is_synced_by_itself(tmp_path: Path) -> None:
    info = demo(tmp_path, 'a = { description = "d", precision = "float32", extra = "full" }')
    (tmp_path / "pyproject.toml").write_text("")
    stamp = tmp_path / ".envs" / "engine-demo+full" / ".enginebench-made-from"
    stamp.parent.mkdir(parents=True)
    stamp.write_text(environment._made_from(info, tmp_path))
    assert environment.is_synced(info, tmp_path, "full")
    assert not environment.is_synced(info, tmp_path)


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (FAILED_BUILD, "Failed to build `a==1`: Call to `b` failed"),
        (
            "  × No solution found\n  ╰─▶ Because a depends on b\n\n      hint: pre-releases are available",
            "╰─▶ Because a depends on b",
        ),
        ("error: no lock", "no lock"),
        ("something else", "something else"),
        ("", "uv sync failed without a message"),
    ],
)
def test_the_reason_is_what_failed_and_its_deepest_cause(stderr: str, reason: str) -> None:
    assert environment._last_error(stderr) == reason


ONE = 'a = { description = "d", precision = "float32" }'


def test_a_sync_that_fails_leaves_no_stamp_of_an_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = demo(tmp_path, ONE)
    project = tmp_path / "pyproject.toml"
    project.write_text("")
    stamp = tmp_path / ".envs" / "engine-demo" / ".enginebench-made-from"
    stamp.parent.mkdir(parents=True)
    stamp.write_text(environment._made_from(info, tmp_path))
    project.write_text("# changed")

    def broken_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "_sync", broken_off)
    with pytest.raises(KeyboardInterrupt):
        environment.startable(info, {}, print, tmp_path)
    project.write_text("")
    assert not environment.is_synced(info, tmp_path)


def test_an_interpreter_that_says_something_else_than_its_versions_is_unavailable(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho welcome")
    script.chmod(0o700)
    with pytest.raises(UnavailableError, match=r"says 'welcome\\n' where its versions were asked for"):
        environment.prepare(demo(tmp_path, ONE), {"demo": script}, print, tmp_path)


def test_a_distribution_that_was_removed_by_half_has_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "-orch-2.0.dist-info").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = environment.prepare(demo(tmp_path, ONE), {"demo": Path(sys.executable)}, print, tmp_path)
    assert "pytest" in found.versions
