"""The entry point of an engine's process: own stdin and stdout first, then decide who is asking.

Imports nothing but os, stat, sys and time until the descriptors are safe: native libraries, prints and grandchildren
can then never touch the protocol stream.
"""

from __future__ import annotations

import os
import stat
import sys
import time

T_BEGIN_NS = time.perf_counter_ns()
"""Before the engine's own imports: what came before is the interpreter's start."""


def run(engine: str, models: str | None = None) -> None:
    """`engine` and `models` name classes as "module:Class"; they are imported after the descriptors are safe.

    With no argument and a pipe on stdin (or with `serve`) the process speaks the protocol. Otherwise it is a command
    for people: describe, bench, generate, score, reproduce.
    """
    arguments = sys.argv[1:]
    if arguments[:1] == ["serve"] or (not arguments and _stdin_is_a_stream()):
        read_fd, write_fd = claim_stdio()
        from .serve import serve_process

        raise SystemExit(serve_process(engine, read_fd, write_fd, arguments[1:], T_BEGIN_NS))
    from .standalone import command

    raise SystemExit(command(engine, models, arguments))


def _stdin_is_a_stream() -> bool:
    mode = os.fstat(0).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def claim_stdio() -> tuple[int, int]:
    """Private copies of stdin and stdout; afterwards 0 reads nothing and 1 goes to stderr."""
    read_fd, write_fd = os.dup(0), os.dup(1)  # close-on-exec, so no grandchild inherits them
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return read_fd, write_fd
