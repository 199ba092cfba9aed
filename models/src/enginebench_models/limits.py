"""What the header of a model file may ask for at most, checked before anything is allocated.

The numbers stand between the largest published models and what a hostile header uses to exhaust memory.
"""

from pathlib import Path

from enginebench_models.errors import InvalidModel

MAX_TENSORS = 100_000
MAX_KEYS = 65_536
MAX_KEY_BYTES = 65_535
MAX_TENSOR_NAME_BYTES = 63  # ggml.h, GGML_MAX_NAME with its NUL
MAX_DIMENSIONS = 4
MAX_STRING_BYTES = 16 << 20
MAX_ARRAY_ELEMENTS = 16 << 20
MAX_ELEMENTS = 1 << 50
MAX_HEADER_BYTES = 256 << 20
MAX_JSON_BYTES = 16 << 20
MAX_SAFETENSORS_DIMENSIONS = 8
MAX_SHARDS = 1000

MAX_LAYERS = 512  # llama.cpp's llama-hparams.h, LLAMA_MAX_LAYERS; LLaMA 3.1 405B has 126
MAX_WIDTH = 1 << 20  # of any vector; LLaMA 3.1 405B has 53,248
MAX_VOCABULARY = 1 << 24
MAX_CONTEXT = 1 << 31
MAX_THETA = 1e12
MAX_FACTOR = 1e6


def check(path: Path, what: str, found: int, at_most: int, rule: str) -> None:
    """Raises InvalidModel where a header asks for more than any real model has."""
    if found > at_most:
        raise InvalidModel(
            f"{path} declares {found:,} {what}; at most {at_most:,} are read. The file is damaged.", rule
        )
