"""Malformed GGUF files, each with the rule it breaks. `source`: the vulnerability or proof of concept it stands for.

Identifiers: research of the published advisories of llama.cpp, Ollama, gguf-py and llama-cpp-python. What is no file of
weights has no case here: the RPC server's, CVE-2026-21869 (a server's request), CVE-2024-28224 (DNS rebinding),
CVE-2025-44779 and CVE-2026-7020 (paths in a server's requests).
"""

import struct
from dataclasses import dataclass

from enginebench_models.gguf_check import BLOCKS, KNOWN_KEYS, KNOWN_OF_ARCHITECTURE
from enginebench_models.gguf_header import ARRAY, SCALARS, STRING

from .gguf_bytes import (
    BOOL,
    F32,
    F64,
    I8,
    I32,
    I64,
    TOKENS,
    U8,
    U16,
    U32,
    U64,
    Array,
    Entry,
    Key,
    gguf,
    llama,
    llama_keys,
    llama_tensors,
    preamble,
    string,
)

HUGE = {"2^31": 1 << 31, "2^32": 1 << 32, "2^40": 1 << 40, "2^62": 1 << 62, "2^63": 1 << 63, "2^64-1": (1 << 64) - 1}


@dataclass(frozen=True)
class Malformed:
    name: str
    rule: str
    raw: bytes
    source: str = ""


def malformed() -> list[Malformed]:
    groups = (first_bytes, counts, keys, values, arrays, known_types, vocabulary, names, shapes, types, places, models)
    return [case for group in groups for case in group()]


def first_bytes() -> list[Malformed]:
    starts = {"GGML": b"GGML", "reversed": b"FUGG", "lower case": b"gguf", "legacy ggjt": b"tjgg", "zeros": bytes(4)}
    whole = llama()
    sources = {"reversed": "llama.cpp test-gguf HEADER_BAD_MAGIC"}
    found = [Malformed(f"magic {n}", "not-a-model", m + whole[4:], sources.get(n, "")) for n, m in starts.items()]
    found += [
        Malformed("a saved KV state", "not-a-model", b"ggsn" + bytes(60), "CVE-2026-43629"),
        Malformed("a zip archive", "packed-file", b"PK\x03\x04" + bytes(60), "CVE-2024-45436"),
        Malformed("a gzip stream", "packed-file", b"\x1f\x8b\x08" + bytes(60), "CVE-2024-12886"),
        Malformed("a pickle", "packed-file", b"\x80\x04\x95" + bytes(60)),
        Malformed("a zstd stream", "packed-file", b"\x28\xb5\x2f\xfd" + bytes(60)),
        Malformed("the magic alone", "gguf-truncated", b"GGUF", "CVE-2024-39720"),
        Malformed("the magic and a version", "gguf-truncated", b"GGUF\x03\0\0\0", "CVE-2024-39720"),
        Malformed("23 of 24 bytes", "gguf-truncated", preamble(0, 0)[:23]),
    ]
    versions = {"0": 0, "1": 1, "4": 4, "65536": 1 << 16, "2^32-1": (1 << 32) - 1}
    found += [
        Malformed(f"version {n}", "gguf-version", llama(version=v), "llama.cpp test-gguf") for n, v in versions.items()
    ]
    return found + [Malformed(f"big-endian {v}", "gguf-big-endian", llama(version=v << 24)) for v in (1, 2, 3)]


def counts() -> list[Malformed]:
    found = [
        Malformed(f"{n} tensors", "gguf-too-many-tensors", preamble(value, 0), "CVE-2024-21836")
        for n, value in ({"100,001": 100_001} | HUGE).items()
    ]
    found += [
        Malformed(f"{n} keys", "gguf-too-many-keys", preamble(0, value), "CVE-2024-23605")
        for n, value in ({"65,537": 65_537} | HUGE).items()
    ]
    return [
        *found,
        Malformed("100,000 tensors announced, none there", "gguf-truncated", preamble(100_000, 0), "CVE-2024-41130"),
        Malformed("65,536 keys announced, none there", "gguf-truncated", preamble(0, 65_536), "CVE-2024-32878"),
        Malformed("one key too many announced", "gguf-truncated", gguf([Key("a", U8, 1)], [], n_keys=2)[:40]),
    ]


