"""What a run records: raw facts only, as they are journalled. Metrics are derived from them and replace none.

msgspec Structs, so that a record is one line of JSON and is checked when it is read back.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from .surroundings import LaunchNoise

PROBE_PREFILL, PROBE_DECODE = 64, 64
"""The fidelity probe: tokens that go through prefill, then through cached decode."""

DEPTH_REQUESTS = 4
"""Three that count, and one before them."""

FailureReason = Literal[
    "spawn-failed",
    "hello-timeout",
    "handshake",
    "protocol-error",
    "truncated",
    "closed",
    "exit",
    "signal",
    "out-of-memory",
    "hang",
    "deadline",
    "unsupported",
    "engine-failure",
    "wrong-output",
    "interrupted",
]
"""What each means: results/SCHEMA.md."""


CLOCKS_DISAGREE = "engine's and parent's clocks disagree"
"""How the doubt of that kind begins."""

Kind = Literal["check", "timed", "cold", "energy", "profile"]
Phase = Literal["warm-up", "measured", "depth"]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records."""


class Workload(Record, frozen=True):
    """One request's work, in llama-bench's words: pp = prompt tokens, tg = generated tokens, @d = tokens before them.

    A request starts from an empty cache: tokens of the depth are sent in front of the prompt, as one prefill.
    """

    n_prompt: int
    n_gen: int
    n_depth: int = 0
    batch_size: int = 1

    @property
    def name(self) -> str:
        """plan.workload.parsed reads it back."""
        prefill = f"pp{self.n_prompt}" if self.n_prompt > 1 or self.n_gen == 1 else ""
        decode = f"tg{self.n_gen}" if self.n_gen > 1 else ""
        return "+".join(filter(None, (prefill, decode))) + (f"@d{self.n_depth}" if self.n_depth else "")

    @property
    def n_sent(self) -> int:
        """Token ids of one request's prompt: the depth and what comes after it."""
        return self.n_depth + self.n_prompt

    @property
    def mean_context(self) -> float:
        """Tokens in the cache, on average over the decode phase."""
        return self.n_sent + self.n_gen / 2

    @property
    def n_depth_requests(self) -> int:
        """Requests of the depth alone that a launch makes; the first may compile, and is not counted."""
        return DEPTH_REQUESTS if self.n_depth and self.n_prompt > 1 else 0

    def tokens_of(self, phase: str) -> tuple[int, int]:
        """(tokens sent, tokens generated) of one request."""
        return (self.n_depth, 1) if phase == "depth" else (self.n_sent, self.n_gen)

    @property
    def n_ctx(self) -> int:
        """Positions to allocate: the same in every launch, so that the fidelity probe runs the timed graphs."""
        return max(self.n_sent + self.n_gen, PROBE_PREFILL + PROBE_DECODE)


class Case(Record, frozen=True):
    """engine:configuration × model × workload, × threads where a run sweeps them, × shards where there are several."""

    engine: str
    configuration: str
    model: str
    workload: Workload
    threads: int | None = None
    """None: the number of the run."""
    shards: int = 1
    """Devices, or ranks on one processor, that share the model."""

    @property
    def id(self) -> str:
        return f"{self.engine}:{self.configuration}/{self.model}/{self.workload.name}{self._suffix('/')}"

    @property
    def label(self) -> str:
        return f"{self.engine}:{self.configuration}{self._suffix(' ')}"

    def _suffix(self, separator: str) -> str:
        threads = "" if self.threads is None else f"{separator}t{self.threads}"
        return threads + ("" if self.shards == 1 else f"{separator}x{self.shards}")


class Request(Record, frozen=True):
    """One generate request. `t_token_ns` counts from `t_start_ns`; the stamps are the engine's."""

    phase: Phase
    """depth: only the tokens of a workload's depth and one decision, to know what they take of its prefill."""
    iteration: int
    n_prompt: int
    """Tokens sent: those of the depth are among them."""
    prompt_sha256: str
    tokens_sha256: str
    t_start_ns: int
    t_token_ns: list[int]
    clock_disagreement_ns: int
    """Parent's duration minus the engine's, for the whole request."""
    reported: dict[str, int] = {}
    """The same request by the clock of the engine's own server, if it has one."""
    doubts: list[str] = []
    """Recorded causes that make this sample invalid; empty means valid."""
    repeat: bool = False
    """A prompt that was asked just before (check launches): for the audits."""
    tokens: list[int] = []
    """The ids themselves, of the prompts that check launches ask too."""


