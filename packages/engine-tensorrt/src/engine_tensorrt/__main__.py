"""`python -m engine_tensorrt`: the protocol on a pipe, commands for people otherwise."""

from enginebench_protocol.main import run


def main() -> None:
    run("engine_tensorrt.engine:TensorrtEngine", models="enginebench_models.store:LocalModels")


if __name__ == "__main__":
    main()
