"""What makes a request doubtful."""

from __future__ import annotations

from enginebench.run.answer import server_doubts
from enginebench_protocol.codec import pack_ids, pack_times
from enginebench_protocol.messages import Generated
from enginebench_protocol.prompts import ids_sha256


def generated(**reported: int) -> Generated:
    """Two tokens after a prompt of three, and what a server says of them."""
    return Generated(
        id=1,
        n_prompt=3,
        prompt_sha256=ids_sha256(pack_ids([1, 2, 3])),
        tokens=pack_ids([4, 5]),
        t_start_ns=0,
        t_token_ns=pack_times([1, 2]),
        reported=reported,
    )


def test_no_server_and_a_server_that_agrees_raise_no_doubt() -> None:
    assert server_doubts(generated()) == []
    assert server_doubts(generated(n_prompt=3, n_gen=2, n_requests=1)) == []


def test_an_answer_that_the_server_broke_off_is_in_doubt() -> None:
    assert server_doubts(generated(n_prompt=4, n_gen=1, n_requests=2)) == [
        "answer broken off by the engine's server: asked 2 times"
    ]


def test_other_counts_than_sent_and_received_are_in_doubt() -> None:
    (prompt,) = server_doubts(generated(n_prompt=95, n_gen=2, n_requests=1))
    assert "'prompt': 95" in prompt
    assert "'prompt': 3" in prompt
    assert len(server_doubts(generated(n_prompt=3, n_gen=1))) == 1
