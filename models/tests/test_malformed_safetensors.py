"""Every malformed safetensors file is refused, by the rule it breaks; and what is accepted, the library loads."""

import re
from pathlib import Path

import pytest
from enginebench_models.errors import ModelError
from enginebench_models.files import refuse_packed
from enginebench_models.rules import SAFETENSORS_RULES
from enginebench_models.safetensors_header import BITS, read_safetensors_header
from safetensors import SafetensorError, deserialize

from .malformed_safetensors import Malformed, entry, malformed, one, safetensors, small_files

CASES = malformed()
HERE = Path("model.safetensors")


def broken_rule(raw: bytes) -> str:
    try:
        refuse_packed(memoryview(raw), HERE)
        read_safetensors_header(memoryview(raw), HERE)
    except ModelError as error:
        return error.rule
    return ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: re.sub(r"[^\w.^+-]+", "-", case.name))
def test_a_malformed_file_is_refused_by_the_rule_it_breaks(case: Malformed) -> None:
    assert broken_rule(case.raw) == case.rule


def test_there_are_as_many_cases_as_were_promised_and_no_two_share_a_name_or_bytes() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({case.raw for case in CASES}) == len(CASES)


def test_every_rule_of_the_format_has_a_file_that_breaks_it() -> None:
    elsewhere = {"index", "missing-file", "json-file", "config-value"}
    assert set(SAFETENSORS_RULES) - {case.rule for case in CASES} == elsewhere


@pytest.mark.parametrize("name", small_files())
def test_a_sound_file_is_accepted_here_and_by_the_library(name: str) -> None:
    raw = small_files()[name]
    assert broken_rule(raw) == ""
    assert {tensor for tensor, _ in deserialize(raw)} == set(read_safetensors_header(memoryview(raw), HERE).tensors)


@pytest.mark.parametrize("dtype", BITS)
def test_every_dtype_is_the_librarys_and_of_its_size(dtype: str) -> None:
    n_bytes = BITS[dtype]
    raw = safetensors({"a": entry(dtype, (8,), (0, n_bytes))}, bytes(n_bytes))
    assert broken_rule(raw) == ""
    assert len(deserialize(raw)) == 1


def test_the_librarys_own_faults_are_ours_too() -> None:
    """What the library refuses of the table, and what only we do: none that it refuses is accepted here."""
    refused = 0
    for case in CASES:
        try:
            deserialize(case.raw)
        except SafetensorError:
            refused += 1
    assert refused > len(CASES) / 2
    with pytest.raises(SafetensorError):
        deserialize(one(data=15))
