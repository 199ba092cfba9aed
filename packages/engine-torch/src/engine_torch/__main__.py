"""`python -m engine_torch`: the protocol on a pipe, commands on a terminal."""

from enginebench_protocol.main import run


def main() -> None:
    run("engine_torch.engine:TorchEngine", models="enginebench_models.store:LocalModels")


if __name__ == "__main__":
    main()
