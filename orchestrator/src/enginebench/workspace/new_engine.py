"""Make a new engine: a folder under packages/ from template/, and one line in the root's conflict set.

The template is a complete small engine; nothing else in the repository needs to know of the new one.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from enginebench.errors import UsageError

from .discovery import discover

TEMPLATE = Path(__file__).parent / "template"
_SUFFIX = ".tmpl"  # no tool takes the template for code of this package
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_CONFLICT_SET = re.compile(r"^conflicts = \[\[\n(?P<lines>.*?)^\]\]", re.MULTILINE | re.DOTALL)
_CONFLICT = re.compile(r'\{ *package *= *"(?P<package>[^"]+)"')


@dataclass(frozen=True)
class NewNames:
    """What a new engine is called in each place."""

    name: str

    @property
    def package(self) -> str:
        return f"engine-{self.name}"

    @property
    def module(self) -> str:
        return f"engine_{self.name.replace('-', '_')}"

    @property
    def engine_class(self) -> str:
        return "".join(part.capitalize() for part in self.name.split("-")) + "Engine"

    def filled_in(self, text: str) -> str:
        for placeholder, value in (("name", self.name), ("module", self.module), ("class", self.engine_class)):
            text = text.replace("{{" + placeholder + "}}", value)
        return text


def new_engine(name: str, root: Path) -> list[Path]:
    """Returns the files that were written. Raises UsageError, and then has written none, on a bad or taken name."""
    names = checked_names(name, root)
    conflicts = with_conflict((root / "pyproject.toml").read_text(), names.package)
    folder = root / "packages" / names.package
    files = write_package(names, folder)
    replace_text(root / "pyproject.toml", conflicts)
    return [*files, root / "pyproject.toml"]


def checked_names(name: str, root: Path) -> NewNames:
    if not _NAME.fullmatch(name) or len(name) > 40:
        raise UsageError(
            f"{name!r} is no engine name: use lower-case letters, digits and single dashes, like my-engine"
        )
    names = NewNames(name)
    taken = {alias for info in discover(root).values() for alias in (info.name, info.module, *info.aliases)}
    if name == "all" or {name, names.module} & taken or (root / "packages" / names.package).exists():
        raise UsageError(f"there is an engine called {name!r} already: choose another name")
    return names


def with_conflict(text: str, package: str) -> str:
    """The root pyproject.toml with one more line in its conflict set; everything else as it was."""
    found = _CONFLICT_SET.search(text)
    if found is None:
        raise UsageError("the root pyproject.toml has no `conflicts = [[` … `]]` to add the engine to: restore it")
    lines = found["lines"].splitlines(keepends=True)
    lines.insert(insertion_point(lines, package), f'    {{ package = "{package}" }},\n')
    return text[: found.start("lines")] + "".join(lines) + text[found.end("lines") :]


def insertion_point(lines: list[str], package: str) -> int:
    """Before the first package that sorts later, and before the comments that precede it."""
    comments = 0
    for number, line in enumerate(lines):
        entry = _CONFLICT.search(line)
        if line.lstrip().startswith("#"):
            comments += 1
        elif entry is not None and entry["package"] > package:
            return number - comments
        else:
            comments = 0
    return len(lines)


def write_package(names: NewNames, folder: Path) -> list[Path]:
    """All or nothing: made beside its place, then renamed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        relative = [write_file(names, source, scratch) for source in sorted(TEMPLATE.rglob(f"*{_SUFFIX}"))]
        scratch.chmod(0o755)  # mkdtemp's is private
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [folder / path for path in relative]


def write_file(names: NewNames, source: Path, target: Path) -> Path:
    """Returns the new file's path relative to `target`."""
    relative = source.relative_to(TEMPLATE).with_suffix("")
    parts = [names.module if part == "module" else part for part in relative.parts]
    path = target.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(names.filled_in(source.read_text()))
    return path.relative_to(target)


def replace_text(path: Path, text: str) -> None:
    """Never a half-written file."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text)
    scratch.replace(path)
