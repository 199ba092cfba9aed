"""Text that comes back as it went in, special tokens, and chat templates that cannot reach out."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.errors import InvalidModel, TokenizerMissing
from enginebench_models.synthetic_vocabulary import synthetic_vocabulary
from enginebench_models.tokenizer import Tokenizer, from_vocabulary, load_tokenizer

from .gguf_files import write_gguf

SAMPLES = [
    "",
    " ",
    "The quick brown fox, isn't it?  Two  spaces.\n\n\tTabs\r\nand lines ",
    "1234567890 3.14 x²",
    "Überraschung façade naïve ß ı İ",
    "你好，世界 日本語 한국어",
    "🙂👩‍👩‍👧 é e\u0301 \u200b\ufeff\u202e",
    "def f(x):\n    return x ** 2  # comment\n",
    "\x00\x01\x7f",
]


@pytest.fixture(scope="module")
def tokenizer(tiny: Checkpoint) -> Tokenizer:
    return load_tokenizer(tiny)


@pytest.mark.parametrize("text", SAMPLES)
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_random_unicode_comes_back(tokenizer: Tokenizer) -> None:
    dice = random.Random(7)
    points = [point for point in range(0x20000) if not 0xD800 <= point < 0xE000]
    for _ in range(300):
        text = "".join(map(chr, dice.choices(points, k=20)))
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_pieces_of_ids_are_the_bytes_of_their_text(tokenizer: Tokenizer) -> None:
    dice = random.Random(3)
    for _ in range(50):
        ids = [dice.randrange(4096) for _ in range(40)]
        assert b"".join(map(tokenizer.piece, ids)).decode("utf-8", "replace") == tokenizer.decode(ids)


def test_a_piece_may_be_half_a_character(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.piece(token) for token in tokenizer.encode("\N{SLIGHTLY SMILING FACE}", add_bos=False)]
    assert len(pieces) > 1
    assert b"".join(pieces) == "\N{SLIGHTLY SMILING FACE}".encode()


def test_a_special_token_has_no_piece(tokenizer: Tokenizer) -> None:
    assert tokenizer.piece(tokenizer.eos[0]) == b""


def test_both_formats_give_the_same_ids(tokenizer: Tokenizer, tiny_folder: Path) -> None:
    other = load_tokenizer(open_checkpoint(tiny_folder))
    for text in [*SAMPLES, "<|start_header_id|>user<|end_header_id|>"]:
        assert tokenizer.encode(text) == other.encode(text)
    assert (tokenizer.bos, tokenizer.eos) == (other.bos, other.eos) == (3840, [3849, 3841, 3848])
    assert tokenizer.chat_template == other.chat_template


def test_words_take_fewer_tokens_than_bytes(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("some words of text", add_bos=False)) < 11


def test_bos_comes_first_and_only_once(tokenizer: Tokenizer) -> None:
    plain = tokenizer.encode("text", add_bos=False)
    assert tokenizer.encode("text") == [3840, *plain]
    assert tokenizer.encode("<|begin_of_text|>text") == [3840, *plain]


def test_special_tokens_are_single_ids_and_left_out_of_the_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a<|eot_id|>b", add_bos=False)
    assert ids[1] == 3849
    assert tokenizer.decode(ids) == "ab"
    assert tokenizer.decode(ids, skip_special=False) == "a<|eot_id|>b"


def test_chat_is_rendered_by_the_models_template(tokenizer: Tokenizer) -> None:
    prompt = tokenizer.render_chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hello "}])
    assert prompt == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__.__name__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% for x in range(10**9) %}{% endfor %}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ unfinished",
    ],
)
def test_a_hostile_or_broken_template_is_refused(template: str) -> None:
    vocabulary = replace(synthetic_vocabulary(600), chat_template=template)
    with pytest.raises(InvalidModel, match="chat template failed"):
        from_vocabulary(vocabulary).render_chat([{"role": "user", "content": "hi"}])


def test_a_model_without_a_template_says_so() -> None:
    with pytest.raises(TokenizerMissing, match="no chat template"):
        from_vocabulary(replace(synthetic_vocabulary(600), chat_template=None)).render_chat([])


def test_merges_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidModel, match="merges"):
        from_vocabulary(replace(synthetic_vocabulary(600), merges=["no such"]))


def test_another_pre_tokenizer_is_refused_by_name() -> None:
    with pytest.raises(TokenizerMissing, match="'qwen2'"):
        from_vocabulary(replace(synthetic_vocabulary(600), pre="qwen2"))


def test_a_gguf_file_without_tokenizer_says_so(odd_config: LlamaConfig, tmp_path: Path) -> None:
    with pytest.raises(TokenizerMissing, match="'none' tokenizer"):
        load_tokenizer(open_checkpoint(write_gguf(tmp_path / "m.gguf", odd_config)))


def test_a_folder_without_or_with_a_broken_tokenizer_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidModel, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(open_checkpoint(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TokenizerMissing, match=r"tokenizer\.json is missing"):
        load_tokenizer(open_checkpoint(folder))


def test_tokens_may_be_objects_and_the_template_a_file_of_its_own(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    settings = {"bos_token": {"content": "<|begin_of_text|>"}, "eos_token": {"content": "<|end_of_text|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}")
    (folder / "generation_config.json").write_text('{"eos_token_id": 3841}')
    tokenizer = load_tokenizer(open_checkpoint(folder))
    assert (tokenizer.bos, tokenizer.eos) == (3840, [3841])
    assert tokenizer.render_chat([{"role": "user", "content": "x"}]) == "<|begin_of_text|>x<|end_of_text|>"


@pytest.mark.parametrize("size", [512, 4096, 128256])
def test_a_synthetic_vocabulary_has_the_size_asked_for(size: int) -> None:
    vocabulary = synthetic_vocabulary(size)
    assert len(vocabulary.tokens) == len(set(vocabulary.tokens)) == len(vocabulary.types) == size
    assert vocabulary.tokens[size - 256] == "<|begin_of_text|>"
    assert vocabulary.tokens[-1] == "<|reserved_special_token_247|>"


@pytest.mark.parametrize("size", [511, 600_000])
def test_a_vocabulary_that_cannot_be_made_is_refused(size: int) -> None:
    with pytest.raises(InvalidModel, match=str(size)):
        synthetic_vocabulary(size)
