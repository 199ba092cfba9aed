"""The .npy writer against NumPy's own reader."""

import hashlib
from array import array
from pathlib import Path

import pytest
from enginebench_protocol.npy import write_matrix

np = pytest.importorskip("numpy")


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 16), (65, 4096), (3, 128256), (10**6, 1)])
def test_numpy_reads_what_was_written(tmp_path: Path, rows: int, columns: int) -> None:
    matrix = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    path = tmp_path / "m.npy"
    sha256, n_rows = write_matrix(path, matrix)
    assert n_rows == rows
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    read = np.load(path, allow_pickle=False)
    assert (read.shape, read.dtype) == (matrix.shape, matrix.dtype)
    assert np.array_equal(read, matrix)


def test_the_file_is_byte_for_byte_what_numpy_writes(tmp_path: Path) -> None:
    matrix = np.eye(7, 300, dtype=np.float32)
    write_matrix(tmp_path / "ours.npy", matrix)
    np.save(tmp_path / "numpys.npy", matrix)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpys.npy").read_bytes()


def test_a_memoryview_without_numpy_will_do(tmp_path: Path) -> None:
    view = memoryview(array("f", [1, 2, 3, 4])).cast("B").cast("f", (2, 2))
    write_matrix(tmp_path / "m.npy", view)
    assert np.load(tmp_path / "m.npy").tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((2, 2), np.float64),
        np.zeros((2, 2), np.float16),
        np.zeros(4, np.float32),
        np.zeros((1, 2, 2), np.float32),
        np.zeros((4, 4), np.float32).T[:, ::2],
    ],
    ids=["float64", "float16", "1-D", "3-D", "strided"],
)
def test_anything_but_contiguous_float32_rows_is_refused(tmp_path: Path, matrix: object) -> None:
    with pytest.raises(ValueError, match="must be float32"):
        write_matrix(tmp_path / "m.npy", matrix)
    assert not (tmp_path / "m.npy").exists()
