"""The host-memory reader sees every byte, whatever the size and the number of threads."""

from collections.abc import Iterator

import numpy as np
import pytest
from engine_limit.cpu import CHUNK_BYTES, CpuReader


@pytest.fixture(params=[1, 2, 3])
def reader(request: pytest.FixtureRequest) -> Iterator[CpuReader]:
    made = CpuReader(2 * CHUNK_BYTES + 13, threads=request.param)
    yield made
    made.close()


@pytest.mark.parametrize("offset", [0, 7, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 12])
def test_a_byte_anywhere_decides_the_checksum(reader: CpuReader, offset: int) -> None:
    assert reader.read() == 0
    reader.fill(offset, np.array([3], np.uint8))
    assert reader.read() == 3 << (8 * (offset % 8))


def test_the_checksum_is_the_largest_word(reader: CpuReader) -> None:
    data = np.random.default_rng(0).integers(0, 256, reader.n_bytes, dtype=np.uint8)
    reader.fill(0, data)
    padded = np.pad(data, (0, -len(data) % 8)).view(np.uint64)
    assert reader.read() == padded.max()


def test_fewer_chunks_than_threads_is_fine() -> None:
    reader = CpuReader(5, threads=4)
    reader.fill(0, np.arange(5, dtype=np.uint8))
    assert reader.read() == int.from_bytes(bytes(range(5)), "little")
    reader.close()
