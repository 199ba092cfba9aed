"""tinygrad graphs over torch's memory: neighbouring regions of one decode step, or all blocks of a prompt chunk.

A captured call costs a fraction of a millisecond however little it computes, so a piece is as long a run of regions
as belongs to tinygrad: one graph for the whole step when all of them do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby

import torch
from tinygrad import Tensor, UOp

from engine_hybrid import torch_regions
from engine_hybrid.graphs import Graph
from engine_hybrid.model import Llama
from engine_hybrid.tinygrad_regions import REGIONS, Flow, Shared, block, head

Step = tuple[str, int]
"""A region and the layer it belongs to; the head's is one past the last."""


def steps_of(llama: Llama) -> list[Step]:
    """One decode step, in order."""
    layers = range(len(llama.weights.layers))
    return [(region, i) for i in layers for region in REGIONS] + [("head", len(layers))]


def assembled(llama: Llama, views: Shared | None, in_tinygrad: Iterable[str]) -> list[Callable[[int], None]]:
    """One decode step as calls that take the position: pieces where the regions are tinygrad's, torch elsewhere."""
    chosen = set(in_tinygrad)
    calls: list[Callable[[int], None]] = []
    for fused, group in groupby(steps_of(llama), key=lambda step: step[0] in chosen):
        if fused:
            assert views is not None, "tinygrad regions need views"
            calls.append(Piece(views, list(group)))
        else:
            calls += [torch_call(llama, *step) for step in group]
    return calls


def torch_call(llama: Llama, region: str, layer: int) -> Callable[[int], None]:
    if region == "head":
        return lambda position: torch_regions.head(llama)
    return partial(getattr(torch_regions, region), llama, layer)


class Piece:
    """A run of regions as one graph. It is captured by its first call."""

    def __init__(self, views: Shared, steps: Sequence[Step]) -> None:
        self.views, self.steps = views, list(steps)
        position = UOp.variable("position", 0, views.source.positions - 1)
        self.graph = Graph(self.run, position, views.device, views.crew)

    def __call__(self, position: int) -> None:
        self.graph(position)

    def run(self, position: UOp) -> None:
        """Regions in a row, and what they leave in the state."""
        views, state, flow = self.views, self.views.state, Flow(self.views.state.x)
        written: list[Tensor] = []
        for steps in whole_layers(self.steps):
            region, i = steps[0]
            if len(steps) == len(REGIONS):
                flow = Flow(block(views, i)(flow.x, position))
            elif region == "head":
                logits, token = head(views, flow.x)
                written += [state.logits.assign(logits), state.token.assign(token)]
            else:
                flow = REGIONS[region](views, i, flow, position)
        if flow.x is not state.x:
            written.append(state.x.assign(flow.x))
        if flow.queries is not None and flow.cache is not None:
            queries = flow.queries.reshape(state.queries.shape).cast(state.queries.dtype)
            written += [state.queries.assign(queries), flow.cache]
        Tensor.realize(*written)


def whole_layers(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps one by one, but all regions of a layer together where they are all there."""
    grouped: list[list[Step]] = []
    for _, group in groupby(steps, key=lambda step: step[1]):
        of_layer = list(group)
        grouped += [of_layer] if len(of_layer) == len(REGIONS) else [[step] for step in of_layer]
    return grouped


class ChunkPiece:
    """All blocks over one chunk of a prompt, in place in `state.chunk`."""

    def __init__(self, views: Shared) -> None:
        self.views = views
        start = UOp.variable("chunk_start", 0, views.source.positions - int(views.state.chunk.shape[0]))
        self.graph = Graph(self.run, start, views.device, views.crew)

    def __call__(self, start: int) -> None:
        self.graph(start)

    def run(self, start: UOp) -> None:
        x = self.views.state.chunk
        for i in range(len(self.views.layers)):
            x = block(self.views, i)(x, start)
        self.views.state.chunk.assign(x).realize()


def prefill_in_torch(llama: Llama, tokens: torch.Tensor) -> None:
    """int64 [n] from position 0; leaves the last residual row in `state.x`."""
    llama.state.x.copy_(torch_regions.prefill(llama, tokens)[-1:])


def prefill_in_tinygrad(llama: Llama, piece: ChunkPiece, tokens: torch.Tensor) -> None:
    """The same, chunk by chunk. The last one is padded: what that writes behind the prompt is overwritten in time."""
    chunk = llama.state.chunk
    for start in range(0, len(tokens), len(chunk)):
        part = tokens[start : start + len(chunk)]
        chunk[: len(part)].copy_(llama.weights.embed_tokens[part])
        piece(start)
    llama.state.x.copy_(chunk[len(part) - 1 : len(part)])
