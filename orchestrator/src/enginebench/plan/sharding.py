"""One model over several devices: which cases of a run are sharded, and whether this machine has so many.

What a share is, and whether a model can be cut so often, is for the engines to say.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from enginebench.counted import counted
from enginebench.errors import UsageError
from enginebench.store.record import Case

DOES_NOT_SHARD = "does not shard"


def sharded(cases: Sequence[Case], shards: int, instruments: Collection[str]) -> tuple[Case, ...]:
    """An instrument says what one device can do: it stays on one."""
    replace = msgspec.structs.replace
    return tuple(case if case.engine in instruments else replace(case, shards=shards) for case in cases)


def check_devices(shards: int, device: str, found: int | None) -> None:
    """Raises UsageError for more shards than devices. `found` None: nobody can count them here."""
    if shards == 1 or found is None or shards <= found:
        return
    if device == "cpu":
        raise UsageError(f"--shard {shards}: a rank needs a processor of its own, and this machine has {found}")
    gpus = counted(found, "GPU")
    raise UsageError(f"--shard {shards}: this machine has {gpus}; ask for no more, or for --device cpu")
