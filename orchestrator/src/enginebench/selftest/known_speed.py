"""The engine of known speed against itself: false verdicts with no difference, found slow-downs with one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from enginebench.errors import BenchError
from enginebench.run.passed_on import own_environment

from .page import Row
from .pairs import Injected, Subject, Tally, tally

LAUNCH_CVS = (0.01, 0.02, 0.03)
SLOWDOWNS = (0.01, 0.02, 0.05)
LARGEST_FALSE_RATE = 0.01
LEAST_DETECTION = {0.02: 0.9, 0.05: 0.9}
"""By slow-down; a smaller one is reported without a target: it lies at the edge of what counts as different."""


def false_verdicts(subject: Subject, pairs: int, launches: int, say: Callable[[str], None]) -> list[Row]:
    """A/A: `pairs` in all, spread over the launch CVs."""
    each = -(-pairs // len(LAUNCH_CVS))
    found = [tally(subject, Injected(launch_cv=cv), each, launches, 1, say)[0] for cv in LAUNCH_CVS]
    false = sum(round(t.false_rate * t.pairs) for t in found)
    total = sum(t.pairs for t in found)
    rows = [
        Row(
            what=f"false verdicts, launch CV 1-3 %, {launches} launches and more",
            value=f"{false} of {total} ({false / total:.1%})",
            target="≤ 1 % of ≥ 200",
            passed=total >= 200 and false / total <= LARGEST_FALSE_RATE,
        )
    ]
    return [*rows, *(_spread(t) for t in found)]


def _spread(found: Tally) -> Row:
    """No target: what the verdicts of equals were."""
    words = ", ".join(f"{count} {name}" for name, count in sorted(found.verdicts.items()))
    return Row(
        what=f"verdicts on equals at launch CV {found.injected.launch_cv:.0%}", value=words, target="", passed=True
    )


def detected(subject: Subject, pairs: int, launches: int, cv: float, say: Callable[[str], None]) -> list[Row]:
    """Injected slow-downs of 1, 2 and 5 %: how many pairs say SLOWER."""
    rows = []
    for slowdown in SLOWDOWNS:
        found, _ = tally(subject, Injected(slowdown, cv), pairs, launches, 2, say)
        target = LEAST_DETECTION.get(slowdown)
        rows.append(
            Row(
                what=f"a slow-down of {slowdown:.0%} found, launch CV {cv:.0%}, {launches} launches",
                value=f"{found.verdicts['SLOWER']} of {found.pairs} ({found.detection_rate:.0%})",
                target="" if target is None else f"≥ {target:.0%}",
                passed=target is None or found.detection_rate >= target,
            )
        )
    return rows


def stored_run(results: Path) -> Path:
    """The folder of a real run of two cases of ten launches each."""
    arguments = ["run", "fake", "fake:slow", "--model", "tiny", "--preset", "standard", "-n", "8", "--iterations", "2"]
    command = [sys.executable, "-m", "enginebench", *arguments, "--results", str(results), "-o", "json"]
    done = subprocess.run(command, env=own_environment(), capture_output=True, text=True, check=False)
    found = [path.parent for path in results.glob("*/result.json")]
    if not found:
        raise BenchError(f"the self-test's own run failed: {done.stderr.strip()[-300:]}")
    return found[0]
