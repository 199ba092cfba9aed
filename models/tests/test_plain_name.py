"""Names of files that come from elsewhere: no name leads, hides or means anything; no path leads out of its folder."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from enginebench_models.errors import InvalidModel
from enginebench_models.plain_name import Stray, digest_name, is_plain, own_file, plain_name
from hypothesis import given, settings
from hypothesis import strategies as st

REFUSED = [
    "", ".", "..", "...", "../a", "a/../b", "a/b", "/a", "//a", "./a", "~", "~/a", "a\\b", "..\\a",
    "\\\\host\\a", "C:", "C:a",
    "C:\\a", "a:b", ".a", "-a", "a\0", "a\0.gguf", "a\n", "a\r", "a\tb", "a\x1b[2J", "a\x7f",
    "a b", "a.", "$a", "`a`", "a;b",
    "a|b", "a*", "a?", "a&b", "<a>", '"a"', "'a'", "con", "CON", "nul.json", "Aux.gguf", "com1",
    "LPT9.txt", "a" * 202,
    "\u202egguf", "é", "a\u0301", "ａ", "‥/a", "%2e%2e%2f", "a\ud800", None, 3, b"a", ["a"], "file:a", "http://h/a",
]  # fmt: skip
ACCEPTED = ["a", "model.safetensors", "model-00001-of-00002.safetensors", "A_b-c.9", "console.gguf", "a..b", "a" * 201]
often = settings(max_examples=300, deadline=None, derandomize=True)


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_is_more_than_a_name_is_refused(name: object) -> None:
    with pytest.raises(InvalidModel, match="a plain file name was expected") as caught:
        plain_name(name, "the index")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_plain_name_is_itself(name: str) -> None:
    assert plain_name(name, "the index") == name


PIECES = st.sampled_from(["..", ".", "/", "\\", "a", "b.gguf", "C:", "~", "\0", "\n", " ", "nul", "%2e", "é", "-"])


@often
@given(st.one_of(st.text(max_size=250), st.lists(PIECES, max_size=6).map("".join)))
def test_whatever_is_accepted_stays_in_its_folder_on_every_system(name: str) -> None:
    if not is_plain(name):
        return
    assert os.path.normpath(f"/folder/{name}") == f"/folder/{name}"
    for pure in (PurePosixPath(name), PureWindowsPath(name)):
        assert (pure.name, pure.anchor, len(pure.parts)) == (name, "", 1)
    assert not PureWindowsPath(name).is_reserved() if hasattr(PureWindowsPath, "is_reserved") else True
    assert name.isascii() and name.isprintable() and not name.startswith((".", "-"))


@often
@given(st.text(alphabet="abcXYZ019._-", min_size=1, max_size=60))
def test_ordinary_names_are_accepted(name: str) -> None:
    """Negative control: a gate that refuses everything would pass the tests above."""
    ordinary = name[0].isalnum() and not name.endswith(".")
    assert is_plain(name) == ordinary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """own/ with a file, and what an engine could name instead of it."""
    own, other = tmp_path / "own", tmp_path / "own-not"
    for each in (own / "sub", other):
        each.mkdir(parents=True)
    (own / "file").write_text("mine")
    (own / "sub" / "deep").write_text("mine")
    (other / "secret").write_text("secret")
    (own / "inner").symlink_to(own / "sub" / "deep")
    (own / "outer").symlink_to(other / "secret")
    (own / "way").symlink_to(other, target_is_directory=True)
    (own / "ring").symlink_to(own / "ring")
    (own / "lost").symlink_to(own / "nowhere")
    os.mkfifo(own / "pipe")
    (own / "device").symlink_to("/dev/zero")
    return own


@pytest.mark.parametrize("name", ["file", "sub/deep", "inner", "sub/../file"])
def test_a_file_of_the_folder_is_found(folder: Path, name: str) -> None:
    assert own_file(str(folder / name), folder, "it").read_text() == "mine"


@pytest.mark.parametrize(
    "name",
    [
        "outer", "way/secret", "../own-not/secret", "sub/../../own-not/secret", "pipe", "device",
        "ring", "lost", "sub", ".", "..",
        "none", "file/", "file/x", "a\0b", "x" * 5000, "/dev/zero", "/dev/stdin", "/proc/self/mem",
        "/etc/passwd", "\ud800",
    ],
)  # fmt: skip
def test_anything_else_is_refused(folder: Path, name: str) -> None:
    told = name if name.startswith("/") else f"{folder}/{name}"
    if name == "file/":  # resolve takes the slash off; it is the file
        assert own_file(told, folder, "it") == folder / "file"
        return
    with pytest.raises(Stray):
        own_file(told, folder, "it")


def test_a_relative_path_is_not_taken_from_wherever_we_stand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent / "own-not")
    with pytest.raises(Stray):
        own_file("secret", folder, "it")


@often
@given(
    st.lists(
        st.sampled_from(["..", ".", "file", "sub", "deep", "outer", "way", "secret", "own-not", "own"]), max_size=6
    )
)
def test_no_path_leads_out(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    base = tmp_path_factory.getbasetemp() / "paths"
    own = base / "own"
    if not own.exists():
        (own / "sub").mkdir(parents=True)
        (base / "own-not").mkdir()
        (own / "file").write_text("mine")
        (own / "sub" / "deep").write_text("mine")
        (base / "own-not" / "secret").write_text("secret")
        (own / "outer").symlink_to(base / "own-not" / "secret")
        (own / "way").symlink_to(base / "own-not")
    try:
        found = own_file("/".join([str(own), *parts]), own, "it")
    except Stray:
        return
    assert found.read_text() == "mine"


@pytest.mark.parametrize("digest", [f"sha256:{'0a' * 32}", f"sha256-{'0a' * 32}"])
def test_a_digest_names_a_blob(digest: str) -> None:
    assert digest_name(digest, "manifest") == f"sha256-{'0a' * 32}"


@pytest.mark.parametrize(
    "digest",
    [
        "", "sha256:", "sha256:../../x", f"sha256:{'0a' * 31}", f"sha256:{'0a' * 33}",
        f"sha256:{'0A' * 32}", f"sha512:{'0a' * 32}",
        f"sha256:{'0a' * 32}/../x", f"../sha256:{'0a' * 32}", f"sha256:{'0a' * 32}\n",
        f"sha256:{'0g' * 32}", None, 5, {"a": 1},
    ],
)  # fmt: skip
def test_anything_else_is_no_digest(digest: object) -> None:
    with pytest.raises(InvalidModel, match="64 hex digits"):
        digest_name(digest, "manifest")