def keys() -> list[Malformed]:
    found = [
        Malformed(f"a key of {n} bytes", "gguf-string-too-long", preamble(0, 1) + struct.pack("<Q", value), source)
        for (n, value), source in zip(HUGE.items(), 5 * ["CVE-2025-0315"] + ["CVE-2024-23496"], strict=True)
    ]
    bad = {
        "empty": b"",
        "space": b"a b",
        "NUL": b"a\0b",
        "newline": b"a\nb",
        "not ASCII": "ä".encode(),
        "0xff": b"\xff",
    }
    found += [Malformed(f"key {n}", "gguf-key-name", gguf([Key(k, U8, 1)], [])) for n, k in bad.items()]
    return [
        *found,
        Malformed("a key of 65,536 bytes", "gguf-key-name", gguf([Key(b"k" * 65_536, U8, 1)], [])),
        Malformed("a key of 16 MiB + 1", "gguf-string-too-long", preamble(0, 1) + struct.pack("<Q", (16 << 20) + 1)),
        Malformed("a key beyond the file", "gguf-truncated", preamble(0, 1) + struct.pack("<Q", 100) + b"short"),
        Malformed("a key twice", "gguf-key-twice", llama(added=(Key("llama.block_count", U32, 1),)), "test-gguf"),
        Malformed("a key and nothing", "gguf-truncated", preamble(0, 1) + string("a")),
        Malformed("a key and half a type", "gguf-truncated", preamble(0, 1) + string("a") + b"\4\0"),
    ]


def values() -> list[Malformed]:
    sources = {13: "oss-security 2026-05-15 V-04"}
    found = [
        Malformed(f"value type {t}", "gguf-value-type", gguf([Key("a", t, b"\0" * 8)], []), sources.get(t, ""))
        for t in (13, 14, 255, 1 << 16, 1 << 31, (1 << 32) - 1)
    ]
    for code, form in SCALARS.items():
        cut = preamble(0, 1) + string("a") + struct.pack("<I", code) + bytes(struct.calcsize(form) - 1)
        found.append(Malformed(f"a scalar of type {code} cut by one byte", "gguf-truncated", cut))
    found += [Malformed(f"bool {b}", "gguf-bool", gguf([Key("a", BOOL, bytes([b]))], [])) for b in (2, 127, 255)]
    found += [
        Malformed(
            f"a string of {n} bytes", "gguf-string-too-long", gguf([Key("a", STRING, struct.pack("<Q", v))], []), source
        )
        for (n, v), source in zip(HUGE.items(), 5 * ["CVE-2024-21825"] + ["oss-security 2026-05-15 V-02"], strict=True)
    ]
    text = {"0xff": b"\xff", "half a character": b"\xc3", "overlong": b"\xc0\xaf", "surrogate": b"\xed\xa0\x80"}
    found += [
        Malformed(f"a string with {n}", "gguf-not-utf8", gguf([Key("a", STRING, string(t))], []))
        for n, t in text.items()
    ]
    cut = preamble(0, 1) + string("a") + struct.pack("<IQ", STRING, 1000) + b"short"
    return [*found, Malformed("a string beyond the file", "gguf-truncated", cut, "CVE-2025-66960")]


