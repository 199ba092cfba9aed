"""The committed pins of an engine: names, versions and hashes, no addresses (`uv.lock` names hosts: it stays local)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from enginebench.errors import UnavailableError
from enginebench.run.passed_on import uv_environment

from .discovery import ROOT, EngineInfo, environments

_FORM = (
    "--no-header",
    "--no-annotate",
    "--no-emit-workspace",
    "--no-default-groups",
    "--format=requirements.txt",
    "--quiet",
)


def lock_afresh(root: Path = ROOT) -> None:
    """Resolve without regard to the lock that is there: uv keeps what an older one chose, a fresh clone has none.

    Raises UnavailableError if uv cannot resolve.
    """
    command = ["uv", "lock", "--upgrade", "--quiet"]
    done = subprocess.run(command, cwd=root, env=uv_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnavailableError(f"uv lock failed: {done.stderr.strip()[-300:]}")


def resolved_pins(info: EngineInfo, root: Path = ROOT) -> str:
    """What the project files resolve to today, with every extra that a configuration needs.

    Raises UnavailableError if uv cannot resolve.
    """
    extras = [word for extra in environments(info) if extra for word in ("--extra", extra)]
    done = subprocess.run(
        ["uv", "export", "--package", info.package, *extras, *_FORM],
        cwd=root,
        env=uv_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise UnavailableError(f"{info.package}: uv export failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def pins_file(info: EngineInfo) -> Path:
    return Path(info.folder) / "pins.txt"


def drifted(info: EngineInfo, root: Path = ROOT) -> bool:
    """True if the committed pins are not what the project files resolve to."""
    file = pins_file(info)
    return not file.exists() or file.read_text() != resolved_pins(info, root)
