"""`python -m enginebench_models.validate PATH [PARENT]`: is this a sound model? One line of JSON.

A process of its own, in which nothing runs, unpickles or decompresses anything of the file. First the format, in plain
Python, then whether the weights are those of a LLaMA model. The process takes at most LIMIT_BYTES beside the mapped
files and LIMIT_SECONDS; beyond, and whatever else may happen to it, is a verdict too (validation.py has the parent's
side). A tokenizer.json is not looked at: engines work on token ids. It ends with its parent, whose id it may be told.

Exit code: 0 valid, 1 not valid.
"""

import ctypes
import hashlib
import json
import math
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginebench_models.confinement import confine
from enginebench_models.errors import ModelError, ModelTypeMismatch, UnsupportedModel
from enginebench_models.files import map_file
from enginebench_models.gguf_check import check_gguf, check_strings
from enginebench_models.gguf_header import MAGIC, read_header
from enginebench_models.model_folder import weight_files
from enginebench_models.safetensors_header import read_safetensors_header

LIMIT_BYTES = 512 << 20
LIMIT_SECONDS = 30
SHAPE = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "vocab_size", "max_context")
Facts = dict[str, Any]
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> int:
    path, *parent = sys.argv[1:]
    end_with_parent(*map(int, parent))
    confine()
    limit_time()
    limit_memory({})
    found = verdict(Path(path))
    print(json.dumps(found))
    return 0 if found["verdict"] == "valid" else 1


def verdict(path: Path) -> Facts:
    """`verdict` is "valid", "invalid" or "unsupported"; `rule` names the rule of rules.py that was broken."""
    try:
        return {"verdict": "valid", "rule": None, "message": None, **facts(path)}
    except (UnsupportedModel, ModelTypeMismatch) as error:
        return refusal("unsupported", error.rule, str(error))
    except ModelError as error:
        return refusal("invalid", error.rule, str(error))
    except MemoryError:
        limit = f"{LIMIT_BYTES >> 20} MiB"
        return refusal("invalid", "memory", f"{path} takes more than {limit} to check; no sound model does.")
    except TimeoutError:
        return refusal("invalid", "time", f"{path} takes more than {LIMIT_SECONDS} s to check; no sound model does.")


def refusal(kind: str, rule: str, message: str) -> Facts:
    return {"verdict": kind, "rule": rule, "message": message}


def facts(path: Path) -> Facts:
    files = weight_files(path)
    limit_memory({file: file.stat().st_size for file in files if file.is_file()})
    buffers = {file: map_file(file) for file in files}
    formats = [check_format(buffer, file) for file, buffer in buffers.items()]
    from enginebench_models.checkpoint import open_checkpoint  # noqa: PLC0415 - NumPy, for files that deserve it

    checkpoint = open_checkpoint(path)
    return {
        "path": str(path),
        "format": checkpoint.format,
        "files": [
            {"name": file.name, "size_bytes": len(buffers[file]), **own}
            for file, own in zip(buffers, formats, strict=True)
        ],
        "shape": {name: getattr(checkpoint.config, name) for name in SHAPE},
        "n_tensors": len(checkpoint.names()),
        "weight_bytes": checkpoint.weight_bytes,
        "synthetic": checkpoint.synthetic,
        "fingerprint": checkpoint.fingerprint,
    }


def check_format(buffer: memoryview, file: Path) -> Facts:
    """Raises ModelError unless the file is a sound GGUF or safetensors file, whatever model it holds."""
    if bytes(buffer[:4]) == MAGIC:
        header = read_header(buffer, file)
        check_gguf(header, file, len(buffer))
        check_strings(header, buffer, file)
        start = header.data_offset
    else:
        start = read_safetensors_header(buffer, file).data_offset
    return {"header_bytes": start, "header_sha256": hashlib.sha256(buffer[:start]).hexdigest()}


def limit_memory(sizes: Mapping[Path, int]) -> None:
    """Of addresses, which the kernel refuses before there is anything to give back; the file is mapped twice."""
    size = LIMIT_BYTES + 2 * sum(sizes.values())
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def end_with_parent(parent: int | None = None) -> None:
    """By the kernel's signal, which is not sent where the parent died before it was asked for."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def limit_time() -> None:
    """Wall time by a signal that Python sees; CPU time by one that ends the process, wherever it hangs."""
    cpu_seconds = math.ceil(LIMIT_SECONDS) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)


def out_of_time(signal_number: int, frame: object) -> None:
    raise TimeoutError


if __name__ == "__main__":
    sys.exit(main())
