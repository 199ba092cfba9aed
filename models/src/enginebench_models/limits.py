"""What the header of a model file may ask for at most, checked before anything is allocated.

The numbers stand between the largest published models and what a hostile header uses to exhaust memory.
"""

from pathlib import Path

from enginebench_models.errors import InvalidModel

MAX_TENSORS = 100_000
MAX_KEYS = 65_536
MAX_DIMENSIONS = 4
MAX_STRING_BYTES = 16 << 20
MAX_ARRAY_ELEMENTS = 16 << 20
MAX_ELEMENTS = 1 << 50
MAX_JSON_BYTES = 64 << 20


def check(path: Path, what: str, found: int, at_most: int) -> None:
    """Raises InvalidModel where a header asks for more than any real model has."""
    if found > at_most:
        raise InvalidModel(f"{path} declares {found:,} {what}; at most {at_most:,} are read. The file is damaged.")
