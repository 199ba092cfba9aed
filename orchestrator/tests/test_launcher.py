"""What a launch starts from, before anything is spawned."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from enginebench.judge.reference_weights import ReferenceWeights
from enginebench.run.launcher import Launcher


@pytest.mark.parametrize(("kind", "given_back"), [("check", 1), ("energy", 0)])
def test_before_memory_is_read_our_own_pages_of_the_model_are_given_back(
    records: Any, kind: Any, given_back: int
) -> None:
    """Else a page that the engine maps would be shared with us, and count half in its proportional set size."""
    calls: list[None] = []
    checkpoint = SimpleNamespace(give_back=lambda: calls.append(None))
    launcher = Launcher.__new__(Launcher)
    launcher.weights = ReferenceWeights(Path())
    launcher.models = {"m": SimpleNamespace(checkpoint=checkpoint)}  # type: ignore[dict-item]
    assert launcher._start_state(records.case(), kind) is None
    assert len(calls) == given_back
