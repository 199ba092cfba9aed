"""llama-bench's grammar: what it stands for, and what is no sentence of it."""

from __future__ import annotations

import pytest
from enginebench.errors import UsageError
from enginebench.plan.workload import counts, grid, named, parsed, workloads
from enginebench.store.record import Workload


def test_the_names_of_workloads_are_llama_benchs() -> None:
    assert Workload(n_prompt=512, n_gen=128).name == "pp512+tg128"
    assert Workload(n_prompt=512, n_gen=128, n_depth=4096).name == "pp512+tg128@d4096"
    assert Workload(n_prompt=512, n_gen=1).name == "pp512"
    assert Workload(n_prompt=1, n_gen=128, n_depth=4096).name == "tg128@d4096"
    assert Workload(n_prompt=1, n_gen=1).name == "pp1"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("pp512", (512, 1, 0)),
        ("tg128", (1, 128, 0)),
        ("pp512+tg128", (512, 128, 0)),
        ("pp512+tg128@d4096", (512, 128, 4096)),
        ("tg128 @ d4096", (1, 128, 4096)),
        ("pp7@d1", (7, 1, 1)),
    ],
)
def test_a_name_is_read_back(name: str, meant: tuple[int, int, int]) -> None:
    n_prompt, n_gen, n_depth = meant
    assert parsed(name) == Workload(n_prompt=n_prompt, n_gen=n_gen, n_depth=n_depth)
    assert parsed(parsed(name).name) == parsed(name)


@pytest.mark.parametrize(
    "name", ["", "pp", "512", "pp512+", "+tg128", "pp512tg128", "@d4096", "pp512+tg128@4096", "pp0", "tg0", "pp4+tg0"]
)
def test_what_is_no_workload_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="workload"):
        parsed(name)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("512", [512]),
        ("128,512", [128, 512]),
        ("1-4", [1, 2, 3, 4]),
        ("0-4096+2048", [0, 2048, 4096]),
        ("128-1024*2", [128, 256, 512, 1024]),
        ("100-1000*3", [100, 300, 900]),
        ("128-512*2,512,7", [128, 256, 512, 7]),
    ],
)
def test_lists_and_ranges(text: str, numbers: list[int]) -> None:
    assert counts("-p", [text], least=0) == numbers


def test_an_option_that_is_given_twice_adds_up() -> None:
    assert counts("-p", ["1,2", "3"]) == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0-8*2", "never reaches its end"),
        ("4-8*1", "never reaches its end"),
        ("4-8+0", "never reaches its end"),
        ("8-4", "never reaches its end"),
        ("4-", "write a number"),
        ("-1", "write a number"),
        ("4..8", "write a number"),
        ("1,,2", "write a number"),
        ("", "write a number"),
        ("0", "greater than or equal to 1"),
        ("1-1000000000", "more than 64"),
    ],
)
def test_a_wrong_number_is_refused_with_its_option(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as refused:
        counts("--n-prompt", [text])
    assert "--n-prompt" in str(refused.value)


def test_prompt_and_generated_tokens_are_multiplied_at_each_depth() -> None:
    names = [workload.name for workload in grid([128, 512], [64], [0, 4096])]
    assert names == ["pp128+tg64", "pp512+tg64", "pp128+tg64@d4096", "pp512+tg64@d4096"]


def test_names_and_lists_of_names_give_each_workload_once() -> None:
    assert [w.name for w in workloads(["decode,tg128", "pp512"])] == ["tg128", "pp512"]
    with pytest.raises(UsageError, match="did you mean 'decode'"):
        workloads(["decod"])


def test_every_named_workload_can_be_read_and_says_what_it_is() -> None:
    assert {"chat", "decode", "prefill", "long-context"} <= set(named())
    assert all(entry.description and workloads([name]) for name, entry in named().items())


def test_the_depth_is_sent_in_front_of_the_prompt_and_has_requests_of_its_own() -> None:
    deep = parsed("pp8+tg4@d100")
    assert (deep.n_sent, deep.tokens_of("measured"), deep.tokens_of("depth")) == (108, (108, 4), (100, 1))
    assert deep.n_depth_requests == 4
    assert parsed("tg4@d100").n_depth_requests == 0  # one token behind the depth has no prefill to speak of
    assert parsed("pp8+tg4").n_depth_requests == 0
