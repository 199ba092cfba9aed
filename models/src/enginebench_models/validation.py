"""The parent's side of validate.py: a process that may die reads a model file first.

Whatever becomes of that process is an answer: facts, or a ModelError with the rule that was broken.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginebench_models.errors import InvalidModel, UnsupportedModel
from enginebench_models.validate import LIMIT_SECONDS

MAX_ANSWER_BYTES = 1 << 20
PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
NO_MODEL_RULES = ("no-such-path", "no-weights", "not-a-model", "missing-file")
"""Rules that say that there is nothing to read, not that something read is wrong."""


@dataclass(frozen=True)
class Verdict:
    """`kind`: "valid", "invalid" or "unsupported"; `rule` and `message` are empty for a valid model."""

    kind: str
    rule: str
    message: str
    facts: dict[str, Any]


def validate_path(path: Path) -> Verdict:
    """Never raises for what a file holds."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "enginebench_models.validate", str(path), str(os.getpid())],
            capture_output=True,
            env=environment(),
            stdin=subprocess.DEVNULL,
            timeout=LIMIT_SECONDS + 5,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Verdict(
            "invalid", "time", f"{path} takes more than {LIMIT_SECONDS} s to check; no sound model does.", {}
        )
    return read_answer(path, done)


def environment() -> dict[str, str]:
    """NumPy's library would reserve addresses for a thread per core, which count against the limit."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {**passed, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def read_answer(path: Path, done: subprocess.CompletedProcess[bytes]) -> Verdict:
    try:
        facts = json.loads(done.stdout[:MAX_ANSWER_BYTES])
        return Verdict(facts["verdict"], facts["rule"] or "", facts["message"] or "", facts)
    except (ValueError, KeyError, TypeError):
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
        rule = "time" if done.returncode in (-14, -24) else "validator-died"  # SIGALRM, SIGXCPU
        message = f"the check of {path} ended with {done.returncode} and no answer: {last[0][:300]}"
        return Verdict("invalid", rule, message, {})


def refuse_hostile(path: Path) -> None:
    """Raises InvalidModel or UnsupportedModel for a file that is broken.

    Passes where there is no model to read at all, which the caller has better words for (another name, another type).
    """
    if not path.exists():
        return
    found = validate_path(path)
    if found.kind == "invalid" and found.rule not in NO_MODEL_RULES:
        raise InvalidModel(found.message, found.rule)
    if found.kind == "unsupported" and found.rule.startswith("gguf-"):  # a version that is not read
        raise UnsupportedModel(found.message, found.rule)
