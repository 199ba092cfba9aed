"""The process and the command `engine-tinygrad`."""

from enginebench_protocol.main import run


def main() -> None:
    run("engine_tinygrad.engine:TinygradEngine", models="enginebench_models.store:LocalModels")


if __name__ == "__main__":
    main()
