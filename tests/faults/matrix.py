"""What must come of each fault in each state of a launch: the whole table, as data.

A row is a fault; it says what a launch ends with, where that is otherwise, and why it is not tried in the other states.
The faults themselves are in misdeeds.py, the states are places in child.py.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from enginebench.store.record import Kind


@dataclass(frozen=True)
class State:
    """A place in the dialogue of a launch. `stage`: where a failure is recorded; `after`: one that is noticed late."""

    kind: Kind
    stage: str
    after: str = ""
    what: str = ""


STATES: Mapping[str, State] = {
    "spawn": State("timed", "hello", "load", "before the descriptors are moved"),
    "import": State("timed", "hello", "load", "before hello"),
    "hello": State("timed", "hello", "load", "in the hello"),
    "ready": State("timed", "load", what="after hello, nothing is asked"),
    "load": State("timed", "load", "request 1", "a load has begun"),
    "progress": State("timed", "load", "request 1", "after its first progress event"),
    "loaded": State("timed", "request 1", what="after loaded, nothing is asked"),
    "prefill": State("timed", "request 1", what="a request has begun"),
    "decode": State("timed", "request 1", "request 2", "after half of its tokens"),
    "half": State("timed", "request 1", what="half of its reply is written"),
    "memory": State("check", "memory", "repeat", "the account of memory"),
    "repeat": State("check", "repeat", "score", "a prompt asked again"),
    "score": State("check", "score", "unload", "the fidelity probe"),
    "energy": State("energy", "energy request 1", "energy request 2", "the first request of an energy launch"),
    "profile": State("profile", "profile", "unload", "a request under the engine's profiler"),
    "unload": State("timed", "unload", "shutdown", "the weights are given back"),
    "shutdown": State("timed", "shutdown", "", "before its reply"),
    "farewell": State("timed", "shutdown", "", "after its reply"),
}

OK = ""
"""The launch must end as if nothing had been."""


@dataclass(frozen=True)
class End:
    """What a launch must end with. None: whatever it is, for a process that is ended by us ends as it likes."""

    reason: str = OK
    exit_code: int | None = None
    signal: int | None = None
    out_of: str = ""
    stage: str = ""
    """Where it is recorded, if not in the stage of the state."""
    next_stage: bool = False
    """Noticed only where the next thing is asked."""
    ended: str = ""
    """How the process ended after its last reply, where that was not as it should be; the launch is none the worse."""


@dataclass(frozen=True)
class Fault:
    """`elsewhere`: why it is not tried in the other states."""

    name: str
    end: End
    at: frozenset[str]
    elsewhere: str = ""
    but: Mapping[str, End] = field(default_factory=dict)

    def expected(self, state: str) -> End:
        return self.but.get(state, self.end)


def _states(text: str) -> frozenset[str]:
    found = frozenset(text.split())
    assert found <= STATES.keys(), found - STATES.keys()
    return found


ANYWHERE = frozenset(STATES) - {"hello"}
FIRST = _states("spawn import")
ASKED = _states("load progress prefill decode memory repeat score energy profile unload shutdown")
"""A request runs, and nothing of its reply is written."""
REPLIES = _states("load decode memory repeat score energy profile unload shutdown")
ANSWERS = _states("decode repeat energy")
"""Replies with tokens and times."""
WHOLE = ANYWHERE - {"half"}
UNASKED = _states("spawn import ready loaded half")
"""An exception there has no reply to go into: it ends the process."""
QUICK = ANYWHERE - {"energy"}

NOT_A_PLACE = "hello is what is said, not a place"
TOO_LONG = "hello is what is said, not a place; an energy launch that nothing ends takes 32 s"
IN_A_FRAME = "in the half of a frame these bytes are a part of it"
NOT_SAID = "nothing is said there that could be changed"
NO_REQUEST = "no request runs to which it could belong"
NO_TOKENS = "there are no tokens in it"

EXITED_0, EXITED_3, EXITED_1 = End("exit", 0), End("exit", 3), End("exit", 1)
HANGS, LATE, PROTOCOL = End("hang"), End("deadline"), End("protocol-error")
NO_HELLO = dict.fromkeys(FIRST, End("hello-timeout"))
UNREAD = {"farewell": End()}
"""Nobody reads what comes after the last reply."""
TERMINATED, KILLED = {"farewell": End(ended="SIGTERM")}, {"farewell": End(ended="SIGKILL")}
"""It had answered everything, but did not end until it was told to."""


def _rows(
    names: str, end: End, at: Collection[str], elsewhere: str, but: Mapping[str, End] | None = None
) -> list[Fault]:
    return [Fault(name.strip(), end, frozenset(at), elsewhere, but or {}) for name in names.split("|")]


def _ends(name: str, end: End, **but: End) -> Fault:
    """A process that ends by itself."""
    late = f"signal {end.signal}" if end.signal else f"exit code {end.exit_code}" if end.exit_code else ""
    return Fault(name, end, ANYWHERE, NOT_A_PLACE, {"farewell": End(ended=late), **but})


FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in [
        *_rows(
            "no such program | no permission", End("spawn-failed", stage="spawn"), {"spawn"},
            "there is no process",
        ),
        # ---- noise
        *_rows(
            "noise: print | noise: C stdio | noise: write | noise: grandchild",
            End(), QUICK, TOO_LONG, {"spawn": PROTOCOL},
        ),
        *_rows("noise: flood of stderr | noise: endless line", End(), QUICK, TOO_LONG),
        # ---- frames
        *_rows(
            "half a frame, exit | half a length, exit",
            End("truncated", 0), WHOLE, "the same as exit 0 there", UNREAD,
        ),
        *_rows(
            "half a frame, SIGKILL", End("signal", signal=9), WHOLE, "the same as SIGKILL there",
            {"farewell": End(ended="signal 9")},
        ),
        *_rows("half a frame, silence", HANGS, WHOLE, "the same as sleep there", NO_HELLO | TERMINATED),
        *_rows("half a frame, pipes closed", End("truncated"), WHOLE, "the same as pipes closed there", TERMINATED),
        *_rows(
            "length above the cap | length of 2^32 - 1 | length of zero | garbage | garbage in a frame | no map"
            " | nested too deep | unknown message",
            PROTOCOL, WHOLE, IN_A_FRAME, UNREAD,
        ),
        # ---- what nobody asked for
        *_rows("reply to nobody", PROTOCOL, WHOLE, IN_A_FRAME, {**dict.fromkeys(FIRST, End("handshake")), **UNREAD}),
        *_rows(
            "hello again", PROTOCOL, WHOLE, IN_A_FRAME,
            {**dict.fromkeys(FIRST, End("protocol-error", next_stage=True)), **UNREAD},
        ),
        *_rows("token event", PROTOCOL, ASKED, NO_REQUEST),
        *_rows("endless progress", PROTOCOL, ASKED, NO_REQUEST, dict.fromkeys(("load", "progress"), LATE)),
        # ---- hangs
        *_rows("sleep | sleep with the GIL", HANGS, ANYWHERE, NOT_A_PLACE, NO_HELLO | TERMINATED),
        *_rows(
            "sleep, deaf to SIGTERM", HANGS, ANYWHERE, NOT_A_PLACE, NO_HELLO | {"farewell": End(ended="SIGABRT")}
        ),
        *_rows("SIGSTOP", HANGS, ANYWHERE, NOT_A_PLACE, NO_HELLO | KILLED),
        *_rows("spin | spin with the GIL", LATE, ANYWHERE, NOT_A_PLACE, NO_HELLO | TERMINATED),
        # ---- ends
        # a stream that ends in the middle of a reply is a torn frame, unless a signal says more
        _ends("exit 0", EXITED_0, half=End("truncated", 0)),
        _ends("exit 3", EXITED_3, half=End("truncated", 3)),
        _ends("uncaught exception", EXITED_1, half=End("truncated", 1)),
        _ends("abort", End("signal", signal=6)),
        _ends("segfault", End("signal", signal=11)),
        _ends("SIGKILL", End("signal", signal=9)),
        _ends("SIGTERM", End("signal", signal=15)),
        _ends("fork, parent exits", EXITED_0),
        *_rows("pipes closed", End("closed"), ANYWHERE, NOT_A_PLACE, {"half": End("truncated")} | TERMINATED),
        # ---- memory
        *_rows(
            "host out of memory", End("out-of-memory", out_of="host"), ANYWHERE, NOT_A_PLACE,
            {**dict.fromkeys(UNASKED, End("out-of-memory", 1, out_of="host")), "farewell": End(ended="exit code 1")},
        ),
        *_rows(
            "device out of memory", End("out-of-memory", out_of="device"), ASKED, "it is told in a reply to a request"
        ),
        # ---- grandchildren
        *_rows("grandchild | grandchild, own session | grandchild, twice forked", End(), QUICK, TOO_LONG),
        _ends("grandchild holds the pipe", EXITED_3),
        _ends("grandchild, own session, holds the pipe", End("signal", signal=9)),
        # ---- what is said otherwise
        *_rows(
            "wrong version | wrong nonce | wrong engine | other than hello",
            End("handshake"), {"hello"}, "only a hello has it",
        ),
        *_rows(
            "unknown field | missing field | NaN | infinity | number beyond all bounds | negative number"
            " | text for a number",
            PROTOCOL, REPLIES | {"hello", "progress"}, NOT_SAID,
        ),
        *_rows("NaN fraction", PROTOCOL, {"progress"}, "only a progress event has a fraction"),
        *_rows("other id | other kind", PROTOCOL, REPLIES, NOT_SAID),
        *_rows("reply twice", End("protocol-error", next_stage=True), REPLIES, NOT_SAID, {"shutdown": End()}),
        *_rows(
            "torn list of times | torn list of tokens | times run backwards | token before the start | negative times"
            " | too few tokens | too many tokens | no tokens | negative token | token outside the vocabulary"
            " | other prompt | other prompt length",
            End("wrong-output"), ANSWERS, NO_TOKENS,
        ),
        *_rows("another vocabulary", End("wrong-output"), {"load"}, "only a loaded model has one"),
        *_rows("says unsupported", End("unsupported"), REPLIES, NOT_SAID),
        *_rows("says internal | says no known code", End("engine-failure"), REPLIES, NOT_SAID),
        *_rows(
            "file outside | file that is not there | file named like a path",
            End("wrong-output"), {"profile"}, "only a profile names files that are kept",
        ),
    ]
}  # fmt: skip


@dataclass(frozen=True)
class Injection:
    state: str
    fault: str

    @property
    def end(self) -> End:
        return FAULTS[self.fault].expected(self.state)

    @property
    def stage(self) -> str:
        """Where the failure must be recorded."""
        state = STATES[self.state]
        return self.end.stage or (state.after if self.end.next_stage else state.stage)


def every() -> Iterator[Injection]:
    """Each fault in each state where it means something."""
    return (Injection(state, fault.name) for fault in FAULTS.values() for state in STATES if state in fault.at)


def some(seed: int) -> list[Injection]:
    """Each fault and each state at least once, in few injections."""
    dice, combinations = random.Random(seed), list(every())
    dice.shuffle(combinations)
    chosen = {injection.fault: injection for injection in combinations}
    missing = set(STATES) - {injection.state for injection in chosen.values()}
    return [*chosen.values(), *({i.state: i for i in combinations if i.state in missing}).values()]
