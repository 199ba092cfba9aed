"""A model on disk, opened: its shape, its RoPE frequencies and its weights as memory-mapped arrays.

Both formats come out alike: the same names, [out, in] row-major, and Q/K rows in Hugging Face's half-split
order. Nothing is read but the headers until a tensor is asked for.
"""

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np

from enginebench_models.config import LlamaConfig
from enginebench_models.errors import ContextExceeded, InvalidModel, UnsupportedModel
from enginebench_models.files import map_file
from enginebench_models.gguf_check import check_gguf
from enginebench_models.gguf_header import MAGIC, GgufHeader, read_header
from enginebench_models.gguf_layout import gguf_layout, gguf_vocabulary
from enginebench_models.layout import Layout, Place, Vocabulary, half_split
from enginebench_models.model_folder import weight_files
from enginebench_models.pages import give_back
from enginebench_models.safetensors_header import read_safetensors_header
from enginebench_models.safetensors_layout import safetensors_layout
from enginebench_models.storage import AnyArray, Floats
from enginebench_models.tensor import Tensor

FINGERPRINT_BYTES = 4096
WHOLE = slice(None)


def open_checkpoint(path: Path) -> "Checkpoint":
    """Open a GGUF file, a safetensors file, or a directory with one of them or with shards.

    Raises ModelNotFound, NotAModel, TruncatedModel, InvalidModel, UnsupportedModel, ModelTypeMismatch.
    """
    files = weight_files(Path(path))
    buffers = {file: map_file(file) for file in files}
    first = files[0]
    if bytes(buffers[first][:4]) != MAGIC:
        headers = {file: read_safetensors_header(buffer, file) for file, buffer in buffers.items()}
        sizes = {file: len(buffer) for file, buffer in buffers.items()}
        return Checkpoint(Path(path), safetensors_layout(headers, sizes, first.parent / "config.json"), buffers, None)
    header = read_header(buffers[first], first)
    check_gguf(header, first, len(buffers[first]))
    return Checkpoint(Path(path), gguf_layout(header, buffers[first], first), buffers, header)


class Checkpoint:
    """An open model. Arrays stay valid as long as something refers to them."""

    def __init__(
        self, path: Path, layout: Layout, buffers: dict[Path, memoryview], gguf_header: GgufHeader | None
    ) -> None:
        self.path = path
        self._layout = layout
        self._buffers = buffers
        self._gguf_header = gguf_header

    @property
    def format(self) -> str:
        """ "gguf" or "safetensors"."""
        return self._layout.format

    @property
    def config(self) -> LlamaConfig:
        return self._layout.config

    @property
    def inverse_frequencies(self) -> Floats:
        """Radians per position of each RoPE pair, scaling applied. float32 [head_dim/2]."""
        return self._layout.inverse_frequencies

    @property
    def synthetic(self) -> bool:
        """Whether synthesis.py made it."""
        return self._layout.synthetic

    @property
    def files(self) -> list[Path]:
        return list(self._buffers)

    @property
    def file_bytes(self) -> int:
        return sum(len(buffer) for buffer in self._buffers.values())

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights as stored."""
        return sum(place.n_bytes() for place in self._layout.places.values())

    def give_back(self) -> None:
        """Every page of the files leaves this process; only now can they be evicted from the page cache."""
        for buffer in self._buffers.values():
            give_back(np.frombuffer(buffer, np.uint8))

    def check_context(self, n_ctx: int) -> None:
        """Raises ContextExceeded if the model has fewer positions."""
        if n_ctx > self.config.max_context:
            raise ContextExceeded(n_ctx, self.config.max_context)

    def check_unquantised(self) -> None:
        """Raises UnsupportedModel where weights are blocks: quantised again they would say nothing about a format."""
        if held := self.block_formats():
            raise UnsupportedModel(
                f"{self.path} holds {', '.join(held)}: quantising starts from 16-bit or float32 weights. "
                "Run it with a configuration that does not quantise."
            )

    def names(self) -> list[str]:
        """Names of the weights, in the order of the file."""
        return list(self._layout.places)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each weight, in the order of the file. Nothing is read; `tensor` would reorder Q and K of a GGUF file."""
        return {name: place.shape for name, place in self._layout.places.items()}

    def block_formats(self) -> list[str]:
        """The formats in the file that are numbers with a scale for each block. Nothing is read."""
        return sorted({place.storage.name for place in self._layout.places.values() if place.storage.block > 1})

    def tensor(self, name: str, rows: slice = WHOLE) -> Tensor:
        """Raises InvalidModel for a name that this model does not have ("lm_head" when tied).

        `rows`: a run of them, nothing else is read; of Q and K the rows of whole heads.
        """
        place = self._layout.places.get(name)
        if place is None:
            raise InvalidModel(
                f"{self.path} has no weight {name!r}; its names are those of names().", "weights-missing"
            )
        data = self._array(place)[rows]
        if place.interleaved_heads:
            heads = place.interleaved_heads * data.shape[0] // place.shape[0]
            stored, data = data, half_split(data, heads)
            give_back(stored)
            data.flags.writeable = False
        shape = (data.shape[0], *place.shape[1:])
        first = rows.indices(place.shape[0])[0]
        offset = place.offset + first * place.n_bytes() // place.shape[0]
        return Tensor(name, shape, place.storage.name, data, place.file, offset)

    def _array(self, place: Place) -> AnyArray:
        storage = place.storage
        columns = place.shape[-1] if storage.block == 1 else storage.row_bytes(place.shape[-1])
        shape = (*place.shape[:-1], columns)
        flat = np.frombuffer(self._buffers[place.file], storage.view, int(np.prod(shape)), place.offset)
        return np.require(flat, requirements="A").reshape(shape)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over headers, shape, RoPE frequencies and both ends of every tensor.

        Cheap (a few MB read) and the same for every engine; it tells models apart, it does not vouch for
        every byte.
        """
        digest = hashlib.sha256(f"{self.config}".encode() + self.inverse_frequencies.tobytes())
        for file, header_bytes in self._layout.headers.items():
            digest.update(self._buffers[file][:header_bytes])
        for place in self._layout.places.values():
            raw = self._buffers[place.file][place.offset : place.offset + place.n_bytes()]
            digest.update(raw[:FINGERPRINT_BYTES])
            digest.update(raw[-FINGERPRINT_BYTES:])
        return digest.hexdigest()

    def tokenizer_source(self) -> Vocabulary | Path:
        """GGUF: the vocabulary from the metadata; safetensors: the directory with tokenizer.json."""
        if self._gguf_header is None:
            return self.files[0].parent
        return gguf_vocabulary(self._gguf_header, self._buffers[self.files[0]], self.files[0])
