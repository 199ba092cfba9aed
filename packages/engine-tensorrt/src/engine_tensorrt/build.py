"""Network → serialized plan: builder settings, shape profiles, progress. Where plans are kept is `plans`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from engine_tensorrt.library import Library, Unsupported
from engine_tensorrt.model import IDS, POSITIONS, LlamaNetwork


@dataclass(frozen=True)
class Options:
    """What the builder is told; all of it is part of a plan's key.

    level               builder optimisation level, 0 to 5; None: the library's default
    split_profiles      a shape profile for prefill and one for decode (n = 1); else one for both
    compute_capability  "SM89", … to build for; "" for what the library builds for by itself
    """

    level: int | None = None
    split_profiles: bool = False
    compute_capability: str = ""


class Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


class BuildFailed(Exception):
    """The builder refused the network."""


def build_plan(
    library: Library,
    made: LlamaNetwork,
    options: Options,
    sink: Sink,
    progress: Callable[[float], None],
    timings: Path | None = None,
) -> None:
    """Write the plan to `sink` as it is serialized, so that weights are held once. Raises BuildFailed.

    `timings`: a file that remembers how fast kernels were, for builds to come.
    """
    builder = made.network.builder
    config = builder.create_builder_config()
    configure(library, config, options)
    for lengths in profiles(made.style.n_ctx, options):
        config.add_optimization_profile(shape_profile(builder, lengths))
    if timings is not None and not library.just_in_time:  # TensorRT for RTX times nothing when it builds
        remembered = timings.read_bytes() if timings.exists() else b""
        config.set_timing_cache(config.create_timing_cache(remembered), False)  # empty, if of another library or GPU
    monitor, writer = progress_monitor(library.trt, progress), stream_writer(library.trt, sink)
    config.progress_monitor = monitor
    if not builder.build_serialized_network_to_stream(made.network, config, writer):
        raise BuildFailed(f"{library.name} {library.version} built no plan: {library.errors()}")
    if timings is not None and not library.just_in_time:
        replace_file(timings, bytes(config.get_timing_cache().serialize()))


def replace_file(path: Path, data: bytes) -> None:
    """Never half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(data)
    scratch.replace(path)


def configure(library: Library, config: Any, options: Options) -> None:
    trt = library.trt
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default; float32 shall mean float32
    config.max_aux_streams = 0  # decoding is a chain: one stream, which can be captured
    if options.level is not None:
        config.builder_optimization_level = options.level
    if options.compute_capability:
        if not library.just_in_time:
            what = f"{library.name} builds for the GPU of this machine only, not for {options.compute_capability}"
            raise Unsupported(what, "use TensorRT for RTX")
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, options.compute_capability), 0)


def profiles(n_ctx: int, options: Options) -> list[tuple[int, int, int]]:
    """Fewest, usual and most ids, by profile: prefill first."""
    prefill = (1, max(1, n_ctx // 2), n_ctx)
    return [prefill, (1, 1, 1)] if options.split_profiles else [prefill]


def shape_profile(builder: Any, lengths: tuple[int, int, int]) -> Any:
    profile = builder.create_optimization_profile()
    for name in (IDS, POSITIONS):
        profile.set_shape(name, *((length,) for length in lengths))
    return profile


def stream_writer(trt: Any, sink: Sink) -> Any:
    class Writer(trt.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)

        def write(self, data: bytes) -> int:
            return sink.write(data)

    return Writer()


def progress_monitor(trt: Any, progress: Callable[[float], None]) -> Any:
    """The builder's phases are trees; the outermost counts here. It calls from threads of its own."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.lock = threading.Lock()
            self.steps: dict[str, int] = {}
            self.fraction = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self.lock:
                if parent_phase is None:
                    self.steps[phase_name] = max(1, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self.lock:
                if phase_name in self.steps:
                    self.fraction = max(self.fraction, min(1.0, (step + 1) / self.steps[phase_name]))
                    progress(self.fraction)
            return True

        def phase_finish(self, phase_name: str) -> None:
            """Nothing is shown of it."""

    return Monitor()
