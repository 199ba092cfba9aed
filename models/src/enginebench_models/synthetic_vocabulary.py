"""A byte-level BPE vocabulary of any size: 256 bytes, letter combinations, LLaMA-3's special tokens on top.

Text round-trips and words take a token per one to four letters; the tokens mean nothing.
"""

from collections.abc import Iterator
from itertools import islice, product
from string import ascii_lowercase

from enginebench_models.errors import InvalidModel
from enginebench_models.layout import Vocabulary

N_SPECIAL = 256
NORMAL, CONTROL = 1, 3  # llama.cpp, enum llama_token_type

# Llama 3.2's tokenizer_config.json; the offsets not named here are reserved_special_token_N in order.
SPECIAL = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def synthetic_vocabulary(size: int) -> Vocabulary:
    """Raises InvalidModel for sizes that cannot hold 256 bytes and 256 special tokens."""
    if size < 256 + N_SPECIAL:
        raise InvalidModel(f"A synthetic vocabulary has 512 tokens at least, {size} were asked for.")
    merges = list(islice(letter_merges(), size - 256 - N_SPECIAL))
    text = byte_symbols() + [left + right for left, right in merges]
    first_special = size - N_SPECIAL
    if len(text) != first_special:
        raise InvalidModel(f"A synthetic vocabulary has {len(text) + N_SPECIAL} tokens at most, {size} were asked for.")
    return Vocabulary(
        model="gpt2",
        pre="llama-bpe",
        tokens=text + special_tokens(),
        merges=[f"{left} {right}" for left, right in merges],
        types=[NORMAL] * first_special + [CONTROL] * N_SPECIAL,
        bos=first_special,
        eos=[first_special + 9, first_special + 1, first_special + 8],
        chat_template=CHAT_TEMPLATE,
    )


def letter_merges() -> Iterator[tuple[str, str]]:
    """Merges in order of rank; each builds on earlier ones only. Ġ is the byte symbol of the space."""
    words = list(ascii_lowercase)
    for _ in range(2):
        yield from product(words, ascii_lowercase)
        yield from (("Ġ", word) for word in words)
        words = [head + letter for head, letter in product(words, ascii_lowercase)]
    yield from (("Ġ", word) for word in words)
    yield from product(words, ascii_lowercase)


def special_tokens() -> list[str]:
    reserved = (f"<|reserved_special_token_{n}|>" for n in range(N_SPECIAL))
    return [SPECIAL.get(offset) or next(reserved) for offset in range(N_SPECIAL)]


def byte_symbols() -> list[str]:
    return list(bytes_of_symbols())


def bytes_of_symbols() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes (openai/gpt-2 encoder.py, bytes_to_unicode)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(rest)}
