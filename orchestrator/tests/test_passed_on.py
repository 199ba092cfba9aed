"""What the programs that we start see of our environment."""

from __future__ import annotations

import pytest
from enginebench.run.passed_on import engine_environment, own_environment, program_environment, uv_environment

SECRETS = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "SSH_AUTH_SOCK", "PIP_INDEX_URL", "VIRTUAL_ENV")
FOR_UV = ("UV_INDEX_MINE_PASSWORD", "https_proxy", "HTTP_PROXY", "SSL_CERT_FILE")


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SECRETS, *FOR_UV):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("PATH", "/bin")


def test_an_engine_and_a_program_of_the_system_see_the_list_and_nothing_else() -> None:
    for environment in (engine_environment({"TMPDIR": "/scratch"}), program_environment()):
        assert "secret" not in environment.values()
        assert environment["PATH"] == "/bin"
    assert engine_environment({"TMPDIR": "/scratch"})["TMPDIR"] == "/scratch"


def test_uv_sees_what_it_needs_to_reach_its_index_and_no_token_of_others() -> None:
    environment = uv_environment({"UV_PROJECT_ENVIRONMENT": ".envs/x"})
    assert {name for name, value in environment.items() if value == "secret"} == set(FOR_UV)
    assert environment["UV_PROJECT_ENVIRONMENT"] == ".envs/x"


def test_enginebench_started_by_itself_gets_no_token_either() -> None:
    assert not set(SECRETS) & set(own_environment())
