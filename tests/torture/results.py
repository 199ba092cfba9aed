"""`just torture-results`: everything that a disk, a kill or a loss of power may do to the results of a run.

Loss of power in every operation of a small run, and in every operation of resuming what some of those left; every
operation failing, in three ways; and real runs that are killed with SIGKILL at a random moment, and killed again while
they are resumed. Each is resumed in the end. The tally is JSON; a finding makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402
from enginebench.errors import UsageError  # noqa: E402
from enginebench.store.journal import read_journal  # noqa: E402
from enginebench.store.manifest import broken_seals, read_manifest  # noqa: E402

from orchestrator.tests.crashes import FAULTS, Crashes, Tally  # noqa: E402
from orchestrator.tests.small_run import SmallRun  # noqa: E402

REAL = ["fake", "--model", "tiny", "--preset", "smoke"]
WHOLE_SECONDS = 120.0
AT_WORK = 0.8
"""Share of kills that wait until the journal is written; the others fall on the set-up too."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nested", type=int, default=20, help="states whose resumption loses its power too")
    parser.add_argument("--kills", type=int, default=40, help="of real runs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="where to write the tally")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        tallies = simulated(Path(scratch), options.nested, options.seed)
        tallies["killed"] = killed(Path(scratch) / "real", options.kills, options.seed)
    findings = [finding for tally in tallies.values() for finding in tally.findings]
    for name, tally in tallies.items():
        shown(name, tally)
    print("\n".join(findings[:20]))
    facts = {**{name: asdict(tally) for name, tally in tallies.items()}, "seconds": round(time.monotonic() - started)}
    if options.output:
        options.output.write_text(json.dumps(facts, indent=1) + "\n")
    return 1 if findings else 0


def shown(name: str, tally: Tally) -> None:
    facts = {key: value for key, value in asdict(tally).items() if key != "findings" and value}
    print(f"{name:<24}", ", ".join(f"{key} {value}" for key, value in facts.items()), f"findings {len(tally.findings)}")


def simulated(scratch: Path, nested: int, seed: int) -> dict[str, Tally]:
    with pytest.MonkeyPatch.context() as patch:
        crashes = Crashes(SmallRun(patch, scratch / "cache"), scratch / "disks")
        tallies = {"power": Tally(), "power while resuming": Tally()}
        tallies["power"], left = crashes.loss_of_power()
        begun = [tree for tree in left if any(name.endswith("journal") for name in tree)]
        for number, tree in enumerate(random.Random(seed).sample(begun, min(nested, len(begun)))):
            tallies["power while resuming"].add(crashes.loss_of_power(tree, f"power, resuming {number}")[0])
        for fault in FAULTS:
            tallies[fault] = Tally()
            for number in range(crashes.operations):
                tallies[fault].add(crashes.failure(fault, number))
    return tallies


# ---- real processes -------------------------------------------------------------------------------------------


def killed(results: Path, kills: int, seed: int) -> Tally:
    """`tried`: kills; `states`: runs that they fell on."""
    dice, tally = random.Random(seed), Tally()
    while tally.tried < kills:
        run = results / str(tally.states)
        tally.states += 1
        tally.note(_killed_run(run, dice, tally), f"run {tally.states}")
    return tally


def _killed_run(results: Path, dice: random.Random, tally: Tally) -> str | None:
    """Killed up to four times, then resumed to its end."""
    safe: list[Any] = []
    for _ in range(4):
        process = started(results)
        if dice.random() < AT_WORK:
            until_at_work(process, results)
        try:
            process.wait(dice.uniform(0.0, 4.0))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            tally.tried += 1
        if (folder := folder_of(results)) is not None:
            found = places(folder)
            if found[: len(safe)] != safe:
                return f"lost: {len(safe)} launches were safe, {len(found)} are read"
            safe = found
    return _ended(results, safe, tally)


def _ended(results: Path, safe: list[Any], tally: Tally) -> str | None:
    if folder_of(results) is None:
        tally.anew += 1
        return "lost: the journal" if safe else None
    if code := started(results).wait(WHOLE_SECONDS):
        return f"not resumed: exit code {code}"
    tally.resumed += 1
    folder = folder_of(results)
    assert folder is not None
    manifest, found = read_manifest(folder), places(folder)
    if found[: len(safe)] != safe or len({place[:2] for place in found}) != 4:
        return f"lost: {len(safe)} launches were safe, at the end there are {len(found)}"
    if manifest is None or broken_seals(folder, manifest):
        return "half: it has ended, and its seal does not hold"
    return None


def started(results: Path) -> subprocess.Popen[bytes]:
    """A run, or the rest of the one that is there."""
    folder = folder_of(results)
    words = ["run", *REAL, "--results", str(results)] if folder is None else ["run", "--resume", str(folder)]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": {**os.environ, "COLUMNS": "120"}}
    return subprocess.Popen([sys.executable, "-m", "enginebench", *words], **quiet)


def until_at_work(process: subprocess.Popen[bytes], results: Path) -> None:
    """It writes the journal, or has ended."""
    while process.poll() is None:
        folder = folder_of(results)
        if folder is not None and read_journal(folder / "journal").pid == process.pid:
            return
        time.sleep(0.02)


def folder_of(results: Path) -> Path | None:
    """Of the run whose journal has a beginning."""
    for path in results.glob("*/journal"):
        try:
            read_journal(path)
        except UsageError:
            continue
        return path.parent
    return None


def places(folder: Path) -> list[Any]:
    """(case, kind, …) of each launch."""
    return [launch.place for launch in read_journal(folder / "journal").launches]


if __name__ == "__main__":
    raise SystemExit(main())
