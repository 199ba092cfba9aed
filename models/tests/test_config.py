"""Sizes that follow from a shape, against published numbers."""

import re
from dataclasses import replace

import pytest
from enginebench_models.catalogue import entries, entry
from enginebench_models.config import LlamaConfig
from enginebench_models.errors import InvalidModel, ModelNotFound
from enginebench_models.plain_name import plain_name


@pytest.mark.parametrize(
    ("name", "weights", "read_gigabytes", "kv_kibibytes"),
    [
        ("llama3-1b", 1_235_814_400, 2.47, 32),
        ("llama3-8b", 8_030_261_248, 15.01, 128),
        ("llama3-70b", 70_553_706_496, 139.01, 320),
        ("llama3-405b", 405_853_388_800, 807.50, 504),
    ],
)
def test_catalogue_shapes_give_the_published_sizes(
    name: str, weights: int, read_gigabytes: float, kv_kibibytes: int
) -> None:
    config = entry(name).config
    assert config.weight_elements() == weights
    assert round(2 * config.read_elements_per_token() / 1e9, 2) == read_gigabytes
    assert config.kv_bytes_per_token(2) == kv_kibibytes * 1024


def test_all_that_does_not_divide_is_named() -> None:
    config = entry("tiny").config
    assert config.undivided(2) == []
    assert config.undivided(5) == ["n_heads 4", "n_kv_heads 2", "hidden_dim 768"]


def test_sources_are_pinned_to_commits_and_name_plain_files() -> None:
    for model in entries().values():
        assert model.revision is None or re.fullmatch("[0-9a-f]{40}", model.revision)
        assert [plain_name(file.name, model.name) for file in model.files] == [file.name for file in model.files]
        assert (model.repository is None) == (model.format is None) == (not model.files)


def test_a_tied_table_is_read_and_an_untied_one_is_not(tiny_config: LlamaConfig) -> None:
    untied = replace(tiny_config, tied_embeddings=False)
    assert tiny_config.read_elements_per_token() == tiny_config.weight_elements()
    assert untied.read_elements_per_token() == tiny_config.weight_elements()
    assert untied.weight_elements() - tiny_config.weight_elements() == tiny_config.vocab_size * tiny_config.dim


@pytest.mark.parametrize("change", [{"n_kv_heads": 3}, {"head_dim": 63}, {"n_layers": 0}, {"vocab_size": -1}])
def test_numbers_that_cannot_belong_together_are_refused(tiny_config: LlamaConfig, change: dict[str, int]) -> None:
    with pytest.raises(InvalidModel, match=str(next(iter(change.values())))):
        replace(tiny_config, **change)


def test_the_catalogue_lists_the_smallest_model_first() -> None:
    assert list(entries()) == ["tiny", "llama3-1b", "llama3-8b", "llama3-70b", "llama3-405b"]


def test_an_unknown_name_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(ModelNotFound, match=r"llama3-2b.*tiny, llama3-1b"):
        entry("llama3-2b")
