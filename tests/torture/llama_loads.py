"""Does llama.cpp load these models? Run in the environment of engine-llamacpp; paths on stdin, 1 or 0 on stdout."""

from __future__ import annotations

import os
import sys

import llama_cpp


@llama_cpp.llama_log_callback
def silent(level: int, text: bytes, data: object) -> None:
    pass


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    for line in sys.stdin:
        model = llama_cpp.llama_model_load_from_file(line.strip().encode(), parameters)
        answers.write("1\n" if model else "0\n")
        if model:
            llama_cpp.llama_model_free(model)


if __name__ == "__main__":
    main()
