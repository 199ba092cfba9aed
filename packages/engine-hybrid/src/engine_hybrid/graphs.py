"""A captured tinygrad graph, and the short way to run it: its kernels one after the other with no Python between them.

tinygrad's own runner hands every kernel to its threads through Python queues, about 0.1 ms each; a decode step has some
200 kernels. What TinyJit has captured is a list of machine-code functions, buffers and numbers of threads; on a
processor that list is walked here by a small function in C, compiled by tinygrad's own compiler. Elsewhere, or where
the list holds anything else than kernels, TinyJit runs its graph itself.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt
from tinygrad import Device, TinyJit, UOp
from tinygrad.engine.realize import get_call_arg_uops, get_runtime
from tinygrad.helpers import CPU_COUNT, mv_address
from tinygrad.renderer.cstyle import ClangJITRenderer
from tinygrad.runtime.ops_cpu import CPUProgram
from tinygrad.uop.ops import Ops

from engine_hybrid.sharing import finish

MAX_ARGUMENTS = 16
NO_CORE = MAX_ARGUMENTS  # where the number of the thread goes if the kernel does not ask for it
THREADS, SYNC, FIRST_ARGUMENT = 1, 2, 4  # fields of `struct step`
ROW = FIRST_ARGUMENT + MAX_ARGUMENTS

# Pointers and ints alike are passed as 64-bit integers, and always 16 of them: in the System V calling convention a
# function does not see arguments that it did not ask for. A thread that waits long (its partner has lost the processor
# to another process) offers its own: system call 24 is sched_yield.
SOURCE = """
typedef unsigned long u64;
typedef void (*kernel)(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64);
struct step { u64 kernel; long threads, sync, core; u64 arguments[16]; };

void walk(struct step *steps, long n_steps, long thread, long n_threads, long *arrived, long target) {
  for (long i = 0; i <= n_steps; i++) {
    struct step *s = steps + i;
    if (i == n_steps || s->sync) {
      target += n_threads;
      __atomic_add_fetch(arrived, 1, __ATOMIC_ACQ_REL);
      for (long spins = 1; __atomic_load_n(arrived, __ATOMIC_ACQUIRE) < target; spins++) {
        __builtin_ia32_pause();
        long call = 24;
        if (spins % 4096 == 0) __asm__ volatile("syscall" : "+a"(call) : : "rcx", "r11", "memory");
      }
      if (i == n_steps) return;
    }
    if (thread >= s->threads) continue;
    u64 a[17];
    for (int j = 0; j < 16; j++) a[j] = s->arguments[j];
    a[s->core] = thread;
    ((kernel)s->kernel)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7],
                        a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]);
  }
}
"""


class Graph:
    """`function` over a variable, captured by the first call."""

    def __init__(self, function: Callable[[UOp], None], variable: UOp, device: str, crew: Crew | None) -> None:
        self.variable, self.device, self.crew = variable, device, crew
        self.jit = TinyJit(function)
        self.jit.cnt = 1  # record the first call: TinyJit's own first one is for functions that create state
        self.listing: Listing | None = None

    def __call__(self, value: int) -> None:
        if self.listing is not None and self.crew is not None:
            self.crew.walk(self.listing, value)
            return
        self.jit(self.variable.bind(value))
        finish(self.device)
        if self.crew is not None and self.listing is None:
            self.listing = listed(self.jit, str(self.variable.expr))


@dataclass(eq=False)
class Listing:
    """steps     uint64 [n, 20], rows as `struct step` in C
    places    where the variable's value goes, in `steps` flattened
    n_syncs   how often the threads wait for each other
    buffers   what the arguments point to
    """

    steps: npt.NDArray[np.uint64]
    places: npt.NDArray[np.int64]
    n_syncs: int
    buffers: list[Any]


def listed(jit: TinyJit[None], variable: str) -> Listing | None:
    """What the graph consists of; None where that is more than kernels over this variable."""
    assert jit.captured is not None, "called once"
    rows: list[list[int]] = []
    places: list[int] = []
    buffers: list[Any] = []
    for call in kernels(jit.captured.linear):
        program, operands = call.src[0], get_call_arg_uops(call)
        if program.op is not Ops.PROGRAM or any(u.op is Ops.PARAM for b in operands for u in b.toposort()):
            return None
        own, names = [b.buffer.ensure_allocated() for b in operands], [v.expr for v in program.arg.vars]
        pointers = [own[slot]._buf.va_addr for slot in program.arg.globals]
        if len(pointers) + len(names) > MAX_ARGUMENTS or not {variable, "core_id"}.issuperset(names):
            return None
        core = len(pointers) + names.index("core_id") if "core_id" in names else NO_CORE
        first = len(rows) * ROW + FIRST_ARGUMENT + len(pointers)
        places += [first + at for at, name in enumerate(names) if name == variable]
        rows.append([mv_address(get_runtime("CPU", program).mem), program.arg.global_size[0], 0, core, *pointers])
        buffers += own
    steps = np.array([row + [0] * (ROW - len(row)) for row in rows], np.uint64)
    together = steps[:, THREADS] > 1
    steps[1:, SYNC] = together[1:] | together[:-1]  # between two kernels of one thread nobody has to wait
    return Listing(steps, np.array(places, np.int64), int(steps[:, SYNC].sum()) + 1, buffers)


def kernels(linear: UOp) -> Iterator[UOp]:
    """The calls of a captured graph, the batches among them taken apart."""
    for call in linear.src:
        batched = call.src[0].op is Ops.CUSTOM_FUNCTION and call.src[0].arg == "graph"
        yield from kernels(call.src[0].src[0]) if batched else (call,)


class Crew:
    """The threads that walk listings: the caller's and one less than tinygrad may use. They sleep in between."""

    def __init__(self, walker: CPUProgram) -> None:
        self.walker = walker
        self.n_threads = CPU_COUNT.value
        self.arrived, self.target = ctypes.c_long(0), 0
        self.orders: list[SimpleQueue[tuple[object, ...] | None]] = [SimpleQueue() for _ in range(1, self.n_threads)]
        for queue in self.orders:
            threading.Thread(target=follow, args=(queue, walker.fxn), daemon=True).start()

    def walk(self, listing: Listing, value: int) -> None:
        """All kernels, with the variable at `value`; they are done when this returns."""
        listing.steps.reshape(-1)[listing.places] = value
        steps = ctypes.c_void_p(listing.steps.ctypes.data), ctypes.c_long(len(listing.steps))
        rest = ctypes.c_long(self.n_threads), ctypes.byref(self.arrived), ctypes.c_long(self.target)
        for number, queue in enumerate(self.orders, 1):
            queue.put((*steps, ctypes.c_long(number), *rest))
        self.walker.fxn(*steps, ctypes.c_long(0), *rest)
        self.target += self.n_threads * listing.n_syncs

    def __del__(self) -> None:
        for queue in self.orders:
            queue.put(None)


def follow(orders: SimpleQueue[tuple[object, ...] | None], function: Callable[..., None]) -> None:
    for order in iter(orders.get, None):
        function(*order)


def new_crew(device: str) -> Crew | None:
    """None where kernels are not plain functions in this process's memory, or nothing can compile the walker."""
    renderer: Any = Device[device].renderer
    if device != "CPU" or not isinstance(renderer, ClangJITRenderer):
        return None
    return Crew(CPUProgram(Device[device], "walk", renderer.compiler.compile_cached(SOURCE)))
