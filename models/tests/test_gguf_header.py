"""The GGUF header reader: the same facts as the gguf library, and an error for every kind of damage."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.errors import InvalidModel, ModelError, NotAModel, TruncatedModel, UnsupportedModel
from enginebench_models.gguf_header import GgufArray, GgufHeader, read_array, read_header
from gguf import GGUFReader, GGUFWriter

HERE = Path("model.gguf")


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def header(keys: bytes = b"", n_keys: int = 0, tensors: bytes = b"", n_tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + keys + tensors


def read(raw: bytes) -> GgufHeader:
    return read_header(memoryview(raw), HERE)


def test_it_reads_what_the_gguf_library_reads(tiny_gguf: Path) -> None:
    raw = memoryview(tiny_gguf.read_bytes())
    ours, theirs = read_header(raw, tiny_gguf), GGUFReader(tiny_gguf)
    keys = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert set(ours.metadata) == set(keys)
    for name, value in ours.metadata.items():
        found = read_array(raw, value, tiny_gguf) if isinstance(value, GgufArray) else value
        assert found == keys[name].contents()
    assert {name: (t.shape, ours.data_offset + t.offset) for name, t in ours.tensors.items()} == {
        t.name: (tuple(reversed(t.shape.tolist())), t.data_offset) for t in theirs.tensors
    }


def test_every_scalar_type_is_read(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "scalars.gguf", "llama")
    values = {"uint8": 200, "int8": -3, "uint16": 60000, "int16": -300, "uint32": 2**31, "int32": -5}
    values |= {"uint64": 2**63, "int64": -(2**40), "float32": 0.5, "float64": 0.1, "bool": True}
    for kind, value in values.items():
        getattr(writer, f"add_{kind}")(f"test.{kind}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    metadata = read((tmp_path / "scalars.gguf").read_bytes()).metadata
    assert {kind: metadata[f"test.{kind}"] for kind in values} == values


@pytest.mark.parametrize(
    ("raw", "error", "message"),
    [
        (b"", NotAModel, "b''"),
        (b"GGML" + bytes(40), NotAModel, "GGML"),
        (b"GGUF\x03\0\0\0", TruncatedModel, "needs 24 bytes, the file has 8"),
        (header(version=1), UnsupportedModel, "version 1"),
        (header(version=0x03000000), UnsupportedModel, "big-endian GGUF, version 3"),
        (header(n_keys=2**40), InvalidModel, "1,099,511,627,776 metadata keys"),
        (header(n_tensors=2**63), InvalidModel, "9,223,372,036,854,775,808 tensors"),
        (header(struct.pack("<Q", 2**62), n_keys=1), InvalidModel, "bytes of a string"),
        (header(struct.pack("<Q", 1000) + b"short", n_keys=1), TruncatedModel, "header"),
        (header(text(b"\xff\xfe") + struct.pack("<IB", 0, 1), n_keys=1), InvalidModel, "printable ASCII"),
        (header(text(b"a") + struct.pack("<I", 13), n_keys=1), InvalidModel, "unknown type 13"),
        (header(2 * (text(b"a") + struct.pack("<IB", 0, 1)), n_keys=2), InvalidModel, "'a' twice"),
        (header(text(b"a") + struct.pack("<IIQ", 9, 0, 2**40), n_keys=1), InvalidModel, "elements of 'a'"),
        (header(text(b"a") + struct.pack("<IIQ", 9, 4, 100), n_keys=1), TruncatedModel, "header"),
        (header(text(b"a") + struct.pack("<IIQ", 9, 9, 1), n_keys=1), InvalidModel, "array of arrays"),
        (header(text(b"a") + struct.pack("<IIQQ", 9, 8, 1, 2**63), n_keys=1), TruncatedModel, "header"),
        (
            header(tensors=text(b"t") + struct.pack("<I", 2**32 - 1), n_tensors=1),
            InvalidModel,
            "t 4,294,967,295 dimensions",
        ),
        (header(text(b"general.alignment") + struct.pack("<II", 4, 0), n_keys=1), InvalidModel, "alignment 0"),
        (header(text(b"general.alignment") + struct.pack("<II", 4, 24), n_keys=1), InvalidModel, "alignment 24"),
        (header(text(b"general.alignment") + struct.pack("<I", 8) + text(b"32"), n_keys=1), InvalidModel, "'32'"),
    ],
)
def test_a_damaged_header_is_refused_with_the_value(raw: bytes, error: type[ModelError], message: str) -> None:
    with pytest.raises(error, match=message):
        read(raw)


def test_a_file_cut_anywhere_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    raw = tiny_gguf.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [1, 4, 23, 24, 25, 100, *range(1000, len(raw), len(raw) // 60), len(raw) - 33]:
        cut.write_bytes(raw[:length])
        with pytest.raises((TruncatedModel, NotAModel)):
            open_checkpoint(cut)


def test_a_truncated_file_is_refused_with_both_sizes(tiny_gguf: Path, tmp_path: Path) -> None:
    raw = tiny_gguf.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(raw[:-1000])
    with pytest.raises(
        TruncatedModel, match=r"truncated: tensor output_norm.weight needs .*Copy or download"
    ) as caught:
        open_checkpoint(cut)
    assert caught.value.actual_bytes == len(raw) - 1000
    assert caught.value.expected_bytes == len(raw)


def test_random_damage_of_the_header_raises_model_errors_only(tiny_gguf: Path, tmp_path: Path) -> None:
    raw = tiny_gguf.read_bytes()
    start = read(raw).data_offset
    dice, damaged, refused = random.Random(5), tmp_path / "damaged.gguf", 0
    for _ in range(150):
        edited = bytearray(raw)
        for _ in range(4):
            # half of the damage in the tensor directory at the end, where every byte counts
            at = dice.randrange(start - 2500, start) if dice.random() < 0.5 else dice.randrange(24, 1200)
            edited[at] = dice.randrange(256)
        damaged.write_bytes(edited)
        try:
            checkpoint = open_checkpoint(damaged)
            checkpoint.tensor(checkpoint.names()[-1])
        except ModelError:
            refused += 1
    assert refused > 75


def test_an_overlong_string_array_element_is_found_when_the_array_is_read() -> None:
    raw = header(text(b"a") + struct.pack("<IIQ", 9, 8, 1) + struct.pack("<Q", 17 << 20) + bytes(17 << 20), n_keys=1)
    found = read(raw).metadata["a"]
    assert isinstance(found, GgufArray)
    with pytest.raises(InvalidModel, match="bytes of a string"):
        read_array(memoryview(raw), found, HERE)


def test_numbers_survive_an_array_of_floats() -> None:
    values = np.arange(5, dtype=np.float32)
    raw = header(text(b"a") + struct.pack("<IIQ", 9, 6, 5) + values.tobytes(), n_keys=1)
    found = read(raw).metadata["a"]
    assert isinstance(found, GgufArray)
    assert read_array(memoryview(raw), found, HERE) == values.tolist()
