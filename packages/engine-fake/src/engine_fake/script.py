"""What each configuration does: how fast it answers, what it answers, and what goes wrong while it does."""

from __future__ import annotations

import os
import random
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from enginebench_protocol.engine import GREEDY, Sampling

from . import misbehaviour
from .misbehaviour import as_it_is, nothing

MILLISECOND = 1_000_000
VOCABULARY = 128_256
"""That of LLaMA 3: it takes the ids of any tokenizer here."""


@dataclass(frozen=True)
class Script:
    """Delays in nanoseconds; `token_ns` holds for every token after the first, which takes `prefill_ns`."""

    description: str
    prefill_ns: int = MILLISECOND
    token_ns: int = MILLISECOND
    jitter: float = 0.0
    """Standard deviation of each delay as a share of it."""
    warmup_requests: int = 0
    """As many first requests take twice as long."""
    held_bytes: int = 0
    stages_ns: tuple[tuple[str, int], ...] = ()
    """What a load takes, by stage; "" is a stage that is not told."""
    on_load: Callable[[], None] = nothing
    on_generate: Callable[[], None] = nothing
    on_close: Callable[[Iterator[int]], Iterator[int]] = as_it_is
    """What becomes of the generator, which may be closed early."""
    leftover: bool = False
    """Of the requests before, those count that were ended early."""
    greedy_only: bool = False
    unseeded: bool = False
    """What is drawn depends on how many requests came before."""
    missing_tokens: int = 0
    forgetful: bool = False
    """Ids depend on how many requests came before."""
    of_process: bool = False
    """Ids depend on the process: each launch gives others."""
    cached_prefill_ns: int | None = None
    """Time of the first token where the prompt is that of the request before."""
    miscount: int = 0
    """Added to the count of tokens that `reported` tells."""
    kv_dtype: str = "none"
    spare_threads: int = 0
    """Fewer threads in use than asked for."""
    echo: bool = False
    """The ids are those of the prompt, from its beginning on, over and over."""
    first_id: int = 0
    """Added to every id; VOCABULARY puts all of them out of range."""

    def delays_ns(
        self, n_gen: int, n_earlier: int, repeated: bool = False, pace: float = 1.0, seed: str = ""
    ) -> list[int]:
        """Of the first token and of each after it. `pace` multiplies all of them; `seed` is the jitter's."""
        factor = (2 if n_earlier < self.warmup_requests else 1) * pace
        prefill_ns = self.prefill_ns if self.cached_prefill_ns is None or not repeated else self.cached_prefill_ns
        exact = [round(factor * prefill_ns)] + [round(factor * self.token_ns)] * (n_gen - 1)
        if not self.jitter:
            return exact
        draw = random.Random(f"engine-fake:{seed}{n_earlier}")  # noqa: S311 (not for secrets)
        return [max(0, round(ns * (1 + self.jitter * draw.gauss(0, 1)))) for ns in exact]

    def ids(self, prompt: array[int], n_gen: int, n_earlier: int, sampling: Sampling = GREEDY) -> list[int]:
        """A function of the prompt and the sampling alone, unless the script says otherwise."""
        if self.echo:
            return [prompt[i % len(prompt)] for i in range(n_gen)]
        seed = zlib.crc32(
            prompt.tobytes(), (n_earlier if self.forgetful else 0) + (os.getpid() if self.of_process else 0)
        )
        offsets = self._offsets(n_gen - self.missing_tokens, n_earlier, sampling)
        return [self.first_id + (seed + 7919 * i + offset) % VOCABULARY for i, offset in enumerate(offsets)]

    def _offsets(self, n: int, n_earlier: int, sampling: Sampling) -> list[int]:
        """How far a drawn id is from the greedy one: the further, the hotter."""
        if sampling.greedy:
            return [0] * n
        draw = random.Random(sampling.seed + (n_earlier if self.unseeded else 0))  # noqa: S311 (not for secrets)
        return [round(draw.expovariate(0.1) * sampling.temperature) for _ in range(n)]


SCRIPTS = {
    "default": Script("1 ms per token, exactly"),
    "instant": Script("no delay at all: what is left is the suite's own time", prefill_ns=0, token_ns=0),
    "slow1": Script("1 % slower than default", prefill_ns=1_010_000, token_ns=1_010_000),
    "slow": Script("5 % slower than default", prefill_ns=1_050_000, token_ns=1_050_000),
    "slow20": Script("20 % slower than default", prefill_ns=1_200_000, token_ns=1_200_000),
    "jitter": Script("1 ms per token with a seeded standard deviation of 5 %", jitter=0.05),
    "warmup": Script("the first 3 requests take twice as long", warmup_requests=3),
    "slow-start": Script(
        "loads for 600 ms in known stages, then answers at twice the speed",
        prefill_ns=MILLISECOND // 2,
        token_ns=MILLISECOND // 2,
        stages_ns=(
            ("import", 100 * MILLISECOND),
            ("read", 200 * MILLISECOND),
            ("convert", 50 * MILLISECOND),
            ("compile", 150 * MILLISECOND),
            ("", 100 * MILLISECOND),
        ),
    ),
    "memory": Script("holds 256 MiB of touched memory", held_bytes=256 * 2**20),
    "noisy-stdout": Script(
        "writes to stdout in four ways; none may reach the protocol",
        on_load=misbehaviour.write_to_stdout,
        on_generate=misbehaviour.write_to_stdout,
    ),
    "flood-stderr": Script("writes 8 MiB to stderr while it loads", on_load=misbehaviour.flood_stderr),
    "orphan": Script("leaves a process of its own session behind", on_load=misbehaviour.leave_orphan),
    "refuse": Script("answers load with a failure", on_load=misbehaviour.refuse),
    "out-of-memory": Script("runs out of host memory while it loads", on_load=misbehaviour.run_out_of_memory),
    "exit": Script("exits with code 3 while it loads", on_load=misbehaviour.leave),
    "bug": Script("raises an unexpected exception in generate", on_generate=misbehaviour.fail_unexpectedly),
    "crash": Script("dies of SIGSEGV in generate", on_generate=misbehaviour.crash),
    "hang": Script("never yields a token", on_generate=misbehaviour.hang),
    "stubborn": Script("hangs and ignores SIGTERM", on_generate=misbehaviour.hang_stubbornly),
    "native-hang": Script(
        "hangs in native code that holds the interpreter", on_generate=misbehaviour.hang_in_native_code
    ),
    "echo": Script("repeats the prompt, 1 ms per token", echo=True),
    "slow-echo": Script("repeats the prompt, 50 ms per token", token_ns=50 * MILLISECOND, echo=True),
    "short": Script("yields one token too few", missing_tokens=1),
    "wrong": Script("answers the same prompt differently each time", forgetful=True),
    "other-output": Script("answers the same prompt differently in each launch", of_process=True),
    "greedy-only": Script("refuses to sample", greedy_only=True),
    "unseeded": Script("draws other ids for the same seed each time", unseeded=True),
    "clinging": Script("does not let go of a request that is ended early", on_close=misbehaviour.cling),
    "leftover": Script("answers differently after a request that was ended early", forgetful=True, leftover=True),
    "prefix-cache": Script(
        "answers a prompt that it has just seen sooner", prefill_ns=10 * MILLISECOND, cached_prefill_ns=MILLISECOND
    ),
    "miscount": Script("reports one token more than it yields", miscount=1),
    "other-cache": Script("says that its cache is of another type", kv_dtype="int8"),
    "fewer-threads": Script("says that it uses one thread fewer than it may", spare_threads=1),
    "out-of-range": Script("yields ids outside its vocabulary", first_id=VOCABULARY),
}
