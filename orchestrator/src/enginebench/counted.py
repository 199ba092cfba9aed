"""A number and what it counts, as it is said: 1 launch, 2 launches."""

from __future__ import annotations


def counted(count: float, noun: str) -> str:
    number = f"{count:g}" if isinstance(count, float) else str(count)
    return f"{number} {noun}" if count == 1 else f"{number} {_several(noun)}"


def _several(noun: str) -> str:
    return f"{noun}es" if noun.endswith(("s", "ch")) else f"{noun}s"
