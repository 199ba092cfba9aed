"""`just test`: every suite in the environment it belongs to, one line each at the end.

The harness runs here; an engine's tests run in that engine's environment, with pytest laid over it. A suite that cannot
be set up is a failure unless the engine says that it cannot run on this machine. What such an engine has in tests/seam,
where its library is replaced, runs with the harness's own interpreter.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
from enginebench import discovery
from enginebench_protocol.host import default_device

ROOT = Path(__file__).resolve().parents[1]
PYTEST = "pytest==9.2.0"
HARNESS = ["protocol/tests", "models/tests", "orchestrator/tests", "tests"]


@dataclass(frozen=True)
class Suite:
    name: str
    command: list[str]
    environment: dict[str, str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", action="append", help="only the tests of this engine")
    parser.add_argument("pytest", nargs=argparse.REMAINDER, help="passed on to pytest")
    options = parser.parse_args()
    suites = engine_suites(options.engine) if options.engine else [harness(), *engine_suites(None), fidelity()]
    outcomes = [(suite.name, *run(suite, options.pytest)) for suite in suites]
    print()
    for name, code, seconds in outcomes:
        print(f"{'passed' if code == 0 else 'FAILED'}  {name}  ({seconds:.0f} s)")
    failed = sum(code != 0 for _, code, _ in outcomes)
    print(f"suites: {len(outcomes) - failed} passed, {failed} failed")
    return 1 if failed else 0


def harness() -> Suite:
    command = [sys.executable, "-m", "pytest", "-m", "not gpu and not slow", "--ignore=tests/fidelity", *HARNESS]
    return Suite("harness", command, {})


def engine_suites(names: list[str] | None) -> list[Suite]:
    suites = []
    for info in discovery.discover().values():
        tested = msgspec.structs.replace(info, programs=[])  # what a suite needs of them it skips itself
        reason = discovery.unavailable_reason(tested, None, default_device())
        if names is not None and info.name not in names:
            continue
        folder = f"packages/{info.package}"
        seam = reason is not None and (ROOT / folder / "tests/seam").is_dir()
        if seam:
            suites.append(without_library(info.package, folder))
        if reason is not None and (seam or names is None):
            print(f"not run: {info.package}{' but for tests/seam' if seam else ''}: {reason}")
            continue
        suites.append(in_environment_of(info.package, info.package, [], f"{folder}/tests"))
    return suites


def without_library(package: str, folder: str) -> Suite:
    """Tests that put a stand-in in the library's place, so that they need no environment of the engine's."""
    command = [sys.executable, "-m", "pytest", "-m", "not gpu and not slow", f"{folder}/tests/seam"]
    return Suite(f"{package}, library replaced", command, {"PYTHONPATH": f"{folder}/src"})


def fidelity() -> Suite:
    """Against Hugging Face transformers, in the environment of the engine that brings torch."""
    return in_environment_of("fidelity", "engine-torch", ["transformers==5.23.0"], "tests/fidelity")


def in_environment_of(name: str, package: str, extra: list[str], tests: str) -> Suite:
    overlay = [word for requirement in [PYTEST, *extra] for word in ("--with", requirement)]
    command = ["uv", "--quiet", "run", "--no-default-groups", "--package", package, *overlay]
    command += ["python", "-m", "pytest", "-m", "not gpu and not slow", tests]
    return Suite(name, command, {"UV_PROJECT_ENVIRONMENT": f".envs/{package}"})


def run(suite: Suite, extra: list[str]) -> tuple[int, float]:
    print(f"\n== {suite.name}", flush=True)
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    started = time.monotonic()
    done = subprocess.run([*suite.command, *extra], cwd=ROOT, env=environment | suite.environment, check=False)
    return done.returncode, time.monotonic() - started


if __name__ == "__main__":
    raise SystemExit(main())
