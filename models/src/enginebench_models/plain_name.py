"""The one gate for names of files that come from elsewhere: an index, a hub's list, the catalogue.

A plain name only: nothing that leads into another folder, hides, or means something to a shell or a file system.
"""

import re

from enginebench_models.errors import InvalidModel, shown

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")


def plain_name(name: object, where: object, rule: str = "file-name") -> str:
    """`name` itself. Raises InvalidModel for anything but a plain file name; `where` is who gave it."""
    if not isinstance(name, str) or not PLAIN.fullmatch(name):
        raise InvalidModel(f"{where} names the file {shown(name)}; a plain file name was expected.", rule)
    return name