class GreedyReading(Record, frozen=True):
    """The first ids of an answer, held against the reference's likeliest at each step of the engine's own course."""

    iteration: int
    n_tokens: int
    passed: bool
    worst_margin: float
    """Nats between the reference's likeliest id and the one chosen; the largest over the steps."""
    worst_rank: int
    """Place of the chosen id in the reference's order, from 1; the largest over the steps."""
    reasons: list[str] = []


class LoadedFacts(Record, frozen=True):
    """The engine's report of what it really loaded (protocol message `loaded`)."""

    weights_fingerprint: str
    precision: str
    weight_dtype: str
    activation_dtype: str
    kv_dtype: str
    device: str
    threads: int
    n_ctx: int
    vocab_size: int
    weights_bytes: int
    kv_cache_bytes: int
    read_bytes_per_token: int
    stages_ns: dict[str, int]
    versions: dict[str, str]
    top_logprobs: int = 0
    shared_server: bool = False
    shards: int = 1
    device_bytes: list[int] = []
    """Weights and cache of each device or rank; empty: one device, or the engine cannot tell."""
    weights_path: str = ""


class DeviceMemoryReading(Record, frozen=True):
    """Bytes of the GPU, by NVML. Growth: in use above `baseline_bytes`, read before the engine touched the GPU."""

    baseline_bytes: int
    peak_growth_bytes: int | None = None
    peak_of_processes_bytes: int | None = None
    """Of the engine's process tree, as NVML lists it."""
    processes_lack: str = ""
    ready_growth_bytes: int | None = None
    """After hello, before load."""
    loaded_growth_bytes: int | None = None
    unloaded_growth_bytes: int | None = None
    """Weights and cache given back: the context of the driver and what the engine kept."""


class MemoryReading(Record, frozen=True):
    """Bytes. `peak_pss` is the highest ΣPSS over the process tree during load and one request; sampled from outside."""

    peak_pss_bytes: int
    peak_pss_anon_bytes: int
    peak_pss_file_bytes: int
    loaded_pss_bytes: int
    """ΣPSS after load, before the first request."""
    max_vm_hwm_bytes: int
    n_samples: int
    engine_weights_bytes: int
    engine_kv_cache_bytes: int
    engine_workspace_bytes: int | None = None
    engine_device_peak_bytes: int | None = None
    cgroup_peak_bytes: int | None = None
    """memory.peak of a control group of the engine's own: with page cache and kernel memory."""
    cgroup_lack: str = ""
    process_peaks_bytes: list[int] = []
    """Where the engine is several processes: the highest PSS of each that lived to the end, its own first."""
    device: DeviceMemoryReading | None = None


class EnergyWindow(Record, frozen=True):
    """What each counter counted over some seconds in which `n_requests` requests were answered."""

    seconds: float
    joules: dict[str, float]
    n_requests: int

    @property
    def total_j(self) -> float:
        return sum(self.joules.values())


class EnergyReading(Record, frozen=True):
    """Three windows of an energy launch: nobody asks, prefills alone, and full requests."""

    counters: list[str]
    n_sent: int
    """Tokens of each prompt."""
    n_gen: int
    idle: EnergyWindow | None = None
    prefill: EnergyWindow | None = None
    full: EnergyWindow | None = None
    """None for workloads of one generated token."""


class ImpactReading(Record, frozen=True):
    """Distance of a quantised engine's logits from the reference of the weights as they were before quantising."""

    mean_kld: float
    top1: float
    n_positions: int
    mean_kld_error: float | None = None
    """Standard error over the positions."""
    ppl_ratio: float | None = None
    """Perplexity over that of the reference, of the probe's ids; None where not all logits are told."""
    ppl_ratio_error: float | None = None
    top_logprobs: int = 0
    """The divergence is a lower bound, from so many log-probabilities per position."""


class FidelityReading(Record, frozen=True):
    """Distance of the engine's logits from the float32 reference over the probe. None: not finite."""

    passed: bool
    reasons: list[str]
    precision: str
    n_positions: int
    mean_kld: float | None
    max_kld: float | None
    top1: float | None
    max_abs_logit: float | None
    top_logprobs: int = 0
    """The engine told only so many log-probabilities per position: the weaker check."""
    overlap: float | None = None
    kld_999: float | None = None
    top1_clear: float | None = None
    """Agreement where the reference is clear by 0.2 nat; None without such a position."""
    max_shifted_logit: float | None = None
    impact: ImpactReading | None = None
    """Of quantising; None where the engine computes with the weights as they are stored."""


