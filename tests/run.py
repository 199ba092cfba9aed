"""`just test`: every suite in the environment it belongs to, one line each at the end.

The harness runs here, in as many processes as there are processors; what times engines from end to end, in one. An
engine's tests run in that engine's environment, with pytest laid over it, two suites at a time. A suite that cannot be
set up is a failure unless the engine says that it cannot run on this machine: then its environment is not installed,
and the end says so; what it has in tests/seam, where its library is replaced, runs with the harness's own interpreter.
`just test-engine NAME` installs the environment all the same, and runs what needs neither GPU nor program.
"""

from __future__ import annotations

import argparse
import collections
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import msgspec
from enginebench.workspace import discovery
from enginebench_protocol.host import default_device, default_threads

ROOT = Path(__file__).resolve().parents[1]
PYTEST = "pytest==9.2.0"
AT_A_TIME = 2
"""Suites of engines: each spends half of its time in one thread, compiling."""
UNTIMED = [
    "tests/conformance",
    *(
        f"tests/e2e/test_{name}.py"
        for name in (
            "bad_input",
            "beside_faults",
            "chat",
            "docs",
            "interrupts",
            "original",
            "prompt",
            "quantised",
            "shards",
        )
    ),
    "tests/faults",
    "tests/torture/test_life.py",
]
HARNESS = ["protocol/tests", "models/tests", "orchestrator/tests", *UNTIMED]
DEFAULT = ["-m", "not gpu and not slow"]


@dataclass(frozen=True)
class Suite:
    name: str
    command: list[str]
    environment: dict[str, str]
    alone: bool = False
    """It asserts times, or keeps all processors busy by itself."""


@dataclass(frozen=True)
class Outcome:
    """What came of a suite. `skipped`: reason → how many tests; none may pass for run."""

    name: str
    code: int
    seconds: float
    n_passed: int
    skipped: dict[str, int]

    def tell(self) -> None:
        verdict = "passed" if self.code == 0 else "FAILED"
        skips = f", {sum(self.skipped.values())} SKIPPED" if self.skipped else ""
        print(f"{verdict}  {self.name}  ({self.n_passed} tests{skips}, {self.seconds:.0f} s)")
        for reason, count in self.skipped.items():
            print(f"        skipped {count}: {reason}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", action="append", help="only the tests of this engine; other words go to pytest")
    options, for_pytest = parser.parse_known_args()
    if unknown := set(options.engine or ()) - set(discovery.discover()):
        parser.error(f"no engine {min(unknown)!r}; there are {', '.join(discovery.discover())}")
    left_out = not_run()
    engines = engine_suites(options.engine, left_out)
    suites = engines if options.engine else [harness(), timed(), *engines, fidelity()]
    outcomes = run_all(suites, for_pytest)
    print()
    for outcome in outcomes:
        outcome.tell()
    if options.engine:
        left_out = {}
    for package, reason in left_out.items():
        print(f"NOT RUN {package}{' but for tests/seam' if has_seam(package) else ''}: {reason}")
    failed = sum(outcome.code != 0 for outcome in outcomes)
    print(f"suites: {len(outcomes) - failed} passed, {failed} failed, {len(left_out)} not run")
    return 1 if failed else 0


def harness() -> Suite:
    spread = ["-n", str(default_threads()), "--dist", "worksteal"]
    return Suite("harness", [sys.executable, "-m", "pytest", *spread, *DEFAULT, *HARNESS], {}, alone=True)


def timed() -> Suite:
    elsewhere = [f"--ignore={path}" for path in ("tests/fidelity", *UNTIMED)]
    return Suite("timed end to end", [sys.executable, "-m", "pytest", *DEFAULT, *elsewhere, "tests"], {}, alone=True)


def engine_suites(names: list[str] | None, left_out: dict[str, str]) -> list[Suite]:
    """Of the engines named, or of all whose tests can run here."""
    infos = [info for info in discovery.discover().values() if not names or info.name in names]
    return [suite for info in infos for suite in suites_of(info, info.package not in left_out, named=bool(names))]


