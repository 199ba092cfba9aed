"""Generation, greedy or sampled, and teacher-forced scoring of one sequence: all through the same prefill and step."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from enginebench_models.sampling import Choose

from engine_tensorrt.session import Session


def generate(session: Session, prompt: array[int], n_gen: int) -> Iterator[int]:
    """Yields n_gen ids, each when it is on the host."""
    session.prefill(prompt)
    run = ahead if session.captured else in_turn
    return run(session, len(prompt), n_gen)


def in_turn(session: Session, n_prompt: int, n_gen: int) -> Iterator[int]:
    """Every id goes through the host."""
    for position in range(n_prompt, n_prompt + n_gen):
        session.fetch_id(0)
        token = session.arrived_id(0)
        yield token
        if position < n_prompt + n_gen - 1:
            session.place(token, position)
            session.step()


def ahead(session: Session, n_prompt: int, n_gen: int) -> Iterator[int]:
    """The id stays on the device for the next step, which is queued before the id is waited for."""
    session.fetch_id(0)
    for done in range(1, n_gen):
        session.step()
        session.fetch_id(done % 2)
        yield session.arrived_id((done - 1) % 2)
    yield session.arrived_id((n_gen - 1) % 2)


def sample(session: Session, prompt: array[int], n_gen: int, choose: Choose) -> Iterator[int]:
    """As `generate`, but the logits come to the host and the id goes back."""
    session.prefill(prompt)
    for position in range(len(prompt), len(prompt) + n_gen):
        token = choose(session.read_logits())
        yield token
        if position < len(prompt) + n_gen - 1:
            session.place(token, position)
            session.step()


def score(session: Session, tokens: array[int], n_prefill: int) -> npt.NDArray[np.float32]:
    """Logits after the prefill and after each of the rest, float32 [len(tokens) - n_prefill + 1, vocab]."""
    rows = np.empty((len(tokens) - n_prefill + 1, session.config.vocab_size), np.float32)
    session.prefill(tokens[:n_prefill])
    rows[0] = session.read_logits()
    for row, position in enumerate(range(n_prefill, len(tokens)), start=1):
        session.place(tokens[position], position)
        session.step()
        rows[row] = session.read_logits()
    return rows
