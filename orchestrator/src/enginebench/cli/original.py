"""The words of the original suite, on the root command: read, and said again as commands of today.

`enginebench --benchmark --framework pytorch --iterations 10` is `enginebench run torch:optimized --iterations 10`. What
is not known here is handed on: it may be an option of the command. Nothing is run. docs/user-guide.md has the table,
"Coming from the original suite".
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

from enginebench_protocol.host import default_device

from enginebench.errors import UsageError, unknown
from enginebench.workspace.discovery import EngineInfo, find_engine
from enginebench.workspace.selection import WITHOUT, Selection, fairest, labels, one_able, selected

from .basics import DEFAULT_MODEL

ROOT_OPTIONS = ("--help", "--version", "--install-completion", "--show-completion")
"""What the root command understands itself."""
NEAR = 0.8
_WITHOUT = re.compile(rf"--(?P<engine>.+)-(?P<what>{'|'.join(WITHOUT)})")

Engines = Mapping[str, EngineInfo]


def is_original(words: Sequence[str], interactive: bool) -> bool:
    """Do these words begin with an option of the original suite? Without any word a terminal is asked and answered."""
    return words[0].startswith("-") and not set(words) & set(ROOT_OPTIONS) if words else interactive


def translated(words: Sequence[str], engines: Engines) -> list[list[str]]:
    """The commands that do what these words ask for, in order. Raises UsageError."""
    asked, rest = _parser().parse_known_args(_generic(words, engines))
    _refuse_mistyped(rest)
    pull = [_pull(asked)] if asked.download else []
    if asked.prompt is not None and asked.benchmark:
        raise UsageError("--prompt answers, --benchmark measures: choose one")
    if asked.benchmark:
        return [*pull, [*_benchmark(asked, engines), *rest]]
    _refuse_without_benchmark(asked)
    if asked.prompt is not None:
        return [*pull, [*_prompt(asked, engines), *_answering(asked), *rest]]
    return pull or [["chat", *_who(asked, engines), *_answering(asked), *rest]]


def spelled_out(words: Sequence[str], engines: Engines) -> list[str]:
    """Words of `run`: --quantize int8 nf4 → --quantize int8,nf4, and --NAME-no-compile → --no-compile NAME."""
    words = _generic(words, engines)
    for at in reversed([i + 1 for i, word in enumerate(words) if word == "--quantize"]):
        several = list(itertools.takewhile(lambda word: not _is_another_thing(word, engines), words[at:]))
        words[at : at + len(several)] = [",".join(several)] if several else []
    return words


def _is_another_thing(word: str, engines: Engines) -> bool:
    """An option, or an engine: no quantisation."""
    names = {"all", *engines, *(alias for info in engines.values() for alias in info.aliases)}
    return word.startswith("-") or word.partition(":")[0] in names


def _generic(words: Sequence[str], engines: Engines) -> list[str]:
    """--pytorch-no-half → --no-half torch, for whatever engine has that name or alias."""
    found: list[str] = []
    for word in words:
        match = _WITHOUT.fullmatch(word)
        found += [f"--{match['what']}", find_engine(match["engine"], engines).name] if match else [word]
    return found


class _Parser(argparse.ArgumentParser):
    """Complains as every command does."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (all words: enginebench --help, docs/user-guide.md)")


def _parser() -> argparse.ArgumentParser:
    """Values stay text: the command that gets them checks them."""
    parser = _Parser(prog="enginebench", add_help=False, allow_abbrev=False)
    for flag in ("--benchmark", "--download", "--timing", "--profile", "--debug"):
        parser.add_argument(flag, action="store_true")
    for option in ("--prompt", "--model", "--model-type", "--iterations", "--shard", "--temperature", "--seed"):
        parser.add_argument(option)
    parser.add_argument("--model-path", dest="model")
    for several in ("--framework", "--quantize"):
        parser.add_argument(several, nargs="+", default=[])
    for without in WITHOUT:
        parser.add_argument(f"--{without}", action="append", default=[])
    parser.add_argument("--fair-comparison", action=argparse.BooleanOptionalAction, default=True)
    return parser


