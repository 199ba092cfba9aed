"""The host-memory reader sees every byte, whatever the size and the number of threads."""

from collections.abc import Iterator

import numpy as np
import pytest
from engine_limit.cpu import CHUNK_BYTES, CpuReader, product_sum

SIZE = 2 * CHUNK_BYTES + 29


@pytest.fixture(params=[1, 2, 3])
def reader(request: pytest.FixtureRequest) -> Iterator[CpuReader]:
    made = CpuReader(SIZE, threads=request.param)
    made.fill(0, np.ones(SIZE, np.uint8))
    yield made
    made.close()


@pytest.mark.parametrize(
    "offset", [0, 7, CHUNK_BYTES // 2, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES, SIZE - 17, SIZE - 1]
)
def test_a_byte_anywhere_decides_the_checksum(reader: CpuReader, offset: int) -> None:
    before = reader.read()
    assert before == reader.read()
    reader.fill(offset, np.array([3], np.uint8))
    assert reader.read() != before


def test_the_checksum_is_the_sum_of_products_of_the_halves(reader: CpuReader) -> None:
    data = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)
    reader.fill(0, data)
    words = np.pad(data, (0, -SIZE % 16)).view(np.uint64)
    chunks = [words[i : i + CHUNK_BYTES // 8] for i in range(0, len(words), CHUNK_BYTES // 8)]
    expected = sum(int((c[: len(c) // 2] * c[len(c) // 2 :]).sum()) for c in chunks)
    assert reader.read() == expected % 2**64


def test_the_halves_of_a_chunk_meet_word_by_word() -> None:
    assert product_sum(np.array([2, 3, 5, 7], np.uint64)) == 2 * 5 + 3 * 7
    assert product_sum(np.array([2**63, 2], np.uint64)) == 0, "modulo 2^64"


def test_fewer_chunks_than_threads_is_fine() -> None:
    reader = CpuReader(16, threads=4)
    reader.fill(0, np.array([3, 5], np.uint64).view(np.uint8))
    assert reader.read() == 15
    reader.close()
