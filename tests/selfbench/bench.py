"""What every part of the self-measurement needs: contenders that take turns, ratios, rows of the page."""

from __future__ import annotations

import statistics
import tomllib
from dataclasses import dataclass
from pathlib import Path

from enginebench.errors import UnavailableError
from enginebench.workspace import discovery, environment
from enginebench.workspace.environment import Interpreter
from enginebench_models.store import locate
from enginebench_protocol.host import default_threads
from side_by_side import Contender, Ready, side_by_side

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Row:
    """One measured statement. `target` is what was asked for, in words; `passed` whether the value reaches it."""

    what: str
    value: str
    target: str
    passed: bool


class Bench:
    """The models and interpreters that the parts share."""

    def __init__(self, rounds: int, n_gen: int) -> None:
        self.rounds = rounds
        self.n_gen = n_gen
        self.threads = default_threads()
        self.model = locate("llama3-1b").path
        self.infos = discovery.discover()
        self.versions: dict[str, str] = {}
        """What was compared, as the pins have it."""

    def interpreter(self, engine: str) -> Interpreter:
        info = self.infos[engine]
        if reason := discovery.unavailable_reason(info, None, "cpu"):
            raise UnavailableError(f"{info.name}: {reason}")
        dependencies = tomllib.loads((Path(info.folder) / "pyproject.toml").read_text())["project"]["dependencies"]
        self.versions |= dict(pin.split("==") for pin in dependencies if "==" in pin)
        return environment.prepare(info, {}, print)

    def contender(self, engine: str, configuration: str) -> Contender:
        python = self.interpreter(engine).python
        command = [str(python), "-m", self.infos[engine].module]
        return Contender(f"{engine}:{configuration}", engine, command, configuration)

    def duel(self, *contenders: Contender, n_prompt: int = 16) -> list[Ready]:
        return side_by_side(
            contenders, self.model, n_prompt=n_prompt, n_gen=self.n_gen, rounds=self.rounds, threads=self.threads
        )


def ratio_row(ours: Ready, theirs: Ready, target: float, ceiling: Ready | None = None) -> Row:
    """`ceiling`: an engine that does nothing but read the weights, whose ratio no other can exceed."""
    ratio = paired_ratio(ours, theirs)
    what = f"decode {ours.contender.label} ÷ {theirs.contender.label}"
    value = f"{ratio:.2f} ({ours.decode_tps:.2f} ÷ {theirs.decode_tps:.2f} tok/s)"
    if ceiling is not None:
        value += f"; {ceiling.contender.label} would be {paired_ratio(ceiling, theirs):.2f}"
    return Row(what, value, f"≥ {target}", ratio >= target)


def paired_ratio(ours: Ready, theirs: Ready) -> float:
    """Median over the rounds of the ratio within a round: what drifts from round to round cancels out."""
    return statistics.median(
        (b.tpot_ns or 0) / (a.tpot_ns or 1) for a, b in zip(ours.timings, theirs.timings, strict=True)
    )
