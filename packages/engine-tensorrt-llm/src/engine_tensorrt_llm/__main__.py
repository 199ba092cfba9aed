"""`python -m engine_tensorrt_llm`: the protocol on a pipe, commands for people otherwise."""

from enginebench_protocol.main import run


def main() -> None:
    run("engine_tensorrt_llm.engine:TensorRtLlmEngine", models="enginebench_models.store:LocalModels")


if __name__ == "__main__":
    main()
