"""The command line as a user runs it, with a cache and results of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose cache is fresh: no model, no reference, no kernel. uv keeps its own: packages stay."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    packages = os.environ.get("UV_CACHE_DIR") or str(caches / "uv")
    fresh = str(tmp_path_factory.mktemp("cache"))
    return {**os.environ, "XDG_CACHE_HOME": fresh, "UV_CACHE_DIR": packages, "COLUMNS": "160"}


@pytest.fixture(scope="session")
def cli(home: dict[str, str]) -> Cli:
    def call(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "enginebench", *arguments]
        return subprocess.run(command, env=home, capture_output=True, text=True, timeout=timeout, check=False)

    return call


@pytest.fixture
def run(cli: Cli, tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """run(*arguments) → (exit code, result, stderr), on the tiny model at the smallest size."""

    def call(*arguments: str) -> tuple[int, dict[str, Any], str]:
        results = tmp_path / "runs"
        small = ["--model", "tiny", "--preset", "smoke", "--results", str(results), "-o", "json"]
        done = cli("run", *arguments, *small)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout), done.stderr

    return call
