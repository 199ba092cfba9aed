"""Two or more engines loaded at once, asked in turn: ratios that a drifting machine cannot bias.

An engine here is anything that speaks the protocol, also a foreign program wrapped for comparison.
"""

from __future__ import annotations

import secrets
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from enginebench.run.passed_on import engine_environment
from enginebench.run.process import ChildProcess
from enginebench_protocol.client import Client
from enginebench_protocol.codec import pack_ids, unpack_times
from enginebench_protocol.errors import ProtocolError
from enginebench_protocol.framing import FrameStream
from enginebench_protocol.host import cache_folder
from enginebench_protocol.messages import Loaded
from enginebench_protocol.prompts import prompt_ids
from enginebench_protocol.timing import RequestTiming

SILENCE = 1200.0


@dataclass(frozen=True)
class Contender:
    """One engine process to be: `engine` is the name it says hello with."""

    label: str
    engine: str
    command: Sequence[str]
    configuration: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Ready:
    contender: Contender
    client: Client
    loaded: Loaded
    child: ChildProcess
    timings: list[RequestTiming] = field(default_factory=list)

    def ask(self, n_prompt: int, n_gen: int, iteration: int) -> RequestTiming:
        prompt = prompt_ids(0, iteration, n_prompt, self.loaded.vocab_size)
        generated, _ = self.client.generate(pack_ids(prompt), n_gen, SILENCE)
        return RequestTiming(n_prompt, generated.t_start_ns, unpack_times(generated.t_token_ns))

    @property
    def decode_tps(self) -> float:
        return 1e9 / statistics.median(t.tpot_ns or 0 for t in self.timings)

    @property
    def prefill_tps(self) -> float:
        return statistics.median(t.prefill_tps for t in self.timings)


def side_by_side(
    contenders: Sequence[Contender],
    model: Path,
    *,
    n_prompt: int,
    n_gen: int,
    rounds: int,
    threads: int,
    warmup: int = 1,
) -> list[Ready]:
    """Load all, warm each up, then ask each once per round, the order turned round by round."""
    with ExitStack() as stack:
        ready = [stack.enter_context(started(contender, model, n_prompt + n_gen, threads)) for contender in contenders]
        for one in ready:
            for iteration in range(warmup):
                one.ask(n_prompt, n_gen, iteration)
        for number in range(rounds):
            turn = number % len(ready)
            for one in ready[turn:] + ready[:turn]:
                one.timings.append(one.ask(n_prompt, n_gen, warmup + number))
    return ready


@contextmanager
def started(contender: Contender, model: Path, n_ctx: int, threads: int) -> Iterator[Ready]:
    nonce = secrets.token_hex(8)
    cache = cache_folder() / "kernels" / contender.engine
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        environment = engine_environment({**contender.environment, "TMPDIR": scratch})
        child = ChildProcess([*contender.command, "serve", "--nonce", nonce], environment, Path(scratch))
        try:
            client = Client(FrameStream(child.read_fd, child.write_fd))
            client.hello(contender.engine, nonce, SILENCE)
            loaded = client.load(
                SILENCE,
                configuration=contender.configuration,
                model_path=str(model),
                n_ctx=max(n_ctx, 128),
                device="cpu",
                threads=threads,
                cache=str(cache),
                scratch=scratch,
            )
            yield Ready(contender, client, loaded, child)
        except ProtocolError as error:
            raise RuntimeError(f"{contender.label}: {error}: {child.last_lines()}") from error
        finally:
            child.close(grace=0.5)