def suites_of(info: discovery.EngineInfo, runs_here: bool, named: bool) -> list[Suite]:
    if runs_here or (named and not has_seam(info.package)):
        suite = in_environment_of(info.package, info.package, [], info.test_extra)
        return [replace(suite, alone=info.role != "engine")]
    return [without_library(info.package)] if has_seam(info.package) else []


def has_seam(package: str) -> bool:
    return (ROOT / "packages" / package / "tests" / "seam").is_dir()


def not_run() -> dict[str, str]:
    """Package → why its tests cannot run here. A program that is missing is no reason: such tests skip themselves."""
    infos = [msgspec.structs.replace(info, programs=[]) for info in discovery.discover().values()]
    reasons = {
        info.package: discovery.unavailable_reason(info, None, default_device())
        for info in infos
        if info.test_extra is None
    }
    return {package: reason for package, reason in reasons.items() if reason is not None}


def without_library(package: str) -> Suite:
    """Tests that put a stand-in in the library's place, so that they need no environment of the engine's."""
    command = [sys.executable, "-m", "pytest", *DEFAULT, f"packages/{package}/tests/seam"]
    return Suite(f"{package}, library replaced", command, {"PYTHONPATH": f"packages/{package}/src"})


def fidelity() -> Suite:
    """Against Hugging Face transformers, in the environment of the engine that brings torch."""
    return in_environment_of("fidelity", "engine-torch", ["transformers==5.23.0"], tests="tests/fidelity")


def in_environment_of(
    name: str, package: str, requirements: list[str], extra: str | None = None, tests: str | None = None
) -> Suite:
    overlay = [word for requirement in [PYTEST, *requirements] for word in ("--with", requirement)]
    extras = ["--extra", extra] if extra else []
    command = ["uv", "--quiet", "run", "--no-default-groups", "--package", package, *extras, *overlay]
    command += ["python", "-m", "pytest", *DEFAULT, tests or f"packages/{package}/tests"]
    folder = f".envs/{package}+{extra}" if extra else f".envs/{package}"
    return Suite(name, command, {"UV_PROJECT_ENVIRONMENT": folder})


def run_all(suites: list[Suite], extra: list[str]) -> list[Outcome]:
    """In their order; those that need not be alone two at a time, each printed when it has ended."""
    alone = [suite for suite in suites if suite.alone or len(suites) == 1]
    outcomes = {suite.name: run(suite, extra) for suite in alone}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        rest = {suite.name: pool.submit(run_quietly, suite, extra) for suite in suites if suite not in alone}
        outcomes |= {name: future.result() for name, future in rest.items()}
    return [outcomes[suite.name] for suite in suites]


def run_quietly(suite: Suite, extra: list[str]) -> Outcome:
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        outcome = run(suite, extra, log)
        log.seek(0)
        print(f"\n== {suite.name}\n{log.read()}", flush=True)
    return outcome


def run(suite: Suite, extra: list[str], log: IO[str] | None = None) -> Outcome:
    """`log` takes what it prints; None: our own stdout and stderr do."""
    if log is None:
        print(f"\n== {suite.name}", flush=True)
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [*suite.command, f"--junitxml={report}", *extra]
        code = subprocess.run(
            command, cwd=ROOT, env=environment | suite.environment, stdout=log, stderr=log, check=False
        ).returncode
        n_passed, skipped = counted(report)
    return Outcome(suite.name, code, time.monotonic() - started, n_passed, skipped)


def counted(report: Path) -> tuple[int, dict[str, int]]:
    """How many tests passed, and reason → how many were skipped, from pytest's JUnit file; nothing if there is none."""
    if not report.exists():
        return 0, {}
    cases = list(ET.parse(report).getroot().iter("testcase"))
    reasons = collections.Counter(skip.get("message", "") for case in cases for skip in case.findall("skipped"))
    return sum(len(case.findall("*")) == 0 for case in cases), dict(reasons)


if __name__ == "__main__":
    raise SystemExit(main())
