"""The work that may be asked for, in llama-bench's words: pp512+tg128@d4096, and lists and ranges of counts.

From text to `Workload`; what a workload costs or whether it fits is `plan.plan`. A request here has a prefill and a
decode phase, so `-p` and `-n` are multiplied with each other; llama-bench runs them one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import product

import msgspec

from enginebench.errors import UsageError, unknown
from enginebench.store.record import Workload

MOST_COUNTS = 64
"""Of one option; more is a slip of the keyboard, not a plan."""
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?:([+*])(\d+))?)?")
_NAME = re.compile(r"(?:pp(?P<pp>\d+))?(?P<and>\+)?(?:tg(?P<tg>\d+))?(?:@d(?P<d>\d+))?")


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of workloads.toml."""

    description: str
    requests: list[str]


@cache
def named() -> dict[str, Named]:
    text = (files("enginebench.plan") / "workloads.toml").read_bytes()
    return msgspec.toml.decode(text, type=dict[str, Named])


def workloads(texts: Iterable[str]) -> tuple[Workload, ...]:
    """What names like `chat` and `pp512+tg128@d4096`, or lists of them, stand for; each workload once.

    Raises UsageError with the near match.
    """
    words = [word.strip() for text in texts for word in text.split(",")]
    return _once(workload for word in words for workload in _meant(word))


def _meant(word: str) -> list[Workload]:
    if word in named():
        return [parsed(text) for text in named()[word].requests]
    if not re.match(r"(pp|tg)\d", word):
        raise unknown("workload", word, [*named(), "pp512", "tg128", "pp512+tg128", "pp512+tg128@d4096"])
    return [parsed(word)]


def parsed(name: str) -> Workload:
    """The inverse of Workload.name. `pp512` asks for the first token only; `tg128` starts from one token, as there.

    Raises UsageError.
    """
    match = _NAME.fullmatch(name.replace(" ", ""))
    if match is None or bool(match["and"]) != bool(match["pp"] and match["tg"]) or not (match["pp"] or match["tg"]):
        raise UsageError(f"workload {name!r}: write pp512, tg128, pp512+tg128 or pp512+tg128@d4096")
    workload = Workload(n_prompt=int(match["pp"] or 1), n_gen=int(match["tg"] or 1), n_depth=int(match["d"] or 0))
    if min(workload.n_prompt, workload.n_gen) < 1:
        raise UsageError(f"workload {name!r}: at least one token goes in and one comes out")
    return workload


def grid(n_prompt: Sequence[int], n_gen: Sequence[int], n_depth: Sequence[int]) -> tuple[Workload, ...]:
    """The product; depth varies slowest, so that what is compared first stands together."""
    return _once(Workload(n_prompt=p, n_gen=n, n_depth=d) for d, p, n in product(n_depth, n_prompt, n_gen))


def counts(option: str, texts: Iterable[str], least: int = 1) -> list[int]:
    """`128,512`, `a-b`, `a-b+step`, `a-b*mult`, and any list of them → the numbers, each once.

    Raises UsageError that names the option.
    """
    found = [number for text in texts for word in text.split(",") for number in _range(option, word.strip())]
    if not found:
        raise UsageError(f"{option}: no number is given; write 512, a list 128,512 or a range 128-512*2")
    if min(found) < least:
        raise UsageError(f"{option} {min(found)}: must be greater than or equal to {least}{_instead(option)}")
    unique = list(dict.fromkeys(found))
    if len(unique) > MOST_COUNTS:
        raise UsageError(f"{option} stands for more than {MOST_COUNTS} numbers: use a larger step")
    return unique


def _range(option: str, word: str) -> Iterator[int]:
    match = _RANGE.fullmatch(word)
    if match is None:
        raise UsageError(f"{option} {word!r}: write a number, a list 128,512 or a range 128-512+128 or 128-512*2")
    first, last = int(match[1]), int(match[2] or match[1])
    operator, step = match[3] or "+", int(match[4] or 1)
    if last < first or step < (2 if operator == "*" else 1) or (operator == "*" and first == 0):
        raise UsageError(f"{option} {word!r}: this range never reaches its end")
    number = first
    for _ in range(MOST_COUNTS + 1):  # one more than allowed: enough to be refused, however long it would be
        if number > last:
            return
        yield number
        number = number * step if operator == "*" else number + step


def _instead(option: str) -> str:
    alone = {"--n-prompt": "generation alone is --workload tg128", "--n-gen": "prefill alone is --workload pp512"}
    return f"; {alone[option]}" if option in alone else ""


def _once(found: Iterable[Workload]) -> tuple[Workload, ...]:
    by_name = {workload.name: workload for workload in found}
    return tuple(by_name.values())