def arrays() -> list[Malformed]:
    found = []
    for n, value in ({"16 Mi + 1": (16 << 20) + 1} | HUGE).items():
        for code in (U8, STRING):
            raw = gguf([Key("a", ARRAY, Array(code, (), value))], [])
            found.append(Malformed(f"an array of {n} of type {code}", "gguf-array-too-long", raw, "CVE-2024-21825"))
    for code, form in SCALARS.items():
        raw = preamble(0, 1) + string("a") + struct.pack("<IIQ", ARRAY, code, 9) + bytes(9 * struct.calcsize(form) - 1)
        found.append(Malformed(f"an array of type {code} cut by one byte", "gguf-truncated", raw, "CVE-2024-12055"))
    for code in (13, 255, (1 << 32) - 1):
        raw = gguf([Key("a", ARRAY, struct.pack("<IQ", code, 1) + bytes(8))], [])
        found.append(Malformed(f"an array of type {code}", "gguf-value-type", raw))
    inner = struct.pack("<IQ", U8, 1) + b"\1"
    for depth in (1, 2, 50):
        value = struct.pack("<IQ", ARRAY, 1) * depth + inner
        found.append(
            Malformed(f"arrays {depth} deep in an array", "gguf-nested-array", gguf([Key("a", ARRAY, value)], []))
        )
    for n, length in {"2^31": 1 << 31, "2^63": 1 << 63, "2^64-1": (1 << 64) - 1, "2^64-9": (1 << 64) - 9}.items():
        value = struct.pack("<IQQ", STRING, 1, length)
        raw = gguf([Key("tokenizer.ggml.tokens", ARRAY, value)], [])
        found.append(Malformed(f"a token of {n} bytes", "gguf-truncated", raw, "CVE-2025-49847"))
    long = struct.pack("<IQQ", STRING, 1, (16 << 20) + 1) + bytes((16 << 20) + 1)
    return [
        *found,
        Malformed("a token of 16 MiB + 1", "gguf-string-too-long", gguf([Key("a", ARRAY, long)], [])),
        Malformed(
            "more strings than there are",
            "gguf-truncated",
            gguf([Key("a", ARRAY, Array(STRING, ("x",), 9))], []),
            "CVE-2025-1975",
        ),
        Malformed("a bool of 2 in an array", "gguf-bool", gguf([Key("a", ARRAY, Array(BOOL, (b"\1", b"\2")))], [])),
        Malformed(
            "a token that is not UTF-8", "gguf-not-utf8", gguf([Key("a", ARRAY, Array(STRING, (string(b"\xff"),)))], [])
        ),
    ]


def known_types() -> list[Malformed]:
    """Each key that an engine reads, as a type that it is not."""
    rule = "gguf-known-key-type"
    kinds = KNOWN_KEYS | {f"llama.{name}": code for name, code in KNOWN_OF_ARCHITECTURE.items()}
    found = []
    for key, code in kinds.items():
        if key == "general.architecture":
            continue
        other = Key(key, U32 if code == STRING else STRING, 1 if code == STRING else "1")
        source = "CVE-2024-34359" if "template" in key else ""
        found.append(Malformed(f"{key} as type {other.type}", rule, llama({key: None}, (other,)), source))
    tokens, scores, kinds_, merges = (f"tokenizer.ggml.{n}" for n in ("tokens", "scores", "token_type", "merges"))
    wrong = {
        "tokens as one string": Key(tokens, STRING, "a"),
        "tokens as uint8": Key(tokens, ARRAY, Array(U8, (1, 2))),
        "scores as int8": Key(scores, ARRAY, Array(I8, (1,) * 8)),
        "scores as float64": Key(scores, ARRAY, Array(F64, (1.0,) * 8)),
        "scores as one float": Key(scores, F32, 1.0),
        "token types as uint32": Key(kinds_, ARRAY, Array(U32, (1,) * 8)),
        "token types as int8": Key(kinds_, ARRAY, Array(I8, (1,) * 8)),
        "merges as int32": Key(merges, ARRAY, Array(I32, (1,))),
        "alignment as uint64": Key("general.alignment", U64, 32),
        "alignment as int32": Key("general.alignment", I32, 32),
        "alignment as a bool": Key("general.alignment", BOOL, True),
        "alignment as an array": Key("general.alignment", ARRAY, Array(U32, (32,))),
        "block_count as int32": Key("llama.block_count", I32, 1),
        "block_count as uint64": Key("llama.block_count", U64, 1),
        "block_count as float32": Key("llama.block_count", F32, 1.0),
        "head_count as int64": Key("llama.attention.head_count", I64, 2),
        "head_count as floats": Key("llama.attention.head_count", ARRAY, Array(F32, (2.0,))),
        "freq_base as float64": Key("llama.rope.freq_base", F64, 1e4),
        "bos as int32": Key("tokenizer.ggml.bos_token_id", I32, 6),
        "bos as a string": Key("tokenizer.ggml.bos_token_id", STRING, "6"),
    }
    pocs = {"scores as int8": "PoC, INT8 scores read as float", "alignment as uint64": "PoC, alignment of a wrong type"}
    found += [Malformed(n, rule, llama({str(k.name): None}, (k,)), pocs.get(n, "")) for n, k in wrong.items()]
    return found


