"""Ten thousand stored runs: how long a question over all of them, a comparison and a history take, as a user waits."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from enginebench.errors import BenchError
from enginebench.judge.rows import rows_of
from enginebench.run.passed_on import own_environment
from enginebench.store.index import open_index
from enginebench.store.manifest import seal

from .page import Row

RUNS = 10_000
BEARABLE_SECONDS = 2.0
SQL = (
    "SELECT case_id, count(*) AS n, median(launches.tpot_ns) AS tpot_ns FROM launches "
    "JOIN cases USING (run_id, case_id) WHERE kind = 'timed' GROUP BY ALL ORDER BY ALL"
)


def store_rows(template: Path, say: Callable[[str], None], runs: int = RUNS, tries: int = 3) -> list[Row]:
    """`template`: folder of a stored run, which is copied under other ids and dates."""
    with tempfile.TemporaryDirectory(prefix="enginebench-") as folder:
        results = Path(folder)
        say(f"writing {runs} runs")
        first, last = copies(template, results, runs)
        start = time.perf_counter()
        open_index(results, rows_of).close()
        indexed = time.perf_counter() - start
        asked = {
            "enginebench query, one question over all": ["query", SQL],
            "enginebench compare of two": ["compare", first, last, "--force"],
        }
        rows = [_timed(what, [*words, "-o", "json"], results, runs, tries) for what, words in asked.items()]
    what = f"the index of {runs} runs, made once, when they are first read"
    return [*rows, Row(what=what, value=f"{indexed:.0f} s", target="", passed=True)]


def copies(template: Path, results: Path, runs: int) -> tuple[str, str]:
    """The ids of the first and the last."""
    text = (template / "result.json").read_text(encoding="utf-8")
    ids = [f"20200101-{number // 100:06}-{number % 100:04x}" for number in range(runs)]
    for run_id in ids:
        folder = results / run_id
        folder.mkdir()
        (folder / "result.json").write_text(text.replace(template.name, run_id), encoding="utf-8")
        seal(folder, run_id, ["run"], None)
    return ids[0], ids[-1]


def _timed(what: str, arguments: list[str], results: Path, runs: int, tries: int) -> Row:
    """The shortest of a few tries, with the start of Python and all imports."""
    seconds = min(_seconds([*arguments, "--results", str(results)]) for _ in range(tries))
    return Row(
        what=f"{what}, of {runs} stored runs",
        value=f"{seconds:.2f} s",
        target=f"< {BEARABLE_SECONDS:.0f} s",
        passed=seconds < BEARABLE_SECONDS,
    )


def _seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "enginebench", *arguments],
        env=own_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BenchError(f"enginebench {arguments[0]} failed in the self-test: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - start
