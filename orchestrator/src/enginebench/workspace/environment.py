"""An engine's own environment, `.envs/<package>[+<extra>]`: made by `uv sync`, or an interpreter the user names.

A sync that fails makes its engine unavailable; the others go on. What an environment was made from is kept beside it,
so that a second run needs neither uv nor a network.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from enginebench_protocol.host import cache_folder

from enginebench.errors import UnavailableError
from enginebench.run.guard import Watchdog, guarded
from enginebench.run.passed_on import engine_environment, uv_environment

from .discovery import ROOT, EngineInfo

_STAMP = ".enginebench-made-from"
_CAUSES = ("cause: ", "×", "├─▶", "╰─▶", "Caused by")
_SYNC_FORM = ("--no-default-groups", "--no-progress")
_LIST_VERSIONS = (
    "import importlib.metadata as m, json;"
    "named = [d for d in m.distributions() if d.metadata.get('Name')];"
    "print(json.dumps({d.metadata['Name'].lower(): d.version for d in named}))"
)
"""A distribution that was removed by half has no name."""


@dataclass(frozen=True)
class Interpreter:
    """How to start one engine: `python -m module`, and what else its process must be told."""

    python: Path
    environment: Mapping[str, str]
    pins_sha256: str | None
    versions: Mapping[str, str]

    def command(self, module: str, nonce: str) -> list[str]:
        return [str(self.python), "-m", module, "serve", "--nonce", nonce]


def prepare(
    info: EngineInfo,
    overrides: Mapping[str, Path],
    say: Callable[[str], None],
    root: Path = ROOT,
    extra: str = "",
    watchdog: Watchdog | None = None,
) -> Interpreter:
    """The interpreter of `info`, with `extra` dependencies if that names any, synced if need be.

    `watchdog`: ends what is started for it, should we be killed. Raises UnavailableError with the last line of what
    went wrong.
    """
    found = startable(info, overrides, say, root, extra, watchdog)
    return replace(found, versions=_versions(found.python, found.environment, watchdog))


def startable(
    info: EngineInfo,
    overrides: Mapping[str, Path],
    say: Callable[[str], None],
    root: Path = ROOT,
    extra: str = "",
    watchdog: Watchdog | None = None,
) -> Interpreter:
    """As `prepare`, but no process is started to ask which versions it has: `versions` is empty."""
    override = overrides.get(info.package) or overrides.get(info.name)
    if override is not None:
        # A vendor's interpreter has the libraries; our own members come from the checkout.
        return Interpreter(override, engine_environment({"PYTHONPATH": _source_path(info, root)}), None, {})
    return Interpreter(_synced(info, extra, say, root, watchdog), engine_environment(), pins_sha256(info), {})


def kernel_cache(info: EngineInfo) -> Path:
    """Where an engine keeps what it compiled: the same folder in every run."""
    folder = cache_folder() / "kernels" / info.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def pins_sha256(info: EngineInfo) -> str | None:
    pins = Path(info.folder) / "pins.txt"
    return hashlib.sha256(pins.read_bytes()).hexdigest() if pins.exists() else None


def environment_name(info: EngineInfo, extra: str = "") -> str:
    return f"{info.package}+{extra}" if extra else info.package


def is_synced(info: EngineInfo, root: Path = ROOT, extra: str = "") -> bool:
    stamp = root / ".envs" / environment_name(info, extra) / _STAMP
    return stamp.exists() and stamp.read_text() == _made_from(info, root)


def _synced(info: EngineInfo, extra: str, say: Callable[[str], None], root: Path, watchdog: Watchdog | None) -> Path:
    folder = root / ".envs" / environment_name(info, extra)
    if not is_synced(info, root, extra):
        (folder / _STAMP).unlink(missing_ok=True)  # what is broken off is nothing that an older stamp speaks of
        _sync(info, extra, folder, say, root, watchdog)
        (folder / _STAMP).write_text(_made_from(info, root))
    return folder / "bin" / "python"


def _sync(
    info: EngineInfo, extra: str, folder: Path, say: Callable[[str], None], root: Path, watchdog: Watchdog | None
) -> None:
    if shutil.which("uv") is None:
        raise UnavailableError("its environment is not installed and `uv` is not on PATH: pip install uv")
    name = environment_name(info, extra)
    say(f"installing the environment of {name}")
    process = subprocess.Popen(
        ["uv", "sync", "--package", info.package, *(["--extra", extra] if extra else []), *_SYNC_FORM],
        cwd=root,
        env=uv_environment({"UV_PROJECT_ENVIRONMENT": str(folder), **_scratch(watchdog)}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with guarded(process, watchdog):
        for minutes in itertools.count(1):
            try:
                _, stderr = process.communicate(timeout=60)
                break
            except subprocess.TimeoutExpired:
                say(f"still installing the environment of {name}, {minutes} min: some packages are built here")
    if process.returncode != 0:
        raise UnavailableError(f"environment cannot be installed: {_last_error(stderr)}")


def _last_error(stderr: str) -> str:
    """What failed, and the deepest cause that uv gives; its hints only where it says nothing else."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error")]
    causes = [line.removeprefix("cause: ") for line in lines if line.startswith(_CAUSES)]
    found = [*errors[:1], *causes[-1:]] or lines[-1:] or ["uv sync failed without a message"]
    return ": ".join(found)[:300]


def _made_from(info: EngineInfo, root: Path) -> str:
    """Everything that decides what an environment holds: the pins where there are any, else the project files."""
    files = [root / "pyproject.toml", *sorted(root.glob("*/pyproject.toml"))]
    files += [p for p in (Path(info.folder) / "pyproject.toml", Path(info.folder) / "pins.txt") if p.exists()]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _source_path(info: EngineInfo, root: Path) -> str:
    folders = [Path(info.folder) / "src", root / "protocol" / "src", root / "models" / "src"]
    own = os.environ.get("PYTHONPATH", "")
    return ":".join([*map(str, folders), *([own] if own else [])])


def _scratch(watchdog: Watchdog | None) -> dict[str, str]:
    return {"TMPDIR": str(watchdog.folder)} if watchdog else {}


def _versions(python: Path, environment: Mapping[str, str], watchdog: Watchdog | None) -> Mapping[str, str]:
    command, pipe = [str(python), "-c", _LIST_VERSIONS], subprocess.PIPE
    try:
        with (
            subprocess.Popen(
                command,
                env={**environment, **_scratch(watchdog)},
                stdout=pipe,
                stderr=pipe,
                text=True,
                start_new_session=True,
            ) as process,
            guarded(process, watchdog),
        ):
            told, _ = process.communicate(timeout=60)
        if process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, command)
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"its interpreter does not start: {error}") from None
    try:
        versions: dict[str, str] = json.loads(told)
    except ValueError:
        raise UnavailableError(f"its interpreter says {told[:80]!r} where its versions were asked for") from None
    return dict(sorted(versions.items()))
