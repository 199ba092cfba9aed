"""`just test`: every suite in the environment it belongs to, one line each at the end.

The harness runs here; an engine's tests run in that engine's environment, with pytest laid over it. A suite that cannot
be set up is a failure unless the engine says that it cannot run on this machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

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
        reason = None if info.test_extra else discovery.unavailable_reason(info, None, default_device())
        if names is not None and info.name not in names:
            continue
        if reason is not None and names is None:
            print(f"not run: {info.package}: {reason}")
            continue
        suites.append(in_environment_of(info.package, info.package, [], info.test_extra))
    return suites


def fidelity() -> Suite:
    """Against Hugging Face transformers, in the environment of the engine that brings torch."""
    return in_environment_of("fidelity", "engine-torch", ["transformers==5.23.0"], tests="tests/fidelity")


def in_environment_of(
    name: str, package: str, requirements: list[str], extra: str | None = None, tests: str | None = None
) -> Suite:
    overlay = [word for requirement in [PYTEST, *requirements] for word in ("--with", requirement)]
    extras = ["--extra", extra] if extra else []
    command = ["uv", "--quiet", "run", "--no-default-groups", "--package", package, *extras, *overlay]
    command += ["python", "-m", "pytest", "-m", "not gpu and not slow", tests or f"packages/{package}/tests"]
    folder = f".envs/{package}+{extra}" if extra else f".envs/{package}"
    return Suite(name, command, {"UV_PROJECT_ENVIRONMENT": folder})


def run(suite: Suite, extra: list[str]) -> tuple[int, float]:
    print(f"\n== {suite.name}", flush=True)
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    started = time.monotonic()
    done = subprocess.run([*suite.command, *extra], cwd=ROOT, env=environment | suite.environment, check=False)
    return done.returncode, time.monotonic() - started


if __name__ == "__main__":
    raise SystemExit(main())
