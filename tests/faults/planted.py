"""Defects for the harness to find, planted in the process of one injection: a program that writes what was found.

Each function spoils the product, or the child, in the process that it runs in, which is then thrown away.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import inject
import msgspec
from enginebench.run import launch, process
from enginebench.store.record import Failure
from matrix import Injection
from torture import new_mark, shown_process, strays, torture

EXITS, LEAVES = Injection("decode", "exit 3"), Injection("decode", "grandchild, own session")


def main() -> None:
    """Plant → what the harness objected to."""
    found = {}
    for plant, injection in PLANTS.items():
        mark = new_mark()
        (outcome,) = torture([injection], 1, mark, plant)
        found[plant.__name__] = outcome.wrong
        for stray in strays(mark):
            found[plant.__name__].append(f"stray: {shown_process(stray).partition(' ')[0]}")
            stray.kill()
    print(json.dumps(found))


def nothing() -> None:
    """The control of the controls."""


def another_signal() -> None:
    _misdeed("segfault")


def no_fault() -> None:
    _misdeed("none")


def another_reason() -> None:
    _failures(lambda failure: msgspec.structs.replace(failure, reason="hang"))


def another_stage() -> None:
    _failures(lambda failure: msgspec.structs.replace(failure, stage="load"))


def descriptor_kept() -> None:
    _failures(lambda failure: (os.dup(0), failure)[1])


def thread_kept() -> None:
    def keep(failure: Failure) -> Failure:
        threading.Thread(target=threading.Event().wait, args=(5.0,), daemon=True).start()
        return failure

    _failures(keep)


def folder_kept() -> None:
    _failures(lambda failure: (tempfile.mkdtemp(), failure)[1])


def raises() -> None:
    def fail(failure: Failure) -> Failure:
        raise KeyError("a bug of the orchestrator")

    _failures(fail)


def nothing_swept() -> None:
    process.sweep_descendants = lambda *_, **__: []


PLANTS: dict[Callable[[], None], Injection] = {
    **dict.fromkeys((nothing, another_signal, no_fault, another_reason, another_stage), EXITS),
    **dict.fromkeys((descriptor_kept, thread_kept, folder_kept, raises), EXITS),
    nothing_swept: LEAVES,
}


def _misdeed(name: str) -> None:
    sound = inject.Bench.inject
    inject.Bench.inject = lambda bench, injection: sound(bench, injection, name)  # type: ignore[method-assign]


def _failures(change: Callable[[Failure], Failure]) -> None:
    sound: Any = launch.failure_of
    launch.failure_of = lambda *args, **kwargs: change(sound(*args, **kwargs))


if __name__ == "__main__":
    main()
