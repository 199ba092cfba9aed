"""Every malformed GGUF file is refused, by the rule it breaks; every sound one is not."""

import re
from pathlib import Path

import pytest
from enginebench_models.errors import ModelError
from enginebench_models.files import refuse_packed
from enginebench_models.gguf_check import BLOCKS
from enginebench_models.gguf_header import read_header
from enginebench_models.gguf_layout import gguf_layout
from enginebench_models.rules import GGUF_RULES, RULES
from enginebench_models.validate import check_format
from gguf.constants import GGML_QUANT_SIZES

from .gguf_bytes import U8, Array, Key, gguf, small_files
from .malformed_gguf import Malformed, malformed

CASES = malformed()
HERE = Path("model.gguf")
# Where a list has several, each stands for one. Those that are no file of weights: see malformed_gguf.py.
ADVISORIES = {
    "CVE-2024-21802",
    "CVE-2024-21825",
    "CVE-2024-21836",
    "CVE-2024-23496",
    "CVE-2024-23605",
    "CVE-2024-32878",
    "CVE-2024-41130",
    "CVE-2025-49847",
    "CVE-2025-52566",
    "CVE-2025-53630",
    "CVE-2026-27940",
    "CVE-2026-33298",
    "CVE-2026-43629",
    "CVE-2024-34359",
    "CVE-2024-39720",
    "CVE-2024-12055",
    "CVE-2025-0312",
    "CVE-2025-0315",
    "CVE-2025-0317",
    "CVE-2024-8063",
    "CVE-2025-1975",
    "CVE-2025-66960",
    "CVE-2024-12886",
    "CVE-2026-7482",
    "CVE-2024-45436",
}


def broken_rule(raw: bytes) -> str:
    """The rule that refuses a file, format first, then model; "" for a sound LLaMA model."""
    buffer = memoryview(raw)
    try:
        refuse_packed(buffer, HERE)
        if raw[:4] != b"GGUF":
            read_header(buffer, HERE)
        check_format(buffer, HERE)
        gguf_layout(read_header(buffer, HERE), buffer, HERE)
    except ModelError as error:
        return error.rule
    return ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: re.sub(r"[^\w.^+-]+", "-", case.name))
def test_a_malformed_file_is_refused_by_the_rule_it_breaks(case: Malformed) -> None:
    assert broken_rule(case.raw) == case.rule


def test_there_are_as_many_cases_as_were_promised_and_no_two_share_a_name_or_bytes() -> None:
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({case.raw for case in CASES}) == len(CASES)


def test_every_advisory_and_proof_of_concept_has_a_case() -> None:
    sources = " ".join(case.source for case in CASES)
    assert [advisory for advisory in sorted(ADVISORIES) if advisory not in sources] == []
    assert [f"V-0{n}" for n in (1, 2, 3, 4, 5) if f"V-0{n}" not in sources] == []
    assert sources.count("PoC") >= 6


def test_every_rule_of_the_format_has_a_file_that_breaks_it() -> None:
    """The header of 257 MiB has a test of its own: it is too large for the table."""
    assert set(GGUF_RULES) - {case.rule for case in CASES} == {"gguf-header-too-long"}
    assert {case.rule for case in CASES} <= set(RULES)


def test_a_header_above_256_mib_is_refused() -> None:
    lists = [Key(f"k{n}", 9, Array(U8, (), 16 << 20)) for n in range(17)]
    raw = b"".join(
        gguf([], [], n_keys=17)[:24] if n == 0 else lists[n - 1].packed() + bytes(16 << 20) for n in range(18)
    )
    assert broken_rule(raw) == "gguf-header-too-long"


@pytest.mark.parametrize("name", small_files())
def test_a_sound_file_is_accepted(name: str) -> None:
    raw = small_files()[name]
    check_format(memoryview(raw), HERE)
    no_model = {"zoo": "architecture", "version-2-aligned": "metadata-missing", "one-tensor": "metadata-missing"}
    assert broken_rule(raw) == no_model.get(name, "")


def test_block_sizes_are_those_of_the_gguf_library() -> None:
    assert {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()} == BLOCKS
