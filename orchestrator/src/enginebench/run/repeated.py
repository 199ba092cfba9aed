"""A prompt asked again, in the check launch: for the audits of `judge.audits`.

The pilot's prompt once more. Only if that comes suspiciously soon, further pairs of a new prompt and its repeat are
asked, so that noise is not taken for a cache.
"""

from __future__ import annotations

from collections.abc import Callable

from enginebench.judge.audits import settled
from enginebench.store.record import Request

Ask = Callable[[int, bool], Request]
"""ask(iteration, repeat)"""


def ask_again(pilot: Request, ask: Ask) -> None:
    distinct, repeats = [pilot], [ask(pilot.iteration, True)]
    while not settled(distinct, repeats):
        iteration = pilot.iteration + len(repeats)
        distinct.append(ask(iteration, False))
        repeats.append(ask(iteration, True))