def vocabulary() -> list[Malformed]:
    rule, n = "gguf-vocabulary-size", len(TOKENS)
    scores, kinds = "tokenizer.ggml.scores", "tokenizer.ggml.token_type"
    found = [
        Malformed(
            "no token", rule, llama({"tokenizer.ggml.tokens": Key("tokenizer.ggml.tokens", ARRAY, Array(STRING, ()))})
        ),
    ]
    for count in (0, n - 1, n + 1):
        found += [
            Malformed(f"{count} scores", rule, llama(added=(Key(scores, ARRAY, Array(F32, (0.0,) * count)),))),
            Malformed(f"{count} token types", rule, llama({kinds: Key(kinds, ARRAY, Array(I32, (1,) * count))})),
        ]
    for value in (n, 1 << 31, (1 << 32) - 2):
        for name in ("bos", "eos", "padding", "unknown"):
            key = f"tokenizer.ggml.{name}_token_id"
            raw = llama({key: None}, (Key(key, U32, value),))
            found.append(Malformed(f"{name} token {value}", "gguf-token-id", raw, "CVE-2025-52566"))
    return found


def names() -> list[Malformed]:
    rule = "gguf-tensor-name"
    bad = {"empty": b"", "of 64 bytes": b"n" * 64, "with a NUL": b"a\0b", "with a space": b"a b", "not UTF-8": b"\xff"}
    found = [
        Malformed(f"a tensor name {n}", rule, gguf([], [Entry(name, (4,))]), "test-gguf") for n, name in bad.items()
    ]
    length = preamble(1, 0) + struct.pack("<Q", (1 << 64) - 1)
    return [
        *found,
        Malformed("a tensor name of 2^64-1 bytes", "gguf-string-too-long", length, "oss-security 2026-05-15 V-02"),
        Malformed("a tensor twice", "gguf-tensor-twice", gguf([], [Entry("a", (4,)), Entry("a", (4,))]), "test-gguf"),
    ]


def shapes() -> list[Malformed]:
    dims = {5: "CVE-2024-21802", 64: "CVE-2024-21802", 1 << 31: "", (1 << 32) - 1: "PoC, n_dims OOM in gguf-py"}
    dims |= {0: "oss-security 2026-05-15 V-03"}
    found = [
        Malformed(f"{n} dimensions", "gguf-dimensions", gguf([], [Entry("a", (1, 1, 1, 1), n_dims=n)]), source)
        for n, source in dims.items()
    ]
    empty = {"first": (0,), "second": (4, 0), "third": (4, 1, 0), "all": (0, 0, 0, 0)}
    found += [
        Malformed(
            f"{n} dimension 0", "gguf-empty-dimension", gguf([], [Entry("a", s, n_bytes=0)]), "PoC, ne[1]=0 SIGFPE"
        )
        for n, s in empty.items()
    ]
    top = (1 << 64) - 1
    products = {
        "2^50 + 1": ((1 << 50) + 1,),
        "2^63": (1 << 63,),
        "2^64-1": (top,),
        "2^32 squared": (1 << 32, 1 << 32),
        "2^16 to the fourth": (1 << 16,) * 4,
        "largest to the fourth": (top,) * 4,
        "4 x 2^60": (4, 1 << 60),
    }
    sources = {"2^63": "CVE-2025-53630", "2^64-1": "CVE-2026-33298", "2^32 squared": "CVE-2026-33298"}
    sources["largest to the fourth"] = "CVE-2026-27940"
    return [
        *found,
        *(
            Malformed(
                f"{n} elements", "gguf-too-many-elements", gguf([], [Entry("a", s, n_bytes=64)]), sources.get(n, "")
            )
            for n, s in products.items()
        ),
        Malformed(
            "bytes that wrap when padded (llama.cpp's NBYTES_PAD_WRAP)",
            "gguf-too-many-elements",
            gguf([], [Entry("a", (4, (1 << 30) - 1, (1 << 30) + 1), n_bytes=64)]),
            "PoC, GGML_PAD(SIZE_MAX - 3, 32) = 0",
        ),
        Malformed(
            "two tensors whose sum wraps",
            "gguf-too-many-elements",
            gguf([], [Entry(n, ((1 << 63) - 64,), 24, n_bytes=64) for n in ("a", "b")]),
            "CVE-2026-27940",
        ),
    ]


