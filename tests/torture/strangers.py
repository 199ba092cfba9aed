"""`just torture-strangers`: names, paths and chat templates of strangers, thrown by a seeded dice.

What must not happen: a name that is accepted and is more than a name, a path that leads out of its folder, a template
that reaches what no template may, takes longer or more than its limits, or leaves a process.
The tally is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from enginebench_models.chat_template import Limits, rendered  # noqa: E402
from enginebench_models.errors import InvalidModel  # noqa: E402
from enginebench_models.plain_name import Stray, is_plain, own_file  # noqa: E402


def words(text: str) -> list[str]:
    return text.split()


LETTERS = [*"aZ09._-~/\\\0\n ", "..", "C:", "nul", "con.", "%2e", "é", "\u202e", "\ud800", ".gguf"]
STEPS = [*words(". .. file sub deep inner outer way ring pipe secret own own-not"), "\0", ""]
LIMITS = Limits(cpu_seconds=1, wall_seconds=20.0)
CANARY = "canary7f3a"
OURS = r"dict|range|jinja2\.utils\.(?:Cycler|Joiner|Namespace)"
REACHED = re.compile(rf"{CANARY}|root:x:|<class '(?!(?:{OURS})')|<module|<frame|<code object")
"""What only those see who got out of the sandbox."""

ATOMS = words(
    "messages messages[0] '' '{0.__class__}' () {} 1 10**9 none self loop caller m cycler joiner() namespace "
    "namespace(a=1) dict range range(99999) raise_exception lipsum"
)
NAMES = words(
    "__class__ __mro__ __base__ __subclasses__ __init__ __globals__ __builtins__ __getattribute__ __import__ __self__ "
    "__func__ __code__ __dict__ __reduce__ gi_frame f_globals mro format format_map items environment os popen read "
    "update append join upper a next"
)
ENDS = words(
    ".{n} ['{n}'] |attr('{n}') .{n}() .{n}({a}) |map(attribute='{n}')|list |map('attr','{n}')|list ({a}) [{a}] [0] "
    "|list |string |tojson |length *10**8 *{a} ~{a} |join({a}) |format({a}) .format({a}) |groupby('{n}') "
    "|sum(attribute='{n}') |center(10**8) |batch(9)|list |pprint"
)
FRAMES = [
    "{{{{ {e} }}}}",
    "{{% set x = {e} %}}{{{{ x }}}}",
    "{{% if {e} %}}{{{{ {e} }}}}{{% endif %}}",
    "{{% with m = {e} %}}{{{{ m }}}}{{% endwith %}}",
    "{{% for m in {e} %}}{{{{ m }}}}{{{{ {e} }}}}{{% endfor %}}",
    "{{% for a in range(99999) %}}{{% for m in {e} %}}{{{{ a }}}}{{% endfor %}}{{% endfor %}}",
    "{{% macro f() %}}{{{{ {e} }}}}{{{{ f() }}}}{{% endmacro %}}{{{{ f() }}}}",
    "{{% call {e} %}}{{% endcall %}}",
    "{{% include {e} %}}",
    "{{% import {e} as m %}}{{{{ m }}}}",
]


@dataclass
class Tally:
    """`accepted`: names and paths taken, templates that gave a text."""

    tried: int = 0
    accepted: int = 0
    refused: int = 0
    slowest_cpu_s: float = 0.0
    wrong: list[str] = field(default_factory=list)


def names(dice: random.Random, count: int) -> Tally:
    tally = Tally()
    for _ in range(count):
        name = "".join(dice.choices(LETTERS, k=dice.randrange(8)))
        kept = is_plain(name)
        tally.tried, tally.accepted, tally.refused = tally.tried + 1, tally.accepted + kept, tally.refused + (not kept)
        if kept and not is_only_a_name(name):
            tally.wrong.append(ascii(name))
    return tally


def is_only_a_name(name: str) -> bool:
    pure = PurePosixPath(name), PureWindowsPath(name)
    alone = all((path.name, path.anchor, len(path.parts)) == (name, "", 1) for path in pure)
    return alone and name.isascii() and name.isprintable() and name[0] not in ".-" and os.path.normpath(name) == name


def paths(dice: random.Random, count: int, base: Path) -> Tally:
    own, tally = tree(base), Tally()
    for _ in range(count):
        told = "/".join([str(own), *dice.choices(STEPS, k=dice.randrange(8))])
        tally.tried += 1
        try:
            found = own_file(told, own, "it")
        except Stray:
            tally.refused += 1
            continue
        tally.accepted += 1
        if found.read_text() != "mine":
            tally.wrong.append(ascii(told))
    return tally


def tree(base: Path) -> Path:
    own, other = base / "own", base / "own-not"
    (own / "sub").mkdir(parents=True)
    other.mkdir()
    (own / "file").write_text("mine")
    (own / "sub" / "deep").write_text("mine")
    (other / "secret").write_text("secret")
    for link, target in {"inner": own / "sub" / "deep", "outer": other / "secret", "way": other}.items():
        (own / link).symlink_to(target)
    (own / "ring").symlink_to(own / "ring")
    os.mkfifo(own / "pipe")
    return own


def templates(dice: random.Random, count: int) -> Tally:
    tally = Tally()
    os.environ["CANARY"] = CANARY
    for _ in range(count):
        template = dice.choice(FRAMES).format(e=expression(dice))
        before, text = cpu_seconds(), ""
        try:
            text = rendered(template, [{"role": "user", "content": "Hi"}], "<s>", "</s>", LIMITS)
            tally.accepted += 1
        except InvalidModel as error:
            tally.refused += 1
            text = str(error)
        except Exception as error:  # noqa: BLE001 - nothing else may come
            tally.wrong.append(f"{template}: {type(error).__name__}: {error}")
        spent = cpu_seconds() - before
        tally.tried += 1
        tally.slowest_cpu_s = round(max(tally.slowest_cpu_s, spent), 2)
        if REACHED.search(text) or spent > 2 * LIMITS.cpu_seconds + 1 or psutil.Process().children():
            tally.wrong.append(f"{template}: {spent:.1f} s: {text[:200]}")
    return tally


def expression(dice: random.Random) -> str:
    told = dice.choice(ATOMS)
    for _ in range(dice.randrange(1, 5)):
        told = f"({told})" + dice.choice(ENDS).format(n=dice.choice(NAMES), a=dice.choice(ATOMS))
    return told


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--paths", type=int, default=100_000)
    parser.add_argument("--templates", type=int, default=1_000, help="each is a process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=None, help="where the tally goes, beside stdout")
    options = parser.parse_args()
    dice, started = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as base:
        found = {
            "names": names(dice, options.names),
            "paths": paths(dice, options.paths, Path(base)),
            "templates": templates(dice, options.templates),
        }
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    told = {kind: asdict(tally) for kind, tally in found.items()}
    told |= {"peak_rss_bytes": peak, "seed": options.seed, "seconds": round(time.monotonic() - started, 1)}
    text = json.dumps(told, indent=2, ensure_ascii=True)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    return 1 if any(tally.wrong for tally in found.values()) or peak > LIMITS.memory_bytes else 0


if __name__ == "__main__":
    sys.exit(main())
