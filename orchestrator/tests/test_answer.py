"""An answer is the work that was asked for, or it is refused as wrong output, in words that name the value."""

from __future__ import annotations

from typing import Any

import pytest
from enginebench.run.answer import WrongOutput, recorded
from enginebench_protocol.client import Received
from enginebench_protocol.codec import pack_ids, pack_times
from enginebench_protocol.messages import Done, Generated
from enginebench_protocol.prompts import ids_sha256

PROMPT, VOCABULARY = pack_ids([1, 2, 3]), 100
RIGHT: dict[str, Any] = {
    "id": 1,
    "n_prompt": 3,
    "prompt_sha256": ids_sha256(PROMPT),
    "tokens": pack_ids([4, 99]),
    "t_start_ns": 1000,
    "t_token_ns": pack_times([1100, 1200]),
}


def record(**changes: Any) -> Any:
    received = Received(Done(id=1), 900, 1300)
    return recorded(Generated(**{**RIGHT, **changes}), received, PROMPT, 2, VOCABULARY, 0, "measured")


def test_the_work_that_was_asked_for_is_recorded() -> None:
    request = record()
    assert (request.n_prompt, request.t_token_ns, request.clock_disagreement_ns) == (3, [100, 200], 200)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": pack_ids([4])}, "1 tokens and 2 times instead of 2"),
        ({"tokens": b"", "t_token_ns": b""}, "0 tokens and 0 times instead of 2"),
        ({"tokens": pack_ids([4, 100])}, "token id 100 outside the vocabulary of 100"),
        ({"tokens": b"\xff" * 8}, "negative token id -1"),
        ({"tokens": b"\x01" * 7}, "packed array of 7 bytes: not a multiple of 4, or too long"),
        ({"t_token_ns": pack_times([1200, 1100])}, "token times run backwards"),
        ({"t_token_ns": pack_times([999, 1100])}, "the first token is stamped before the request started"),
        ({"prompt_sha256": "0" * 64}, "the engine answered another prompt than the one sent"),
        ({"n_prompt": 4}, "the engine answered another prompt than the one sent"),
    ],
)
def test_anything_else_is_wrong_output(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongOutput) as refused:
        record(**changes)
    assert str(refused.value) == message