class Failure(Record, frozen=True):
    """Why a launch did not end well. `stderr_tail` holds the engine's last lines."""

    reason: FailureReason
    message: str
    hint: str = ""
    detail: str = ""
    stage: str = ""
    """The state of the launch: spawn, hello, load, request N, energy request N, memory, repeat, score, profile, unload,
    shutdown."""
    exit_code: int | None = None
    """Of a process that ended by itself."""
    signal: int | None = None
    """That ended it, sent by nobody of ours."""
    stderr_tail: list[str] = []
    out_of: Literal["", "host", "device"] = ""
    """Whose memory: of `out-of-memory` only."""
    ended_with: str = ""
    """The signal of ours that it took to end the process; empty: none."""


class StartState(Record, frozen=True):
    """Where the pages of the model were when the process was spawned, by mincore."""

    asked: Literal["disk-cold", "cache-warm"]
    resident_share: float | None
    """None: the kernel does not say."""
    filesystem: str | None = None
    reason: str | None = None
    """Why the launch did not start as asked."""


class Launch(Record, frozen=True):
    """One child process of one case. `check` launches admit a case (fidelity, memory); nothing of them is a result.

    `cold` launches find the model on the disk alone, `energy` launches count joules; nothing of them is in an average
    of `timed` ones.
    """

    case: Case
    kind: Kind
    block: int
    order: int
    started_at: str
    duration_ns: int
    failure: Failure | None = None
    startup_ns: int | None = None
    """spawn → hello: interpreter start and imports."""
    interpreter_ns: int | None = None
    """spawn → the first line of the process that is ours; None where the engine does not tell."""
    load_ns: int | None = None
    """load request → loaded."""
    cold_start_ns: int | None = None
    """spawn → first token of the first request."""
    loaded: LoadedFacts | None = None
    requests: list[Request] = []
    memory: MemoryReading | None = None
    fidelity: FidelityReading | None = None
    greedy: list[GreedyReading] = []
    harness_cpu_share: float | None = None
    """CPU time of the orchestrator ÷ wall time, over the timed requests."""
    energy: EnergyReading | None = None
    noise: LaunchNoise | None = None
    """Of checks only what was found before the spawn."""
    doubts: list[str] = []
    """Recorded causes that make the whole launch invalid; empty means valid."""
    start_state: StartState | None = None
    ended: str = ""
    """How the process ended after its last reply, if not by itself with exit code 0; its answers are none the worse."""
    remains: list[str] = []
    """What of it could not be removed: a process, memory of the GPU. Nothing is timed on this machine after it."""
    disk_read_bytes: int | None = None
    """Of a cold launch: what its processes had from the disk until the last request, by /proc/PID/io."""
    sandbox: str | None = None
    """Of a check: what the engine's process had given up, read from outside after its hello."""
    spent_ns: int | None = None
    """Of the run, from the end of its set-up to the end of this launch, interruptions left out: its time budget."""

    @property
    def ok(self) -> bool:
        return self.failure is None

    @property
    def place(self) -> tuple[Case, Kind, int, int]:
        """Its place in the plan; one that was repeated shares it."""
        return self.case, self.kind, self.block, self.order

    @property
    def counts(self) -> bool:
        """Whether its times may be averaged."""
        return self.kind == "timed" and self.ok and not self.doubts

    @property
    def started_as_asked(self) -> bool:
        return self.start_state is None or self.start_state.reason is None

    @property
    def of_workload(self) -> list[Request]:
        """Warm-up and measured requests: all the same work."""
        return [r for r in self.requests if r.phase != "depth"]

    @property
    def warmup(self) -> list[Request]:
        return [r for r in self.requests if r.phase == "warm-up"]

    @property
    def measured(self) -> list[Request]:
        return [r for r in self.requests if r.phase == "measured"]


class Resumed(Record, frozen=True):
    """A run was interrupted before this and went on from here. `launches`: how many were behind it."""

    resumed_at: str
    pid: int
    launches: int
    remarks: list[str] = []
    """What may differ from the beginning."""