def types() -> list[Malformed]:
    found = []
    for code in (4, 5, 31, 32, 33, 36, 37, 38, 43, 255, 1 << 31, (1 << 32) - 1):
        source = "oss-security 2026-05-15 V-05" if code in (4, 5) else ""
        found.append(
            Malformed(
                f"storage type {code}", "gguf-tensor-type", gguf([], [Entry("a", (256,), code, n_bytes=64)]), source
            )
        )
    for code, (block, _) in BLOCKS.items():
        if block > 1:
            raw = gguf([], [Entry("a", (block + block // 2,), code, n_bytes=512)])
            found.append(Malformed(f"a row of one and a half blocks of type {code}", "gguf-blocks", raw))
    return found


def places() -> list[Malformed]:
    def offsets(*values: int, step: int = 32) -> bytes:
        keys = [] if step == 32 else [Key("general.alignment", U32, step)]
        return gguf(keys, [Entry(f"t{n}", (8,), offset=value) for n, value in enumerate(values)], step=step)

    top = (1 << 64) - 1
    cases = [
        ("gguf-gap", "the first tensor at 32", offsets(32, 64), ""),
        ("gguf-gap", "the second tensor one step late", offsets(0, 64), "test-gguf TENSORS_BAD_OFFSET"),
        ("gguf-gap", "an offset of 2^62", offsets(0, 1 << 62), "CVE-2026-7482"),
        ("gguf-gap", "an offset that wraps into the header", offsets(0, top - 31), "CVE-2026-7482"),
        ("gguf-overlap", "two tensors at one place", offsets(0, 0), ""),
        ("gguf-overlap", "three tensors, the last on the first", offsets(0, 32, 0), ""),
        ("gguf-overlap", "tensors in the wrong order", offsets(0, 32, 32), ""),
        ("gguf-offset-unaligned", "an offset of 1", offsets(1), ""),
        ("gguf-offset-unaligned", "an offset of 2^64-1", offsets(top), "CVE-2026-7482"),
        (
            "gguf-offset-unaligned",
            "offsets for another alignment",
            offsets(0, 32, step=64),
            "test-gguf INCONSISTENT_ALIGN",
        ),
    ]
    for value in (0, 1, 2, 4, 7, 8, 16, 24, 33, 65_537, 1 << 17, 1 << 31, (1 << 32) - 1):
        source = {0: "CVE-2025-0317, CVE-2024-8063", 8: "found here", 1 << 31: "oss-security 2026-05-15 V-01"}.get(
            value, ""
        )
        raw = llama(added=(Key("general.alignment", U32, value),))
        cases.append(("gguf-alignment", f"alignment {value}", raw, source))
    whole = gguf([], [Entry("a", (8,)), Entry("b", (8,))])
    cases += [
        ("gguf-data-truncated", "data cut by one byte", whole[:-1], "test-gguf DATA_NOT_ENOUGH_DATA"),
        ("gguf-data-truncated", "the last tensor missing", whole[:-32], "CVE-2026-7482"),
        ("gguf-data-truncated", "no data at all", whole[:-64], "CVE-2026-7482"),
        (
            "gguf-data-truncated",
            "2^50 elements announced",
            gguf([], [Entry("a", (1 << 50,), n_bytes=64)]),
            "CVE-2025-0315",
        ),
        ("gguf-truncated", "the padding of the header missing", whole[:-65], ""),
        ("gguf-truncated", "the last offset cut", gguf([], [Entry("a", (1,))])[: 24 + 8 + 1 + 4 + 8 + 4 + 7], ""),
    ]
    return [Malformed(name, rule, raw, source) for rule, name, raw, source in cases]


def models() -> list[Malformed]:
    """Sound GGUF files that are no LLaMA model."""

    def number(name: str, value: int) -> bytes:
        return llama({f"llama.{name}": Key(f"llama.{name}", U32, value)})

    required = [str(key.name) for key in llama_keys() if not str(key.name).startswith("tokenizer.")]
    optional = ("llama.rope.freq_base", "llama.attention.head_count_kv")
    found = [
        Malformed(f"no {key}", "metadata-missing", llama({key: None}), "CVE-2025-0312")
        for key in required
        if key not in optional
    ]
    for name in ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count_kv"):
        source = "CVE-2024-8063" if name == "block_count" else ""
        found.append(Malformed(f"{name} 0", "model-shape", number(name, 0), source))
        found.append(Malformed(f"{name} 2^32-1", "model-shape", number(name, (1 << 32) - 1)))
    floats = {"NaN": float("nan"), "infinity": float("inf"), "-1": -1.0, "0": 0.0}
    found += [
        Malformed(f"{key} {name}", "model-shape", llama({key: Key(key, F32, value)}))
        for name, value in floats.items()
        for key in ("llama.rope.freq_base", "llama.attention.layer_norm_rms_epsilon")
    ]
    heads = Key("llama.attention.head_count", ARRAY, Array(U32, (2,)))
    divisors = [*llama_tensors(), Entry("rope_freqs.weight", (2,), 1)]
    vector = [Key("general.architecture", STRING, "controlvector"), Key("controlvector.layer_count", I32, -1)]
    without = [entry for entry in llama_tensors() if entry.name != "blk.0.ffn_up.weight"]
    narrow = [Entry("output_norm.weight", (4,)) if e.name == "output_norm.weight" else e for e in llama_tensors()]
    extra = [*llama_tensors(), Entry("blk.1.attn_norm.weight", (8,))]
    split = llama(added=(Key("split.count", U16, 2),))
    return [
        *found,
        Malformed("head counts that are not divisible", "model-shape", number("attention.head_count_kv", 3)),
        Malformed("2^32-1 heads", "model-shape", number("attention.head_count", (1 << 32) - 1)),
        Malformed("heads by layer", "metadata-missing", llama({str(heads.name): heads})),
        Malformed("a weight missing", "weights-missing", llama(tensors=without)),
        Malformed("no embedding", "weights-missing", llama(tensors=llama_tensors()[1:])),
        Malformed("a weight too many", "weights-extra", llama(tensors=extra)),
        Malformed("a weight that LLaMA has not", "weights-extra", llama(tensors=[*llama_tensors(), Entry("x", (8,))])),
        Malformed("a norm of half the width", "weight-shape", llama(tensors=narrow)),
        Malformed("RoPE divisors in 16 bits", "rope-divisors", llama(tensors=divisors)),
        Malformed(
            "another architecture",
            "architecture",
            llama({"general.architecture": Key("general.architecture", STRING, "gpt2")}),
        ),
        Malformed(
            "a control vector",
            "architecture",
            gguf(vector, [Entry("direction.-1", (8,))]),
            "PoC, control-vector layer index",
        ),
        Malformed("one of two files", "unsupported", split),
        Malformed(
            "experts used where there are none",
            "unsupported",
            llama(added=(Key("llama.expert_used_count", U32, 2),)),
            "found here",
        ),
        Malformed("a mixture of experts", "unsupported", llama(added=(Key("llama.expert_count", U32, 8),))),
    ]
