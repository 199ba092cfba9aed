"""What is asked of an engine in one launch, from hello to shutdown; what it answers is kept as it comes.

Five kinds of launches: see `launch`. A conversation that breaks off leaves what was known until then.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from enginebench_models.plain_name import Stray, own_file
from enginebench_protocol.codec import pack_ids, unpack_ids
from enginebench_protocol.messages import Event, Loaded, Progress
from enginebench_protocol.prompts import prompt_ids

from enginebench.machine.memory_pass import MemoryPass
from enginebench.machine.pages import disk_read_bytes
from enginebench.machine.sandbox import sandbox_of
from enginebench.machine.timeline import MemoryTimeline
from enginebench.machine.watch import LaunchWatch
from enginebench.store import profiles
from enginebench.store.record import PROBE_PREFILL, LoadedFacts, Phase, Request

from . import energy_pass
from .answer import WrongOutput, recorded
from .order import LaunchOrder
from .process import ChildProcess
from .repeated import ask_again
from .vigil import watched

Say = Callable[[str], None]
PROFILED_TOKENS = 16
"""A trace of more says nothing new, and takes long to open."""
CHECK_REQUESTS = 2
"""The first pays for compilation; the second tells how long a request takes (the pilot of the schedule)."""


class Conversation:
    """With one child. Raises ProtocolError, EngineFailure or WrongOutput where it breaks off, in `stage`.

    `facts` are fields of the launch's record by name; `logits` among them is (path, sha256, n_rows), for the judge.
    """

    def __init__(
        self,
        order: LaunchOrder,
        child: ChildProcess,
        scratch: Path,
        say: Say,
        watch: LaunchWatch | None,
        memory: MemoryPass | None,
    ) -> None:
        self.order, self.child, self.scratch, self.say = order, child, scratch, say
        self.watch, self.memory = watch, memory
        gpu = order.watch.gpu if order.watch is not None else None
        self.client, self.vigil = watched(child, order.limits, order.silence_seconds, order.device, gpu, order.tell)
        self.facts: dict[str, Any] = {}
        self.requests: list[Request] = []
        self._usual: float | None = None

    def hold(self, nonce: str) -> None:
        """All of it."""
        self.vigil.enter("hello")
        hello = self.client.hello(self.order.case.engine, nonce, self.order.silence_seconds)
        self.facts["interpreter_ns"] = hello.t_begin_ns - self.child.started_ns if hello.t_begin_ns else None
        self.facts["startup_ns"] = time.perf_counter_ns() - self.child.started_ns
        if self.order.kind == "check":
            self.facts["sandbox"] = sandbox_of(self.child.pid)
        {"check": self._check, "energy": self._energy, "profile": self._profile}.get(self.order.kind, self._timed)()
        self.vigil.enter("unload")
        self.client.unload(self.order.silence_seconds)
        if self.memory is not None:
            self.facts["memory"] = self.memory.after_unload(self.facts["memory"])
        self.vigil.enter("shutdown")
        self.client.shutdown(self.order.silence_seconds)

    @property
    def stage(self) -> str:
        """The state that the launch has come to."""
        return self.vigil.stage

    def _check(self) -> None:
        assert self.memory is not None
        with self.memory:
            self._load()
            self.memory.loaded()
            for iteration in range(CHECK_REQUESTS):
                self.say(f"first requests {iteration + 1}/{CHECK_REQUESTS}")
                self._request(iteration, "warm-up")
        self.vigil.enter("memory")
        self.facts["memory"] = self.memory.reading(self.client.memory(self.order.silence_seconds))
        ask_again(self.requests[-1], lambda iteration, repeat: self._request(iteration, "warm-up", repeat, "repeat"))
        if self.order.probe is not None:
            self.say("fidelity probe")
            self.vigil.enter("score")
            scored = self.client.score(self.order.probe, PROBE_PREFILL, self.order.silence_seconds)
            self.facts["logits"] = (self._own(scored.path, "the file of logits"), scored.sha256, scored.n_rows)

    def _own(self, told: str, what: str) -> Path:
        """A file of this launch: an engine must not have us read what is not its own."""
        try:
            return own_file(told, self.scratch, what)
        except Stray as error:
            raise WrongOutput(str(error)) from None

    def _timed(self) -> None:
        order = self.order
        self._load()
        wall_ns, cpu_ns = time.perf_counter_ns(), time.process_time_ns()
        for iteration in range(order.warmup + order.iterations):
            self._timed_request(iteration)
        if self.watch is not None and order.iterations:
            self.watch.end(self.child.pid)
        elapsed_ns = time.perf_counter_ns() - wall_ns
        self.facts["harness_cpu_share"] = (time.process_time_ns() - cpu_ns) / elapsed_ns
        if order.kind == "cold":
            self.facts["disk_read_bytes"] = disk_read_bytes(self.child.pid)
            return
        for extra in range(order.case.workload.n_depth_requests):
            self.say(f"depth request {extra + 1}/{order.case.workload.n_depth_requests}")
            self._request(order.warmup + order.iterations + extra, "depth")

    def _timed_request(self, iteration: int) -> None:
        phase: Phase = "warm-up" if iteration < self.order.warmup else "measured"
        self.say(f"{phase} request {iteration + 1}/{self.order.warmup + self.order.iterations}")
        if self.watch is not None and iteration == self.order.warmup:
            self.watch.start(self.child.pid)
        self._request(iteration, phase)
        if self.watch is not None and phase == "measured":
            self.watch.after_request()

    def _energy(self) -> None:
        """Its requests are checked like any, and counted, but not recorded one by one."""
        assert self.order.meter is not None
        self._load()
        n_sent, n_gen = self.order.case.workload.tokens_of("measured")

        def ask(iteration: int, count: int) -> None:
            self.say(f"energy: request {iteration + 1}")
            self.vigil.enter(f"energy request {iteration + 1}")
            prompt = self._prompt(iteration, n_sent)
            generated, received = self.client.generate(prompt, count, self.order.silence_seconds)
            recorded(generated, received, prompt, count, self._vocab_size, iteration, "measured")

        if self.watch is not None:
            self.watch.start(self.child.pid)
        self.facts["energy"] = energy_pass.measure(self.order.meter, ask, n_sent, n_gen)
        if self.watch is not None:
            self.watch.end(self.child.pid)

    def _profile(self) -> None:
        """One request that compiles, one under the profiler; memory is sampled all the while."""
        folder = self.order.profile_folder
        assert folder is not None
        n_sent, n_gen = self.order.case.workload.tokens_of("measured")
        with MemoryTimeline(self.child.pid) as timeline:
            with timeline.span("load"):
                self._load()
            with timeline.span("first request"):
                self._request(0, "warm-up")
            self.say("profiled request")
            self.vigil.enter("profile")
            prompt = self._prompt(1, n_sent)
            with timeline.span("profiled request"):
                profiled = self.client.profile(prompt, min(n_gen, PROFILED_TOKENS), self.order.silence_seconds)
        try:
            profiles.keep(profiled.files, self.scratch, folder)
        except profiles.BadProfile as error:
            raise WrongOutput(str(error)) from None
        timeline.write(folder / profiles.MEMORY)

    def _load(self) -> None:
        self.vigil.enter("load")
        self.say("loading")

        def on_event(event: Event) -> None:
            self.vigil.heard()
            if isinstance(event, Progress):
                self.say(f"loading: {event.stage} {event.fraction:.0%}")

        order, sent_ns = self.order, time.perf_counter_ns()
        loaded = self.client.load(
            order.silence_seconds,
            on_event,
            configuration=order.case.configuration,
            model_path=str(order.model_path),
            n_ctx=order.case.workload.n_ctx,
            device=order.device,
            threads=order.threads,
            cache=str(order.cache),
            scratch=str(self.scratch),
            options=dict(order.options),
            shards=order.case.shards,
        )
        self.facts["load_ns"] = time.perf_counter_ns() - sent_ns
        self.facts["loaded"] = loaded_facts(loaded)
        if order.vocab_size not in (None, loaded.vocab_size):
            raise WrongOutput(f"loaded a vocabulary of {loaded.vocab_size}, the model has {order.vocab_size}")

    def _request(self, iteration: int, phase: Phase, repeat: bool = False, stage: str = "") -> Request:
        self.vigil.enter(stage or f"request {iteration + 1}", self._usual_seconds(phase))
        n_sent, n_gen = self.order.case.workload.tokens_of(phase)
        prompt = self._prompt(iteration, n_sent)
        generated, received = self.client.generate(prompt, n_gen, self.order.silence_seconds)
        request = recorded(generated, received, prompt, n_gen, self._vocab_size, iteration, phase)
        if iteration < CHECK_REQUESTS or repeat:
            request = msgspec.structs.replace(request, repeat=repeat, tokens=unpack_ids(generated.tokens).tolist())
        if not self.requests:
            first_token_ns = generated.t_start_ns + request.t_token_ns[0]
            self.facts["cold_start_ns"] = first_token_ns - self.child.started_ns
        self.requests.append(request)
        return request

    def _usual_seconds(self, phase: Phase) -> float | None:
        """Of a measured request: what the warm-up took, the median. A warm-up request may compile."""
        if phase != "measured" or not self.order.warmup:
            return None
        if self._usual is None:
            self._usual = statistics.median(r.t_token_ns[-1] for r in self.requests[: self.order.warmup]) / 1e9
        return self._usual

    def _prompt(self, iteration: int, n_sent: int) -> bytes:
        return pack_ids(prompt_ids(self.order.seed, iteration, n_sent, self._vocab_size))

    @property
    def _vocab_size(self) -> int:
        size: int = self.facts["loaded"].vocab_size
        return size


def loaded_facts(loaded: Loaded) -> LoadedFacts:
    facts = msgspec.structs.asdict(loaded)
    del facts["id"]
    facts["stages_ns"] = facts.pop("stages")
    return LoadedFacts(**facts)
