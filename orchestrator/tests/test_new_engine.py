"""A new engine is one folder and one line; it is found, it conforms, and nothing else changed."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from enginebench.conformance import run_conformance
from enginebench.errors import UsageError
from enginebench.workspace.discovery import ROOT, discover
from enginebench.workspace.new_engine import TEMPLATE, insertion_point, new_engine, with_conflict
from enginebench_models.catalogue import entry
from enginebench_models.synthesis import synthesise

PYPROJECT = """\
[tool.uv]
# a comment that stays
conflicts = [[
    { package = "engine-fake" },  # with a remark
    # why this one stands here
    { package = "engine-zeta" },
]]

[tool.uv.workspace]
members = ["packages/*"]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace of one engine."""
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    fake = tmp_path / "packages" / "engine-fake"
    fake.mkdir(parents=True)
    source = (ROOT / "packages" / "engine-fake" / "pyproject.toml").read_text()
    (fake / "pyproject.toml").write_text(source.replace('role = "test"', 'role = "test"\naliases = ["pretend"]'))
    return tmp_path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(entry("tiny").config, tmp_path_factory.mktemp("model") / "tiny.gguf")


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_new_engine_is_discovered_with_its_table(root: Path) -> None:
    new_engine("my-demo", root)
    info = discover(root)["my-demo"]
    assert (info.package, info.module, info.role) == ("engine-my-demo", "engine_my_demo", "engine")
    assert list(info.configurations) == ["default"]
    assert Path(info.folder) == root / "packages" / "engine-my-demo"


def test_only_its_folder_and_the_conflict_set_change(root: Path) -> None:
    before = contents(root)
    written = new_engine("demo", root)
    after = contents(root)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {str(path.relative_to(root)) for path in written}
    assert {name for name in changed if not name.startswith("packages/engine-demo/")} == {"pyproject.toml"}
    assert set(before) <= set(after)
    assert not list(root.rglob(".*engine-demo*"))


def test_the_conflict_set_keeps_its_comments_and_order(root: Path) -> None:
    new_engine("demo", root)
    text = (root / "pyproject.toml").read_text()
    expected = PYPROJECT.replace(
        '{ package = "engine-fake" }', '{ package = "engine-demo" },\n    { package = "engine-fake" }'
    )
    assert text == expected
    assert tomllib.loads(text)["tool"]["uv"]["conflicts"] == [
        [{"package": "engine-demo"}, {"package": "engine-fake"}, {"package": "engine-zeta"}]
    ]


@pytest.mark.parametrize(
    ("package", "line"), [("engine-a", 0), ("engine-g", 1), ("engine-zz", 3)], ids=["first", "before-comment", "last"]
)
def test_a_package_goes_where_it_sorts(package: str, line: int) -> None:
    lines = PYPROJECT.splitlines(keepends=True)[3:6]
    assert insertion_point(lines, package) == line


def test_every_placeholder_is_filled_in(root: Path) -> None:
    for path in new_engine("my-demo", root):
        assert "{{" not in path.read_text(), path
        assert path.suffix != ".tmpl"
        if path.suffix == ".py":
            ast.parse(path.read_text())
    engine = root / "packages/engine-my-demo/src/engine_my_demo/engine.py"
    assert "class MyDemoEngine(Engine):" in engine.read_text()


def test_the_main_file_stays_small(root: Path) -> None:
    new_engine("demo", root)
    main = root / "packages/engine-demo/src/engine_demo/__main__.py"
    assert len(main.read_text().splitlines()) <= 15


@pytest.mark.parametrize("name", ["", "Demo", "1st", "my_demo", "-x", "x-", "a--b", "../up", "a b", "x" * 41, "ä"])
def test_an_invalid_name_is_refused_and_nothing_is_written(root: Path, name: str) -> None:
    before = contents(root)
    with pytest.raises(UsageError, match="is no engine name"):
        new_engine(name, root)
    assert contents(root) == before


@pytest.mark.parametrize("name", ["fake", "pretend", "all"])
def test_a_taken_name_is_refused_and_nothing_is_written(root: Path, name: str) -> None:
    before = contents(root)
    with pytest.raises(UsageError, match=f"'{name}' already"):
        new_engine(name, root)
    assert contents(root) == before


def test_a_second_engine_of_the_same_name_is_refused(root: Path) -> None:
    new_engine("demo", root)
    with pytest.raises(UsageError, match="already"):
        new_engine("demo", root)


def test_a_root_without_a_conflict_set_is_refused_and_nothing_is_written(root: Path) -> None:
    (root / "pyproject.toml").write_text("[tool.uv]\n")
    before = contents(root)
    with pytest.raises(UsageError, match="no `conflicts"):
        new_engine("demo", root)
    assert contents(root) == before


def test_the_real_root_has_a_conflict_set_that_can_be_edited() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    old = tomllib.loads(text)["tool"]["uv"]["conflicts"][0]
    new = tomllib.loads(with_conflict(text, "engine-new-one"))["tool"]["uv"]["conflicts"][0]
    assert sorted(c["package"] for c in new) == sorted([*(c["package"] for c in old), "engine-new-one"])


def test_the_template_pins_the_newest_that_the_models_allow() -> None:
    models = tomllib.loads((ROOT / "models" / "pyproject.toml").read_text())["project"]["dependencies"]
    (numpy,) = [requirement for requirement in models if requirement.startswith("numpy")]
    assert f'"numpy=={numpy.rpartition("<=")[2]}"' in (TEMPLATE / "pyproject.toml.tmpl").read_text()


def run_with(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    source = root / "packages" / "engine-demo" / "src"
    code = f"import sys; sys.path.insert(0, {str(source)!r}); {command[0]}"
    return subprocess.run(
        [sys.executable, "-c", code, *command[1:]], capture_output=True, text=True, cwd=root, check=False
    )


def test_a_new_engine_conforms_and_its_logits_are_checked(root: Path, tiny: Path) -> None:
    new_engine("demo", root)
    source = root / "packages" / "engine-demo" / "src"
    start = f"import sys; sys.path.insert(0, {str(source)!r}); from engine_demo.__main__ import main; main()"
    checks = run_conformance([sys.executable, "-c", start], tiny, discover(root)["demo"])
    assert [check for check in checks if not check.passed] == []
    assert not [check for check in checks if "not applicable" in check.detail]


def test_a_new_engine_passes_the_tests_that_came_with_it(root: Path) -> None:
    new_engine("demo", root)
    tests = root / "packages" / "engine-demo" / "tests"
    done = run_with(
        root, "import pytest; sys.exit(pytest.main(sys.argv[1:]))", "-q", "-p", "no:cacheprovider", str(tests)
    )
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout


@pytest.mark.parametrize("verb", [("check",), ("format", "--check")], ids=" ".join)
def test_a_new_engine_is_as_ruff_wants_it(root: Path, verb: tuple[str, ...]) -> None:
    pytest.importorskip("ruff")
    new_engine("demo", root)
    command = [sys.executable, "-m", "ruff", *verb, "--config", str(ROOT / "pyproject.toml"), "packages/engine-demo"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_new_engine_is_typed(root: Path) -> None:
    pytest.importorskip("mypy")
    new_engine("demo", root)
    source = root / "packages" / "engine-demo" / "src"
    command = [sys.executable, "-m", "mypy", "--config-file", "packages/mypy.ini", "--no-incremental"]
    done = subprocess.run(
        [*command, str(source / "engine_demo")],
        cwd=ROOT,
        env={"MYPYPATH": str(source), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
