"""The other ranks, as rank 0 sees them: child processes that do every request with it, each on its part of the model.

They are started by a load and end with it, with rank 0, or with the first thing that goes wrong in one of them: then
the request fails with the last words of the rank that ended, and nothing waits for the others. Left out: what a rank
does (follower.py), what it holds (shard.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from enginebench_protocol.codec import decode, encode, pack_ids
from enginebench_protocol.errors import EngineFailure, ProtocolError
from enginebench_protocol.framing import FrameStream
from enginebench_protocol.host import default_threads
from enginebench_protocol.messages import (
    Account,
    Done,
    FromEngine,
    Generate,
    Load,
    Loaded,
    Memory,
    Progress,
    Request,
    Score,
    Unload,
)
from enginebench_protocol.out_of_memory import memory_failure

from engine_torch.shard import Shard

R = TypeVar("R", bound=FromEngine)
START_SECONDS = 180.0
"""For a rank to import torch."""
COLLECTIVE_SECONDS = 300.0
"""For the slowest rank to come to an exchange; compiling is the longest that one may be behind."""
NOTICE_SECONDS = 30.0
"""Rank 0 learns of a lost rank from its sockets, at once. On a GPU it may wait in a kernel: then it is ended."""
END_SECONDS = 5.0
LAST_WORDS_BYTES = 4000
EXIT_RANK_LOST = 70
END = -1
"""Told in place of an id: no more tokens, though more were asked for."""


def check_ranks(n: int, device: str, threads: int) -> None:
    """Raises EngineFailure if there are not so many devices, or not a thread for every rank."""
    if device == "cuda":
        found, what, hint = torch.cuda.device_count(), "GPU", "ask for no more shards than GPUs"
    else:
        found, what, hint = min(threads, default_threads()), "processor", "a rank needs a thread of its own"
    if n > found:
        raise EngineFailure("unsupported", f"{n} shards, but {found} {what}{'' if found == 1 else 's'}", hint)


def join(shard: Shard, store: Path, device: str) -> None:
    """Meet the other ranks: sockets of this machine's loopback, found through a file."""
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = "lo"
    if device == "cuda":
        torch.cuda.set_device(shard.rank)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        store=dist.FileStore(str(store), shard.n),
        rank=shard.rank,
        world_size=shard.n,
        timeout=timedelta(seconds=COLLECTIVE_SECONDS),
    )


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def tell(token: int) -> None:
    """By rank 0: the id that was chosen, or END."""
    dist.broadcast(torch.tensor([token]), src=0)


def told() -> int:
    """By the others. Rank 0 may be between two tokens for COLLECTIVE_SECONDS: who reads them may hold it up."""
    token = torch.empty(1, dtype=torch.int64)
    dist.broadcast(token, src=0)
    return int(token)


