"""The first signal ends what is going on, but never in the middle of a record; what stood before stands again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from enginebench.run.interrupts import SAME_SECONDS, SIGNALS, Interrupts


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_raises_where_the_program_is(number: signal.Signals) -> None:
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert interrupts.exit_code == 128 + number


def test_while_a_record_is_written_it_waits() -> None:
    done = []
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.held():
        signal.raise_signal(signal.SIGINT)
        done.append("written")
    assert done == ["written"]


def test_without_a_signal_nothing_is_raised() -> None:
    with Interrupts() as interrupts, interrupts.held():
        pass
    assert interrupts.number is None


def test_at_the_end_a_first_signal_changes_nothing() -> None:
    with Interrupts() as interrupts:
        interrupts.hold()
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.number == signal.SIGTERM


def test_handlers_are_put_back_and_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    others = [signal.getsignal(number) for number in SIGNALS]
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGHUP)
            assert interrupts.number is None
        assert [signal.getsignal(number) for number in SIGNALS] == others
    finally:
        signal.signal(signal.SIGHUP, before)


SECOND = f"""
import signal, time
from enginebench.run.interrupts import Interrupts
with Interrupts(lambda: print("all ended", flush=True)) as interrupts:
    interrupts.hold()
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGHUP)
    print("twice at once is one", flush=True)
    time.sleep({SAME_SECONDS} + 0.1)
    signal.raise_signal(signal.SIGTERM)
    print("never", flush=True)
"""


def test_a_second_signal_ends_everything_even_while_a_record_is_written() -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", SECOND], capture_output=True, text=True, check=False)
    assert done.stdout == "twice at once is one\nall ended\n"
    assert done.returncode == 128 + signal.SIGTERM
    assert "once more ends everything at once" in done.stderr
    assert time.monotonic() - began < 20
