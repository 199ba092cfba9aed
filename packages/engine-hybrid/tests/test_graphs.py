"""Captured graphs walked without Python: the same results as TinyJit's own runner, and when it is left to that."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_hybrid.model import Llama


@pytest.fixture(scope="module", params=["tiny", "odd"])
def llama(request: pytest.FixtureRequest, loader: Any, models: Callable[[str], Path]) -> Llama:
    return loader.llama(models(request.param))


def whole_step(llama: Llama, crew: bool) -> Any:
    from engine_hybrid.backend import backend_for
    from engine_hybrid.pieces import Piece, steps_of
    from engine_hybrid.tinygrad_regions import Shared

    views = Shared(llama, backend_for("cpu").lanes)
    if not crew:
        views.crew = None
    return Piece(views, steps_of(llama))


def logits(llama: Llama, piece: Any, positions: list[int]) -> torch.Tensor:
    generator, rows = torch.Generator().manual_seed(0), []
    for cache in llama.caches:
        cache.normal_(generator=generator)
    for position in positions:
        llama.state.x.normal_(generator=generator)
        piece(position)
        rows.append(llama.state.logits.clone())
    return torch.cat(rows)


def test_the_walk_leaves_what_tinyjit_leaves_at_every_position(llama: Llama) -> None:
    positions = [3, 4, 0, 100, 127, 5]
    walked, run = whole_step(llama, crew=True), whole_step(llama, crew=False)
    expected, found = logits(llama, run, positions), logits(llama, walked, positions)
    assert walked.graph.listing is not None
    assert run.graph.listing is None
    assert torch.equal(found, expected)
    assert not torch.equal(found[0], found[1])


def test_a_position_that_does_not_arrive_is_noticed(llama: Llama) -> None:
    """Negative control of the test above."""
    positions = [3, 4, 100]
    piece = whole_step(llama, crew=True)
    expected = logits(llama, piece, positions)
    piece.graph.listing.places = piece.graph.listing.places[:0]
    assert not torch.equal(logits(llama, piece, positions), expected)


def test_a_graph_with_an_unknown_variable_is_left_to_tinyjit(llama: Llama) -> None:
    from engine_hybrid.graphs import listed

    piece = whole_step(llama, crew=False)
    piece(3)
    assert listed(piece.graph.jit, "position") is not None
    assert listed(piece.graph.jit, "row") is None


def test_the_threads_end_with_the_model(llama: Llama) -> None:
    before = threading.active_count()
    piece = whole_step(llama, crew=True)
    crew = piece.graph.crew
    assert threading.active_count() == before + crew.n_threads - 1
    helpers = threading.enumerate()[before:]
    del piece, crew
    gc.collect()
    for helper in helpers:
        helper.join(timeout=5)
    assert not any(helper.is_alive() for helper in helpers)
