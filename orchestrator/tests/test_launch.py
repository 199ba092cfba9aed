"""What makes a request doubtful, what spoils a launch, and with which exit code a run ends."""

from __future__ import annotations

from typing import Any

from enginebench.cli.run import exit_code
from enginebench.judge.evidence import NOTHING_FREE, ONLY_NOISE, spoiled
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


# ---- a launch that the machine spoiled -------------------------------------------------------------------------


def test_a_launch_with_nothing_to_average_is_spoiled(records: Any) -> None:
    good, doubtful = records.request(0, (10, 12, 14)), records.request(1, (10, 12, 14), doubts=["clocks disagree"])
    assert spoiled(records.timed([good, doubtful])) is None
    assert spoiled(records.timed([doubtful])) == NOTHING_FREE
    assert spoiled(records.timed([good], doubts=["swap: 7 pages"])) == "swap: 7 pages"
    assert spoiled(records.timed([], failure=records.failure())) is None  # it failed: that is told otherwise


def ended(*cases: tuple[str, str | None], verdicts: bool = False) -> int:
    found = [{"status": status, "reason": reason} for status, reason in cases]
    return exit_code({"cases": found, "plan": {"verdicts": verdicts}})


def test_a_case_that_the_machine_spoiled_has_not_failed() -> None:
    noisy = ("invalid", f"{ONLY_NOISE}: 1 of 1 timed launches excluded for noise (1 x swap)")
    assert ended(("ok", None), noisy, ("invalid", NOTHING_FREE)) == 0
    assert ended(("ok", None), noisy, verdicts=True) == 3
    assert ended(noisy, ("invalid", "fidelity gate failed"), verdicts=True) == 1
    assert ended(noisy, ("failed", "exit")) == 1
    assert ended(("ok", None), ("unavailable", "needs an NVIDIA GPU")) == 0
