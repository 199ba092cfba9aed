"""A new engine from the template: one folder under packages/, and its line in the root's conflict set.

The template is a working engine (NumPy, float32) that passes the conformance suite and the fidelity gate as it is made;
its author replaces what computes.
"""

from __future__ import annotations

import re
from pathlib import Path

from .errors import UsageError

TEMPLATE = Path(__file__).with_name("template")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_CONFLICTS_END = "]]\n"


def new_engine(name: str, root: Path) -> list[Path]:
    """The files written, the root pyproject last. Raises UsageError on a bad or taken name, before writing anything."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"engine name {name!r}: lower-case letters and digits, parts joined by single dashes")
    folder = root / "packages" / f"engine-{name}"
    if folder.exists():
        raise UsageError(f"there is an engine {name!r} already: {folder.relative_to(root)}")
    pyproject = root / "pyproject.toml"
    changed = _with_conflict(pyproject.read_text(), f"engine-{name}")
    written = [_write(source, folder, name) for source in sorted(TEMPLATE.rglob("*.tmpl"))]
    pyproject.write_text(changed)
    return [*written, pyproject]


def _write(source: Path, folder: Path, name: str) -> Path:
    relative = str(source.relative_to(TEMPLATE)).removesuffix(".tmpl").replace("NAME", name.replace("-", "_"))
    target = folder / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(_filled(source.read_text(), name))
    return target


def _filled(text: str, name: str) -> str:
    class_name = "".join(part.capitalize() for part in name.split("-"))
    return text.replace("@name@", name).replace("@module@", name.replace("-", "_")).replace("@Class@", class_name)


def _with_conflict(text: str, package: str) -> str:
    """The line goes to the end of the set; comments and order stay."""
    start = text.find("conflicts = [[")
    end = text.find(_CONFLICTS_END, start)
    if start < 0 or end < 0:
        raise UsageError("the root pyproject.toml has no `conflicts = [[ … ]]` set to add the engine to")
    return text[:end] + f'    {{ package = "{package}" }},\n' + text[end:]
