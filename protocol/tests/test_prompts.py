"""Prompts: the same on every machine and call, different in every iteration."""

import pytest
from enginebench_protocol.codec import pack_ids
from enginebench_protocol.prompts import SPECIAL_TOKENS, ids_sha256, prompt_ids

LLAMA3 = 128_256


def test_a_prompt_is_the_same_on_every_call_and_python() -> None:
    assert list(prompt_ids(0, 0, 8, LLAMA3)) == [44889, 98185, 60188, 43572, 111536, 52227, 80252, 24503]
    assert list(prompt_ids(0, 1, 4, 4096)) == [1190, 1484, 2002, 3130]


def test_no_two_iterations_share_a_prefix() -> None:
    firsts = [tuple(prompt_ids(0, iteration, 64, LLAMA3)[:4]) for iteration in range(200)]
    assert len(set(firsts)) == 200


def test_seeds_and_lengths_make_different_prompts() -> None:
    base = list(prompt_ids(0, 0, 64, LLAMA3))
    assert base != list(prompt_ids(1, 0, 64, LLAMA3))
    assert base[:32] != list(prompt_ids(0, 0, 32, LLAMA3))


@pytest.mark.parametrize("n_prompt", [1, 7, 512])
def test_a_prompt_has_the_length_asked_for(n_prompt: int) -> None:
    assert len(prompt_ids(3, 2, n_prompt, LLAMA3)) == n_prompt


def test_a_prompt_has_no_special_tokens() -> None:
    ids = prompt_ids(0, 0, 20_000, 1024)
    assert set(ids) == set(range(1024 - SPECIAL_TOKENS))


def test_a_small_vocabulary_is_used_whole() -> None:
    assert set(prompt_ids(0, 0, 20_000, 512)) == set(range(512))


def test_the_hash_is_that_of_the_packed_ids() -> None:
    assert ids_sha256(pack_ids([1, 2, 3])) == "4636993d3e1da4e9d6b8f87b79e8f7c6d018580d52661950eabc3845c5897a4d"
    assert ids_sha256(pack_ids([1, 2])) != ids_sha256(pack_ids([2, 1]))
