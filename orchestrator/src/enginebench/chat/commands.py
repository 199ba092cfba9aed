"""What a line that begins with / does. Each returns what there is to say; a wrong one raises UsageError."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from enginebench_models.catalogue import entries

from enginebench.errors import UsageError, unknown
from enginebench.workspace import discovery

from .chat import Chat
from .choice import default_configuration

Number = TypeVar("Number", int, float)
LARGEST_TEMPERATURE = 10.0
LARGEST_SEED = 2**31


@dataclass(frozen=True)
class Command:
    """`argument`: how it is written in the list of commands; `offers`: what may be completed there."""

    argument: str
    what: str
    act: Callable[[Chat, str], str]
    offers: Callable[[], Sequence[str]] = tuple


def perform(chat: Chat, line: str) -> str:
    """Raises UsageError with the near match."""
    name, _, argument = line.strip().removeprefix("/").partition(" ")
    if name not in COMMANDS:
        raise unknown("command", f"/{name}", [f"/{known}" for known in COMMANDS])
    return COMMANDS[name].act(chat, argument.strip())


def engine_names() -> list[str]:
    """What can be asked at all on this kind of machine is said when one is chosen."""
    infos = [info for info in discovery.discover().values() if info.role == "engine"]
    return [f"{info.name}:{name}" for info in infos for name in info.configurations]


def model_names() -> list[str]:
    return list(entries())


def _engine(chat: Chat, argument: str) -> str:
    if not argument:
        infos = [info for info in discovery.discover().values() if info.role == "engine"]
        offered = ", ".join(f"{info.name}:{default_configuration(info)}" for info in infos)
        return f"now {_labels(chat)}; there are {offered}"
    chat.use_engines(argument.split())
    return f"now {_labels(chat)}; what was said stays, /reset begins anew"


def _model(chat: Chat, argument: str) -> str:
    if not argument:
        return f"now {chat.model.found.name}; the catalogue has {', '.join(model_names())}, or give a path"
    chat.use_model(argument)
    return f"now {chat.model.found.name}; what was said stays, /reset begins anew"


def _temperature(chat: Chat, argument: str) -> str:
    if argument:
        value = _number(argument, float)
        if value is None or not (math.isfinite(value) and 0 <= value <= LARGEST_TEMPERATURE):
            raise UsageError(f"/temperature {argument}: write a number from 0 to {LARGEST_TEMPERATURE:g}, like 0.7")
        chat.change(replace(chat.settings, temperature=value))
    temperature = chat.settings.temperature
    return f"temperature {temperature:g}" + (": always the likeliest token" if temperature == 0 else "")


def _seed(chat: Chat, argument: str) -> str:
    if argument == "off":
        chat.change(replace(chat.settings, seed=None))
    elif argument:
        value = _number(argument, int)
        if value is None or not 0 <= value < LARGEST_SEED:
            raise UsageError(f"/seed {argument}: write a whole number from 0 on, or off for another one each time")
        chat.change(replace(chat.settings, seed=value))
    return "another seed for each answer" if chat.settings.seed is None else f"seed {chat.settings.seed}"


def _reset(chat: Chat, argument: str) -> str:
    chat.forget()
    return "forgotten: the next question is the first one"


def _timing(chat: Chat, argument: str) -> str:
    if argument not in ("", "on", "off"):
        raise UsageError(f"/timing {argument}: write on or off")
    chat.timing = argument == "on" if argument else not chat.timing
    return "times after each answer" if chat.timing else "no times"


def _help(chat: Chat, argument: str) -> str:
    width = max(len(f"/{name} {command.argument}") for name, command in COMMANDS.items())
    lines = [f"{f'/{name} {command.argument}':<{width}}  {command.what}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "Ctrl-C stops an answer, Ctrl-D ends the chat"])


def _labels(chat: Chat) -> str:
    return " and ".join(partner.choice.label for partner in chat.partners)


def _number(text: str, kind: Callable[[str], Number]) -> Number | None:
    try:
        return kind(text)
    except ValueError:
        return None


COMMANDS = {
    "engine": Command("ENGINE[:CONFIGURATION] …", "who answers; several answer side by side", _engine, engine_names),
    "model": Command("NAME or PATH", "another model", _model, model_names),
    "temperature": Command("T", "0: always the likeliest token; higher: more surprising", _temperature),
    "seed": Command("N or off", "the same draws each time", _seed, lambda: ("off",)),
    "reset": Command("", "forget what was said", _reset),
    "timing": Command("on or off", "where the time of each answer went", _timing, lambda: ("on", "off")),
    "help": Command("", "this list", _help),
}
