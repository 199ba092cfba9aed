"""`python -m engine_vllm`: the protocol on a pipe, commands for people otherwise."""

from enginebench_protocol.main import run


def main() -> None:
    run("engine_vllm.engine:VllmEngine", models="enginebench_models.store:LocalModels")


if __name__ == "__main__":
    main()
