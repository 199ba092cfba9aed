"""A run that goes on: what was asked of it, what is measured already, and whether this is still the same experiment.

Its journal says all of it. The plan is made again and gone through from its beginning; a launch that stands in the
journal is taken from there. Since a run decides by its launches alone, it comes by the same way to where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from enginebench.errors import UsageError
from enginebench.judge.assemble import CaseFacts
from enginebench.store import files
from enginebench.store.journal import Journal, Journalled
from enginebench.store.manifest import broken_seals, read_manifest
from enginebench.store.result import read_result
from enginebench.store.run_folder import JOURNAL, RESULT, find_run

from .request import RunRequest, from_journal

SAME = ("cpu.model", "cpu.allowed", "gpus", "kernel", "python", "energy_counters", "repository.commit")
"""Facts of the machine and of the checkout that must be those of the beginning."""
UNKNOWN_CHANGES = "the checkout has changes that no commit holds: whether they are those of the beginning is not known"


@dataclass
class Begun:
    """A run that was begun. It holds the journal, so that nobody else goes on with it meanwhile: use as a context
    manager.
    """

    folder: Path
    journal: Journal
    content: Journalled
    request: RunRequest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.journal.close()

    @property
    def run_id(self) -> str:
        return str(self.content.header["run_id"])

    @property
    def environment(self) -> dict[str, Any]:
        found: dict[str, Any] = self.content.header["environment"]
        return found

    @property
    def models(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.content.header["plan"]["models"]
        return found

    @property
    def cases(self) -> list[CaseFacts]:
        return msgspec.convert(self.content.header["cases"], list[CaseFacts])

    @property
    def finished(self) -> bool:
        """Whether it ended by itself, and its files are those that it wrote."""
        manifest = read_manifest(self.folder)
        if manifest is None or broken_seals(self.folder, manifest):
            return False
        return not read_result(self.folder / RESULT, sealed=True)["plan"].get("interrupted", False)


def find_begun(name: str, results: Path, debug: bool = False) -> Begun:
    """`name`: as `find_run` takes it.

    Raises UsageError: no such run, in use, or of an older enginebench. Raises StorageError.
    """
    folder = find_run(name, results)
    path = folder / JOURNAL
    if not path.is_file():
        raise UsageError(f"{folder.name} has no journal: only a run's own folder can be resumed")
    try:
        journal, content = Journal.reopen(path)
    except OSError as error:
        raise files.failed(error, f"open the {JOURNAL}", folder) from error
    try:
        if "asked" not in content.header:
            raise UsageError(f"{folder.name} was begun by an older enginebench, which kept too little: run it again")
        return Begun(folder, journal, content, from_journal(content.header["asked"], folder.parent, debug))
    except BaseException:
        journal.close()
        raise


def refuse_other(
    begun: Begun, environment: Mapping[str, Any], models: Sequence[Mapping[str, Any]], cases: Sequence[CaseFacts]
) -> None:
    """Raises UsageError unless what was measured and what would be measured now are one experiment."""
    found = [
        *_other_machine(begun.environment, environment),
        *_other_models(begun.models, models),
        *_other_cases(begun.cases, cases),
    ]
    if found:
        raise UsageError(f"{begun.run_id} cannot go on: {'; '.join(found)}. What it has measured stays; run again")


def remarks(begun: Begun, environment: Mapping[str, Any]) -> list[str]:
    """What does no certain harm, and is kept beside the result."""
    dirty = [_at(facts, "repository.dirty") for facts in (begun.environment, environment)]
    lost = [f"{JOURNAL} {damage}; left out" for damage in begun.content.damaged]
    return [*([UNKNOWN_CHANGES] if any(dirty) else []), *lost]


def _other_machine(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    pairs = ((name, _at(before, name), _at(now, name)) for name in SAME)
    return [f"{name} was {then}, and is {today}" for name, then, today in pairs if then != today]


def _at(facts: Mapping[str, Any], name: str) -> Any:
    found: Any = facts
    for part in name.split("."):
        found = found.get(part) if found else None
    return found


def _other_models(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    prints = {model["name"]: model["fingerprint"] for model in now}
    return [
        f"the model {model['name']} has other weights than at the beginning"
        for model in before
        if prints.get(model["name"]) != model["fingerprint"]
    ]


def _other_cases(before: Sequence[CaseFacts], now: Sequence[CaseFacts]) -> list[str]:
    if [facts.case for facts in before] != [facts.case for facts in now]:
        return ["its cases are not those of the beginning: the table of an engine has changed"]
    return [text for pair in zip(before, now, strict=True) if (text := _other_case(*pair))]


def _other_case(before: CaseFacts, now: CaseFacts) -> str | None:
    """A case that could not run at the beginning is left out to the end."""
    if before.unavailable is not None:
        return None
    if now.unavailable is not None:
        return f"{now.case.label} could run at the beginning, now it cannot: {now.unavailable}"
    if before.pins_sha256 != now.pins_sha256:
        return f"the pins of {now.case.label} have changed"
    changed = sorted(dict(before.versions.items() ^ now.versions.items()))
    return f"{now.case.label} has other versions of {', '.join(changed[:5])}" if changed else None
