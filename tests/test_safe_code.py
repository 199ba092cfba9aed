"""What no line of this repository may do, read off the syntax tree of every file, engines included.

Unpickle, run code from elsewhere, or start a program with whatever environment happens to be there.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("protocol/src", "models/src", "orchestrator/src", "packages")

PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "msgpack_numpy"}
READERS = {"torch.load", "pandas.read_pickle", "pd.read_pickle", "torch.jit.load", "torch.package.PackageImporter"}
RUNNERS = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen"}
TRUSTED = {"allow_pickle", "trust_remote_code", "shell"}
"""Arguments that may be nothing but False."""

STARTERS = {"subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call", "subprocess.check_output"}
OTHER_STARTERS = ("os.exec", "os.spawn", "os.posix_spawn", "os.fork", "multiprocessing.", "asyncio.create_subprocess")
INHERITING = {
    # An engine's own children see what the engine sees, which is on the list already, and its library's settings.
    "packages/engine-fake/src/engine_fake/misbehaviour.py",
    "packages/engine-torch/src/engine_torch/ranks.py",
    "packages/engine-torch/src/engine_torch/processor_kernels.py",
    # Becomes the server that its parent started with a list of its own.
    "packages/engine-ollama/src/engine_ollama/with_parent.py",
}
PICKLED_BY_A_LIBRARY = {
    # TensorRT-LLM pickles objects of ours for its workers: these tests ask whether that can be done.
    "packages/engine-tensorrt-llm/tests/seam/conftest.py",
    "packages/engine-tensorrt-llm/tests/seam/test_decoding.py",
    "packages/engine-tensorrt-llm/tests/seam/test_shards.py",
}

Finding = tuple[int, str]


def name_of(node: ast.expr) -> str:
    """a.b.c of an expression that is one, else an empty text."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            return f"{name_of(value)}.{attribute}"
        case _:
            return ""


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def unsafe_calls(tree: ast.AST) -> Iterator[Finding]:
    for call in calls(tree):
        name = name_of(call.func)
        if name in READERS | RUNNERS:
            yield call.lineno, name
        for keyword in call.keywords:
            if keyword.arg in TRUSTED and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            ):
                yield call.lineno, f"{name}({keyword.arg}=…)"
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            yield from ((node.lineno, f"{{{key!r}: …}}") for key in keys if key in TRUSTED)


def pickles(tree: ast.AST) -> Iterator[Finding]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, n.name) for n in names if n.name.partition(".")[0] in PICKLES)
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in PICKLES:
                yield node.lineno, module


def spawns_without_environment(tree: ast.AST) -> Iterator[Finding]:
    for call in calls(tree):
        name = name_of(call.func)
        if name in STARTERS and "env" not in {keyword.arg for keyword in call.keywords}:
            yield call.lineno, name
        if name.startswith(OTHER_STARTERS):
            yield call.lineno, name


def found(scan: Callable[[ast.AST], Iterator[Finding]], tests_too: bool, spared: set[str]) -> list[str]:
    files = [file for folder in SOURCES for file in (ROOT / folder).rglob("*.py")]
    if tests_too:
        files += [file for folder in ("tests", "*/tests") for file in ROOT.glob(f"{folder}/**/*.py")]
    return [
        f"{name}:{line}: {what}"
        for file in sorted(set(files))
        if (name := str(file.relative_to(ROOT))) not in spared and (tests_too or "/tests/" not in f"/{name}")
        for line, what in scan(ast.parse(file.read_text()))
    ]


def test_nothing_is_unpickled() -> None:
    assert not found(pickles, tests_too=True, spared=PICKLED_BY_A_LIBRARY)


def test_no_code_from_elsewhere_is_run() -> None:
    assert not found(unsafe_calls, tests_too=True, spared={"tests/test_safe_code.py"})


def test_every_program_is_started_with_a_list_of_what_it_may_see() -> None:
    assert not found(spawns_without_environment, tests_too=False, spared=INHERITING)


def test_what_is_spared_is_there() -> None:
    """A list of exceptions must not outlive them."""
    for name in INHERITING:
        assert list(spawns_without_environment(ast.parse((ROOT / name).read_text()))), name
    for name in PICKLED_BY_A_LIBRARY:
        assert list(pickles(ast.parse((ROOT / name).read_text()))), name


@pytest.mark.parametrize(
    ("scan", "line"),
    [
        (pickles, "import pickle"),
        (pickles, "def f():\n    from joblib import load"),
        (unsafe_calls, "torch.load('x')"),
        (unsafe_calls, "np.load('x', allow_pickle=True)"),
        (unsafe_calls, "np.load('x', allow_pickle=chosen)"),
        (unsafe_calls, "AutoModel.from_pretrained('x', trust_remote_code=True)"),
        (unsafe_calls, "arguments = {'trust_remote_code': True}"),
        (unsafe_calls, "eval(text)"),
        (unsafe_calls, "yaml.load(text)"),
        (unsafe_calls, "subprocess.run('a', shell=True, env={})"),
        (spawns_without_environment, "subprocess.run(['a'])"),
        (spawns_without_environment, "def f():\n    return subprocess.Popen(['a'], stdin=subprocess.PIPE)"),
        (spawns_without_environment, "os.execv('a', ['a'])"),
        (spawns_without_environment, "multiprocessing.Process(target=f)"),
    ],
)
def test_the_scan_sees_it(scan: Callable[[ast.AST], Iterator[Finding]], line: str) -> None:
    assert list(scan(ast.parse(line)))


@pytest.mark.parametrize(
    ("scan", "line"),
    [
        (pickles, "import json"),
        (unsafe_calls, "np.load('x', allow_pickle=False); model.eval()"),
        (spawns_without_environment, "subprocess.run(['a'], env=allowed)"),
    ],
)
def test_the_scan_lets_the_rest_pass(scan: Callable[[ast.AST], Iterator[Finding]], line: str) -> None:
    assert not list(scan(ast.parse(line)))
