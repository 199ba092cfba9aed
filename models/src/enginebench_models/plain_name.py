"""The one gate for names of files that come from elsewhere: an index, a hub's list, the catalogue, an engine.

A plain name holds nothing that leads into another folder, hides, or means something to a shell or a file system. A
path that an engine tells must lead to a regular file in a folder that was given to it, links followed.
"""

import re
import stat
from pathlib import Path

from enginebench_models.errors import InvalidModel, shown

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
DEVICES = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)
"""Of Windows, whatever follows the dot (learn.microsoft.com, "Naming Files, Paths, and Namespaces")."""
DIGEST = re.compile(r"sha256[:-](?P<hex>[0-9a-f]{64})")
"""How registries of models name blobs; anything looser leads elsewhere (CVE-2024-37032)."""


class Stray(ValueError):
    """A path that leads to something else than a file of the folder it must lie in."""


def plain_name(name: object, where: object, rule: str = "file-name") -> str:
    """`name` itself. Raises InvalidModel for anything but a plain file name; `where` is who gave it."""
    if not is_plain(name):
        raise InvalidModel(f"{where} names the file {shown(name)}; a plain file name was expected.", rule)
    return str(name)


def is_plain(name: object) -> bool:
    return (
        isinstance(name, str)
        and PLAIN.fullmatch(name) is not None
        and not name.endswith(".")
        and DEVICES.fullmatch(name) is None
    )


def own_file(told: str, folder: Path, what: str) -> Path:
    """The file that `told` leads to. Raises Stray unless it is a regular file below `folder`; `what` is its name for
    people."""
    try:
        path = Path(told).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:  # not there; a NUL in it; links that lead to each other
        reason = getattr(error, "strerror", None) or error
        raise Stray(f"{what} is not there: {shown(told)}: {reason}") from None
    if not path.is_relative_to(folder.resolve()):
        raise Stray(f"{what} lies outside its own folder: {shown(told)}")
    if not stat.S_ISREG(path.lstat().st_mode):
        raise Stray(f"{what} is no regular file: {shown(told)}")
    return path


def digest_name(digest: object, where: object) -> str:
    """sha256-HEX, the name of a blob. Raises InvalidModel."""
    found = DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if found is None:
        raise InvalidModel(f"{where} names the blob {shown(digest)}; sha256: and 64 hex digits were expected.")
    return f"sha256-{found['hex']}"