class Rank:
    """One process above rank 0."""

    def __init__(self, shard: Shard, store: Path) -> None:
        self.shard = shard
        self.log = store.with_name(f"{store.name}-{shard.rank}.log")
        command = [sys.executable, "-m", "engine_torch.rank", str(shard.rank), str(shard.n), str(store)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdin and self.process.stdout
        self.stream = FrameStream(self.process.stdout.fileno(), self.process.stdin.fileno())

    def send(self, request: Request) -> None:
        self.stream.send(encode(request), END_SECONDS)

    def receive(self, kind: type[R], seconds: float = COLLECTIVE_SECONDS) -> R:
        message = decode(self.stream.receive(timeout=seconds), FromEngine)
        if not isinstance(message, kind):
            raise ProtocolError(f"rank {self.shard.rank} answered with {type(message).__name__.lower()}")
        return message

    @property
    def end(self) -> str | None:
        """How it ended; None: it runs."""
        code = self.process.poll()
        if code is None:
            return None
        return f"rank {self.shard.rank} of {self.shard.n} ended " + (
            f"by signal {-code}" if code < 0 else f"with {code}"
        )

    def last_words(self) -> str:
        return self.log.read_bytes()[-LAST_WORDS_BYTES:].decode("utf-8", "replace").strip()

    def close(self, grace: float) -> None:
        assert self.process.stdin and self.process.stdout
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Ranks:
    """All ranks but 0. Made by a load, which the caller then does for rank 0; closed whatever happens."""

    def __init__(self, request: Load) -> None:
        """Starts them: they import while rank 0 does what needs no rank. Call `join` next."""
        store = Path(request.scratch) / f"ranks-{os.getpid()}-{time.monotonic_ns()}"
        self.device = request.device
        self.store = store
        self.shard = Shard(0, request.shards)
        self._ranks = [Rank(Shard(number, request.shards), store) for number in range(1, request.shards)]
        self._busy = self._joined = False
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="ranks").start()
        with self.working():
            for rank in self._ranks:
                rank.send(request)

    def join(self) -> None:
        with self.working():
            for rank in self._ranks:
                rank.receive(Progress, START_SECONDS)
            join(self.shard, self.store, self.device)
        self._joined = True

    def loaded(self) -> list[Loaded]:
        with self.working():
            return [rank.receive(Loaded) for rank in self._ranks]

    def memory(self) -> list[Account]:
        with self.working():
            for rank in self._ranks:
                rank.send(Memory(id=1))
            return [rank.receive(Account) for rank in self._ranks]

    @contextmanager
    def scoring(self, tokens: array[int], n_prefill: int) -> Iterator[None]:
        """Around rank 0's own scoring."""
        with self._request(Score(id=1, tokens=pack_ids(tokens), n_prefill=n_prefill)):
            yield

    def led(self, ids: Callable[[], Iterator[int]], prompt: array[int], n_gen: int) -> Iterator[int]:
        """The ids of rank 0, each told to the others before the next is asked for."""
        with self._request(Generate(id=1, prompt=pack_ids(prompt), n_gen=n_gen)):
            number = 0
            try:
                for number, token in enumerate(ids(), 1):
                    yield token
                    if number < n_gen:
                        tell(token)
            except GeneratorExit:  # the caller wants no more ids
                if number < n_gen:
                    tell(END)
                self._done()
                raise

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def close(self) -> None:
        if self.closed:
            return
        self._closed.set()
        for rank in self._ranks:
            with suppress(ProtocolError):
                rank.send(Unload(id=1))
        for rank in self._ranks:
            rank.close(END_SECONDS if self._joined else 0.0)
        leave()

    def _done(self) -> None:
        for rank in self._ranks:
            rank.receive(Done)

    @contextmanager
    def _request(self, request: Request) -> Iterator[None]:
        with self.working():
            for rank in self._ranks:
                rank.send(request)
            yield
            self._done()

    @contextmanager
    def working(self) -> Iterator[None]:
        """What goes wrong meanwhile ends all the others.

        Raises EngineFailure with the last words of the first that ended, where it went wrong between the ranks.
        """
        self._busy = True
        try:
            yield
        except (RuntimeError, ProtocolError) as error:  # every error of a collective is a RuntimeError
            raise self._lost(error) from None
        except Exception:  # of rank 0 alone: the others wait for what does not come
            self._end()
            raise
        finally:
            self._busy = False

    def _lost(self, error: Exception) -> EngineFailure:
        deadline = time.monotonic() + 2.0
        while not (ended := self._ended()) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._end()
        if not ended:
            return EngineFailure("internal", f"the ranks lost each other: {error}", detail=self._ranks[0].last_words())
        first, words = ended[0], ended[0].last_words()
        refused = filter(None, map(memory_failure, reversed(words.splitlines())))
        if first.process.returncode > 0 and (message := next(refused, None)):
            return EngineFailure("out-of-memory", message, f"{first.end}: a smaller model, more devices", detail=words)
        return EngineFailure("internal", str(first.end), f"{error}"[:500], detail=words)

    def _end(self) -> None:
        """At once, without a word to them."""
        self._closed.set()
        for rank in self._ranks:
            rank.close(0.0)
        leave()

    def _ended(self) -> list[Rank]:
        """Those that were killed first: the others may have ended because of them."""
        ended = [rank for rank in self._ranks if rank.end is not None]
        return sorted(ended, key=lambda rank: rank.process.returncode >= 0)

    def _watch(self) -> None:
        """Ends this process where a rank is lost and the request that needs it does not come back."""
        lost_since = None
        while not self._closed.wait(0.5):
            if not (self._busy and self._ended()):
                lost_since = None
            elif time.monotonic() - (lost_since := lost_since or time.monotonic()) > NOTICE_SECONDS:
                lost = self._ended()[0]
                print(lost.end, lost.last_words(), sep="\n", file=sys.stderr, flush=True)
                os._exit(EXIT_RANK_LOST)
