"""`python -m engine_fake`: the protocol on a pipe, commands for people otherwise."""

from enginebench_protocol.main import run


def main() -> None:
    run("engine_fake.engine:FakeEngine")


if __name__ == "__main__":
    main()
