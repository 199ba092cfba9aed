"""One is singular."""

import pytest
from enginebench.counted import counted


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (1, "launch", "1 launch"),
        (2, "launch", "2 launches"),
        (0, "request", "0 requests"),
        (1.0, "token", "1 token"),
        (1.5, "token", "1.5 tokens"),
        (1_234_567, "token", "1234567 tokens"),
        (3, "more process", "3 more processes"),
    ],
)
def test_one_is_singular(count: float, noun: str, said: str) -> None:
    assert counted(count, noun) == said
