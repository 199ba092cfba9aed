"""What a process of ours gives up before it looks at what strangers wrote, by prctl(2), setrlimit(2) and Landlock.

No new privileges, no core dump; and where the kernel has Landlock: no file is written, no program started, no TCP
connection made, no signal sent to another process. Cannot be taken back. Only the thread that calls it and those that
it starts are confined: call it first.
"""

import ctypes
import os
import resource
import struct

NO_NEW_PRIVS = 38  # linux/prctl.h
CREATE_RULESET, RESTRICT_SELF = 444, 446  # include/uapi/asm-generic/unistd.h, the same on all processors
ASK_VERSION = 1  # linux/landlock.h, LANDLOCK_CREATE_RULESET_VERSION
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
CHANGES = sum(1 << bit for bit in range(4, 13))  # REMOVE_DIR … MAKE_SYM
ADDED = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}  # REFER, TRUNCATE, IOCTL_DEV, by the version that has them
TCP, SCOPES = 3, 3  # bind and connect, from version 4; abstract sockets and signals, from version 6


def confine(reads: bool = True) -> str:
    """`reads`: files may still be opened for reading. Returns in words what is in force."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return "core 0"
    version = landlock_version(library)
    if version < 1 or not restrict(library, version, reads):
        return "no_new_privs, core 0"
    return f"no_new_privs, core 0, landlock {version}"


def landlock_version(library: ctypes.CDLL | None = None) -> int:
    """0 where the kernel has none."""
    library = library or ctypes.CDLL(None, use_errno=True)
    return max(0, int(library.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ASK_VERSION)))


def restrict(library: ctypes.CDLL, version: int, reads: bool) -> bool:
    """A ruleset without a rule: what it handles is forbidden everywhere."""
    files = EXECUTE | WRITE_FILE | CHANGES | sum(bit for since, bit in ADDED.items() if version >= since)
    if not reads:
        files |= READ_FILE | READ_DIR
    fields = [files, *([TCP] if version >= 4 else []), *([SCOPES] if version >= 6 else [])]
    attributes = struct.pack(f"{len(fields)}Q", *fields)
    ruleset = library.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return False
    try:
        return bool(library.syscall(RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


if __name__ == "__main__":  # what is in force on this machine, tried
    print(confine())