def _refuse_mistyped(rest: Sequence[str]) -> None:
    """What is nearly one of ours is not handed on."""
    own = [option for action in _parser()._actions for option in action.option_strings]
    for word in rest:
        if word.startswith("--") and difflib.get_close_matches(word.partition("=")[0], own, n=1, cutoff=NEAR):
            raise unknown("option", word, own)


def _refuse_without_benchmark(asked: argparse.Namespace) -> None:
    given = {"--iterations": asked.iterations, "--no-fair-comparison": not asked.fair_comparison}
    for option, is_given in given.items():
        if is_given:
            raise UsageError(f"{option} is about a benchmark: add --benchmark, or leave it out")


def _pull(asked: argparse.Namespace) -> list[str]:
    return ["models", "pull", asked.model or DEFAULT_MODEL]


def _benchmark(asked: argparse.Namespace, engines: Engines) -> list[str]:
    """`run`: in a fair comparison one configuration of each engine, named; else the command says what it does."""
    names, quantise = _names(asked.framework) or ("all",), _names(asked.quantize)
    if asked.fair_comparison and not quantise:
        words = ["run", *labels(selected(Selection(fairest(names, engines), without=_without(asked)), engines))]
    else:
        unfair = [] if asked.fair_comparison else ["--no-fair-comparison"]
        bare = [word for name, option in _without(asked) for word in (f"--{option}", name)]
        words = ["run", *names, *unfair, *(["--quantize", ",".join(quantise)] if quantise else []), *bare]
    return [*words, *_given(asked, "model", "model_type", "iterations", "shard", "temperature", "seed"), *_flags(asked)]


def _answering(asked: argparse.Namespace) -> list[str]:
    """Options that `chat` and `prompt` share."""
    return [*_given(asked, "model", "model_type", "shard", "temperature", "seed"), *_flags(asked)]


def _prompt(asked: argparse.Namespace, engines: Engines) -> list[str]:
    answering = _who(asked, engines)
    if len(answering) > 1:
        raise UsageError(f"{', '.join(answering)}: one of them answers a prompt, several answer in a chat")
    return ["prompt", asked.prompt, *(word for label in answering for word in ("--engine", label))]


def _who(asked: argparse.Namespace, engines: Engines) -> list[str]:
    """What answers: nothing named, or an engine alone, leaves it to the command to choose."""
    without, quantise = _without(asked), _names(asked.quantize)
    names = _names(asked.framework) or tuple(name for name, _ in without) or (("all",) if quantise else ())
    if not (without or quantise):
        return [name if ":" in name else find_engine(name, engines).name for name in names]
    wishes = [wish for name in names for wish in _wishes(name, quantise, without, engines)]
    return list(dict.fromkeys(one_able(selected(wish, engines), default_device()) for wish in wishes))


def _wishes(
    name: str, quantise: Sequence[str], without: tuple[tuple[str, str], ...], engines: Engines
) -> list[Selection]:
    """One for each configuration that is to answer."""
    own = name if name == "all" else find_engine(name.partition(":")[0], engines).name
    of_it = tuple(each for each in without if own in ("all", each[0]))
    if quantise:
        return [Selection((name,), quantisations=(quantisation,), without=of_it) for quantisation in quantise]
    return [Selection(fairest([name], engines), without=of_it)]


def _names(several: Sequence[str]) -> tuple[str, ...]:
    """Words, or words with commas between them."""
    return tuple(name for word in several for name in word.split(",") if name)


def _without(asked: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    return tuple((name, option) for option in WITHOUT for name in getattr(asked, option.replace("-", "_")))


def _given(asked: argparse.Namespace, *names: str) -> list[str]:
    """The options among these that were typed, with their values."""
    given = [(name, getattr(asked, name)) for name in names]
    return [word for name, value in given if value is not None for word in (f"--{name.replace('_', '-')}", value)]


def _flags(asked: argparse.Namespace) -> list[str]:
    return [f"--{name}" for name in ("timing", "profile", "debug") if getattr(asked, name)]
