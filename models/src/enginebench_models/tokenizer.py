"""Text to token ids and back, and chat messages to a prompt, from whatever the checkpoint brings.

Byte-level BPE through the `tokenizers` library. Chat templates are programs from a file of unknown origin: they run
in a process of their own (chat_template.py).
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from enginebench_models.chat_template import rendered
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.errors import InvalidModel, TokenizerMissing
from enginebench_models.files import read_json
from enginebench_models.layout import Vocabulary
from enginebench_models.synthetic_vocabulary import bytes_of_symbols

# LLaMA 3's pattern, as in its tokenizer.json and in llama.cpp's llama-vocab.cpp (LLAMA_VOCAB_PRE_TYPE_LLAMA3).
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3")
CONTROL, USER_DEFINED = 3, 4  # llama.cpp, enum llama_token_type


def load_tokenizer(checkpoint: Checkpoint) -> "Tokenizer":
    """Raises TokenizerMissing where the checkpoint holds none, InvalidModel where it cannot be built."""
    source = checkpoint.tokenizer_source()
    return from_folder(source) if isinstance(source, Path) else from_vocabulary(source)


class Tokenizer:
    """One model's tokenizer; `eos` lists every id that ends an answer."""

    def __init__(
        self, backend: tokenizers.Tokenizer, bos: int | None, eos: Sequence[int], chat_template: str | None
    ) -> None:
        self._backend = backend
        self.bos = bos
        self.eos = list(eos)
        self.chat_template = chat_template

    def encode(self, text: str, add_bos: bool = True) -> list[int]:
        """Token ids; special tokens in the text become their ids, and a leading BOS is never doubled."""
        ids = list(self._backend.encode(text, add_special_tokens=False).ids)
        wanted = add_bos and self.bos is not None and ids[:1] != [self.bos]
        return [self.bos, *ids] if wanted and self.bos is not None else ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of the ids; bytes that form no character become U+FFFD."""
        return str(self._backend.decode([int(token) for token in ids], skip_special_tokens=skip_special))

    def piece(self, token: int) -> bytes:
        """The bytes that one id stands for, which may end inside a character; none for a special token.

        Of a vocabulary that is not of bytes: the id decoded alone.
        """
        added = self._added.get(token)
        if added is not None:
            return b"" if added.special else str(added.content).encode()
        symbols = self._backend.id_to_token(token) if self._of_bytes else None
        if symbols is None or not all(symbol in self._of_bytes for symbol in symbols):
            return self.decode([token]).encode()
        return bytes(self._of_bytes[symbol] for symbol in symbols)

    @cached_property
    def _added(self) -> Mapping[int, AddedToken]:
        return dict(self._backend.get_added_tokens_decoder())

    @cached_property
    def _of_bytes(self) -> Mapping[str, int]:
        """Symbol of byte-level BPE → its byte; empty for another kind of vocabulary."""
        is_of_bytes = isinstance(self._backend.decoder, decoders.ByteLevel)
        return bytes_of_symbols() if is_of_bytes else {}

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt text for messages of {role, content}.

        Raises TokenizerMissing without a chat template, InvalidModel for one that fails.
        """
        if self.chat_template is None:
            raise TokenizerMissing("This model has no chat template. Use an Instruct model, or a plain prompt.")
        eos = self._text(self.eos[0] if self.eos else None)
        return rendered(self.chat_template, messages, self._text(self.bos), eos)

    def _text(self, token: int | None) -> str:
        return "" if token is None else str(self._backend.id_to_token(token))


def from_vocabulary(vocabulary: Vocabulary) -> Tokenizer:
    """From GGUF metadata."""
    if vocabulary.pre not in LLAMA3_NAMES:
        raise TokenizerMissing(f"Pre-tokenizer {vocabulary.pre!r} is not read; {', '.join(LLAMA3_NAMES)} are.")
    return Tokenizer(backend_of(vocabulary), vocabulary.bos, vocabulary.eos, vocabulary.chat_template)


def backend_of(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    ids = {token: position for position, token in enumerate(vocabulary.tokens)}
    merges = [pair_of(merge) for merge in vocabulary.merges]
    try:
        # LLaMA 3 sets ignore_merges: a word that is a token is that token, whatever the merges say.
        backend = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=True))
    except Exception as cause:  # noqa: BLE001 - the library raises plain Exception
        raise InvalidModel(f"The tokenizer's merges do not fit its tokens: {cause}.") from None
    words = pre_tokenizers.Split(Regex(LLAMA3_WORDS), behavior="isolated")
    symbols = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, symbols])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(added(vocabulary, CONTROL, special=True))
    backend.add_tokens(added(vocabulary, USER_DEFINED, special=False))
    return backend


def pair_of(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def added(vocabulary: Vocabulary, kind: int, special: bool) -> list[AddedToken]:
    return [
        AddedToken(token, special=special, normalized=False)
        for token, other in zip(vocabulary.tokens, vocabulary.types, strict=True)
        if other == kind
    ]


def from_folder(folder: Path) -> Tokenizer:
    """From tokenizer.json, tokenizer_config.json, generation_config.json and chat_template.jinja."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise TokenizerMissing(f"{file} is missing. Copy it from the model's repository, or pass token ids.")
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as cause:  # noqa: BLE001 - the library raises plain Exception
        raise InvalidModel(f"{file} cannot be read: {cause}.") from None
    settings = optional_json(folder / "tokenizer_config.json")
    ends = optional_json(folder / "generation_config.json") or optional_json(folder / "config.json")
    bos = backend.token_to_id(token_text(settings.get("bos_token")))
    return Tokenizer(backend, bos, end_ids(ends.get("eos_token_id"), settings, backend), template_of(folder, settings))


def optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def token_text(value: Any) -> str:
    """tokenizer_config.json holds a token as a string or as {"content": …}."""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def end_ids(stated: Any, settings: Mapping[str, Any], backend: tokenizers.Tokenizer) -> list[int]:
    if isinstance(stated, int):
        return [stated]
    if isinstance(stated, list):
        return [int(token) for token in stated]
    named = backend.token_to_id(token_text(settings.get("eos_token")))
    return [] if named is None else [named]


def template_of(folder: Path, settings: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    return template if isinstance(template, str) else None


def write_folder(vocabulary: Vocabulary, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json as transformers reads them."""
    if vocabulary.bos is None:
        raise InvalidModel("A vocabulary without BOS cannot be written as a LLaMA tokenizer.")
    backend = backend_of(vocabulary)
    bos = vocabulary.tokens[vocabulary.bos]
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary.bos)]
    )
    backend.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": vocabulary.tokens[vocabulary.eos[0]],
        "chat_template": vocabulary.chat_template,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
