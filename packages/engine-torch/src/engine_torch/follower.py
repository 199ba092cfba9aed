"""What a rank above 0 does: every request together with rank 0, on its own part of the model.

Rank 0 tells it by messages of the protocol what comes next, and by broadcasts the ids that were chosen. Whatever goes
wrong here ends the process: rank 0 notices, and finds the last words on stderr.
"""

from __future__ import annotations

from array import array
from pathlib import Path

import torch
from enginebench_protocol.codec import decode, encode, unpack_ids
from enginebench_protocol.framing import FrameStream
from enginebench_protocol.messages import Account, Done, Generate, Load, Loaded, Memory, Progress, Request, Score

from engine_torch.decoding import Decoder
from engine_torch.engine import account, load_part, opened
from engine_torch.ranks import END, join, told
from engine_torch.shard import Shard


class Follower:
    """One rank's answers to the requests of rank 0."""

    def __init__(self, stream: FrameStream, shard: Shard, store: Path) -> None:
        self.stream, self.shard, self.store = stream, shard, store
        self.decoder: Decoder | None = None

    def run(self) -> None:
        """Until there is a request that is none of these, or rank 0 is gone."""
        while (reply := self.reply(decode(self.stream.receive(), Request))) is not None:
            self.stream.send(encode(reply))

    def reply(self, request: Request) -> Loaded | Account | Done | None:
        match request:
            case Load():
                return self.load(request)
            case Score():
                self.ready().score(unpack_ids(request.tokens), request.n_prefill)
            case Generate():
                follow(self.ready(), unpack_ids(request.prompt), request.n_gen)
            case Memory():
                held = account(self.ready().model)
                return Account(
                    id=request.id,
                    weights_bytes=held.weights_bytes,
                    kv_cache_bytes=held.kv_cache_bytes,
                    device_peak_bytes=held.device_peak_bytes,
                )
            case _:
                return None
        return Done(id=request.id)

    def load(self, request: Load) -> Loaded:
        self.stream.send(encode(Progress(id=request.id, stage="import", fraction=1.0)))
        join(self.shard, self.store, request.device)
        self.decoder, loaded = load_part(request, opened(request), self.shard, lambda stage, fraction: None)
        return loaded

    def ready(self) -> Decoder:
        assert self.decoder is not None, "rank 0 loads first"
        return self.decoder


def follow(decoder: Decoder, prompt: array[int], n_gen: int) -> None:
    """What rank 0 does in generate, with the ids that it chooses."""
    decoder.prefill(prompt)
    for position in range(len(prompt), len(prompt) + n_gen - 1):
        if (token := told()) == END:
            return
        decoder.decode(torch.tensor([token], device=decoder.device), position)
