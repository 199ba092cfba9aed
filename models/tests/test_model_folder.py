"""What stands in a folder: weights, parts of them, or something that only looks like them."""

import json
import shutil
from pathlib import Path

import pytest
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.errors import InvalidModel, ModelError, ModelNotFound, NotAModel, UnsupportedModel
from enginebench_models.files import map_file, read_json
from enginebench_models.model_folder import missing_parts, weight_files
from enginebench_models.plain_name import plain_name
from enginebench_models.validation import refuse_hostile, validate_path

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 2471645608\n"
)


def folder_of(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_bytes(b"x" * 16)
    return path


def test_several_ggufs_are_listed_and_none_is_guessed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", "a-Q4_0.gguf", "a-f16.gguf")
    with pytest.raises(NotAModel, match=r"holds 2 GGUF files \(a-Q4_0.gguf, a-f16.gguf\); give the path of one"):
        weight_files(folder)


def test_a_split_gguf_says_how_to_merge_it(tmp_path: Path) -> None:
    whole = folder_of(tmp_path / "whole", *(f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)))
    with pytest.raises(UnsupportedModel, match=r"Merge them: llama-gguf-split --merge m-00001-of-00003.gguf"):
        weight_files(whole)
    (whole / "m-00002-of-00003.gguf").unlink()
    with pytest.raises(UnsupportedModel, match=r"Download m-00002-of-00003.gguf, then merge them"):
        weight_files(whole)


def test_two_sets_of_parts_are_several_files(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", "a-00001-of-00002.gguf", "b-00001-of-00002.gguf")
    with pytest.raises(NotAModel, match="holds 2 GGUF files"):
        weight_files(folder)


def test_a_missing_shard_is_named_with_an_index_and_without(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors")
    with pytest.raises(ModelNotFound, match=r"lacks model-00002-of-00003.safetensors") as caught:
        weight_files(folder)
    assert caught.value.rule == "missing-file"
    index = {"weight_map": {"a": "model-00001-of-00003.safetensors", "b": "model-00002-of-00003.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelNotFound, match=r"names the shard 'model-00002-of-00003.safetensors', which is not there"):
        weight_files(folder)


def test_a_count_in_a_name_is_not_believed_without_end() -> None:
    assert len(missing_parts(["m-00001-of-99999.safetensors"])) == 3
    assert missing_parts(["m-00001-of-00001.safetensors", "plain.safetensors"]) == []


def test_the_only_part_of_one_is_no_split_model(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", "model-00001-of-00001.gguf")
    assert weight_files(folder) == [folder / "model-00001-of-00001.gguf"]


def test_a_single_shard_is_not_a_model(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", "model-00001-of-00004.safetensors")
    with pytest.raises(NotAModel, match="one of 4 shards: give their directory"):
        weight_files(folder / "model-00001-of-00004.safetensors")


PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("consolidated.00.pth", "params.json", "tokenizer.model"),
            "Meta's original checkpoint .*convert_llama_weights",
        ),
        (("config.json", "pytorch_model-00001-of-00002.bin"), "nothing is unpickled here: save the model again"),
        *((("config.json", f"model{end}"), "nothing is unpickled here: save the model again") for end in PICKLES),
    ],
)
def test_pickled_weights_are_recognised_and_never_opened(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    folder = folder_of(tmp_path / "m", *names)
    with pytest.raises(UnsupportedModel, match=message):
        weight_files(folder)
    assert validate_path(folder).kind == "unsupported"


def test_pickles_beside_safetensors_do_not_matter(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    (folder / "consolidated.00.pth").write_bytes(b"x")
    assert open_checkpoint(folder).format == "safetensors"


def test_a_git_lfs_pointer_is_told_from_weights(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    (folder / "model.safetensors").write_text(POINTER)
    with pytest.raises(NotAModel, match=r"Git LFS pointer.*stand for 2,471,645,608 bytes: run `git lfs pull`"):
        open_checkpoint(folder)
    with pytest.raises(InvalidModel, match="Git LFS pointer") as caught:
        refuse_hostile(folder)
    assert caught.value.rule == "git-lfs-pointer"


def test_a_pointer_without_its_size_and_one_instead_of_json_are_told_too(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text(POINTER.splitlines()[0])
    with pytest.raises(NotAModel, match="stand for a large file"):
        map_file(tmp_path / "m.gguf")
    (tmp_path / "tokenizer.json").write_text(POINTER)
    with pytest.raises(NotAModel, match="Git LFS pointer"):
        read_json(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    "name",
    ["../x", "..", ".", "", "/etc/passwd", "a/b", "a\\b", ".hidden", "-rf", "a b", "a\0b", "a" * 300, "é", None, 7],
)
def test_only_plain_names_pass(name: object) -> None:
    with pytest.raises(ModelError, match="plain file name was expected"):
        plain_name(name, "the hub")


@pytest.mark.parametrize("name", ["model-00001-of-00004.safetensors", "Llama-3.2-1B-Instruct-f16.gguf", "config.json"])
def test_plain_names_pass_as_they_are(name: str) -> None:
    assert plain_name(name, "the hub") == name
