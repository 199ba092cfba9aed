"""Every rule that a model file must keep before anything is run on it, each named once.

A refusal (errors.py) carries the name of the rule that was broken; what the numbers in them are stands in limits.py.
Sources: ggml's docs/gguf.md and llama.cpp's gguf.cpp, the safetensors README, "Format". Stricter than both: a file that
is accepted here is one that they read too.
"""

FILE_RULES = {
    "no-such-path": "The path leads to a file or a directory.",
    "regular-file": "A weight file is a regular file that can be read: no pipe, socket, device or directory.",
    "empty-file": "A weight file has at least one byte.",
    "no-weights": "A directory holds one GGUF file, one safetensors file, or the shards of an index.",
    "packed-file": "Nothing is unpickled or decompressed: zip, pickle, gzip, xz, zstd and bzip2 are refused.",
    "git-lfs-pointer": "A weight file holds the weights, not the text that Git LFS leaves in their place.",
    "file-name": "Names of files that come from elsewhere are plain: no folder, no hidden file.",
    "not-a-model": "The first bytes are those of a GGUF or of a safetensors file.",
}

GGUF_RULES = {
    "gguf-truncated": "The header ends inside the file; a length is checked before anything of it is read.",
    "gguf-version": "Version 2 or 3.",
    "gguf-big-endian": "Little-endian.",
    "gguf-too-many-tensors": "At most 100,000 tensors.",
    "gguf-too-many-keys": "At most 65,536 metadata keys.",
    "gguf-header-too-long": "At most 256 MiB of header.",
    "gguf-key-name": "A key is 1 to 65,535 bytes of printable ASCII without spaces.",
    "gguf-key-twice": "A key stands once.",
    "gguf-string-too-long": "At most 16 MiB in a string.",
    "gguf-not-utf8": "Strings are UTF-8, those in arrays too.",
    "gguf-array-too-long": "At most 16 Mi elements in an array.",
    "gguf-nested-array": "Arrays hold scalars or strings.",
    "gguf-value-type": "The types of values are those of the format, 0 to 12.",
    "gguf-bool": "A bool is the byte 0 or 1.",
    "gguf-known-key-type": "A key that an engine reads has exactly the type that llama.cpp gives it.",
    "gguf-alignment": "general.alignment is a power of two from 32 to 65,536; llama.cpp aborts on 8 and 16.",
    "gguf-vocabulary-size": "Scores and token types are as many as the tokens; there is at least one token.",
    "gguf-token-id": "The ids of special tokens lie inside the vocabulary.",
    "gguf-tensor-name": "A tensor's name is 1 to 63 bytes of printable ASCII without spaces.",
    "gguf-tensor-twice": "A tensor stands once.",
    "gguf-dimensions": "A tensor has one to four dimensions.",
    "gguf-empty-dimension": "No dimension is 0.",
    "gguf-too-many-elements": "At most 2^50 elements in a tensor.",
    "gguf-tensor-type": "The storage type is one of ggml's.",
    "gguf-blocks": "A row is a whole number of blocks of its storage type.",
    "gguf-offset-unaligned": "A tensor starts at a multiple of the alignment.",
    "gguf-overlap": "No tensor starts before the one above it in the directory has ended.",
    "gguf-gap": "A tensor starts where the one above it, padded, ends; the first at 0.",
    "gguf-data-truncated": "Every tensor ends inside the file.",
}

SAFETENSORS_RULES = {
    "safetensors-truncated": "The header ends inside the file.",
    "safetensors-header-too-long": "At most 16 MiB of header.",
    "safetensors-not-utf8": "The header is UTF-8.",
    "safetensors-json": "The header is one JSON object, with no number beyond integers and no key twice.",
    "safetensors-too-many-tensors": "At most 100,000 tensors.",
    "safetensors-metadata": "__metadata__ maps strings to strings.",
    "safetensors-entry": "An entry is dtype, shape and data_offsets (two integers), and nothing else.",
    "safetensors-dtype": "The dtype is one of the format's.",
    "safetensors-dimensions": "At most 8 dimensions.",
    "safetensors-too-many-elements": "At most 2^50 elements in a tensor.",
    "safetensors-bits": "A tensor fills whole bytes.",
    "safetensors-size": "The offsets span exactly what dtype and shape need.",
    "safetensors-overlap": "No tensor starts before the one that lies before it has ended.",
    "safetensors-gap": "The data start at 0 and have no holes.",
    "safetensors-data-truncated": "The file does not end before the last tensor.",
    "safetensors-trailing-bytes": "The file ends with the last tensor: nothing rides behind it.",
    "index": "The index maps names of tensors to plain names of .safetensors files.",
    "missing-file": "The files that belong to the weights are there.",
    "json-file": "config.json and the index are JSON objects of at most 16 MiB with no key twice.",
    "config-value": "The numbers in config.json are numbers of the kind that belongs there.",
}

MODEL_RULES = {
    "metadata-missing": "The metadata that a LLaMA model needs are there, with values of their kind.",
    "model-shape": "The sizes are those of a model that could exist, and fit together.",
    "weights-missing": "Every weight that the shape calls for is there.",
    "weights-extra": "There is no weight that the shape does not call for, and none twice.",
    "weight-shape": "Every weight has the shape that the header's numbers give it.",
    "rope-divisors": "RoPE divisors are finite, above zero and as many as head_dim / 2.",
    "unsupported": "A sound file of a kind that is run here.",
    "architecture": "The architecture is LLaMA's.",
}

PROCESS_RULES = {
    "memory": "The check takes at most 512 MiB beside the mapped file.",
    "time": "The check takes at most 30 s.",
    "validator-died": "The process that checks a file ends by itself, with an answer.",
}

RULES = FILE_RULES | GGUF_RULES | SAFETENSORS_RULES | MODEL_RULES | PROCESS_RULES
