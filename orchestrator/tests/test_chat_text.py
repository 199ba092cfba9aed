"""From ids to what is shown, and from what was said to a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
from enginebench.chat.conversation import Conversation, room_for_answer
from enginebench.chat.detokeniser import Detokeniser
from enginebench.errors import UsageError
from enginebench.plain_text import for_terminal
from enginebench_models.errors import InvalidModel

SMILE = "\N{SLIGHTLY SMILING FACE}".encode()
PIECES = {0: b"a", 1: SMILE[:1], 2: SMILE[1:3], 3: SMILE[3:], 4: b"\xff", 5: b""}


class Letters:
    """A tokenizer whose ids are code points; its template puts each message in brackets."""

    chat_template: str | None = "…"

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        return "".join(f"<{message['role']}:{message['content']}>" for message in messages)


class NoTemplate(Letters):
    chat_template = None


def conversation(tokenizer: Letters, plain: bool = False) -> Conversation:
    return Conversation(cast("Any", tokenizer), plain)


def shown(ids: Sequence[int]) -> list[str]:
    text = Detokeniser(PIECES.__getitem__)
    return [*(text.feed(token) for token in ids), text.finish()]


def test_a_character_is_shown_when_its_last_byte_is_there() -> None:
    assert shown([0, 1, 2, 3, 0]) == ["a", "", "", SMILE.decode(), "a", ""]


def test_an_answer_that_ends_inside_a_character_says_so() -> None:
    assert shown([0, 1]) == ["a", "", "\N{REPLACEMENT CHARACTER}"]


def test_bytes_that_are_no_text_hold_nothing_back() -> None:
    assert shown([4, 0, 5]) == ["\N{REPLACEMENT CHARACTER}", "a", "", ""]


def test_a_model_cannot_drive_the_terminal() -> None:
    assert for_terminal("\x1b[2Ja\tb\n\x9bc\r") == "\ufffd[2Ja\tb\n\ufffdc\ufffd"
    assert for_terminal("👩\u200d👧 é") == "👩\u200d👧 é"


def test_every_question_carries_what_was_said_before() -> None:
    talk = conversation(Letters())
    talk.keep("one?", [ord("1")])
    prompt = talk.ids_with("two?")
    assert "".join(map(chr, prompt)) == "<user:one?><assistant:1><user:two?>"


def test_a_question_without_an_answer_leaves_no_trace() -> None:
    talk = conversation(Letters())
    talk.ids_with("lost?")
    assert "".join(map(chr, talk.ids_with("kept?"))) == "<user:kept?>"


@pytest.mark.parametrize(("tokenizer", "plain"), [(NoTemplate(), False), (Letters(), True)])
def test_without_a_template_the_texts_stand_one_after_the_other(tokenizer: Letters, plain: bool) -> None:
    talk = conversation(tokenizer, plain)
    talk.keep("one", [ord("1")])
    assert not talk.templated
    assert "".join(map(chr, talk.ids_with("two"))) == "one\n1\ntwo"


def test_a_template_that_fails_says_how_to_do_without() -> None:
    class Failing(Letters):
        def render_chat(self, messages: Sequence[Mapping[str, str]]) -> str:
            raise InvalidModel("The model's chat template failed: roles must alternate.")

    with pytest.raises(UsageError, match=r"roles must alternate\. --plain does without it"):
        conversation(Failing()).ids_with("two?")


def test_an_answer_is_as_long_as_the_context_allows() -> None:
    assert room_for_answer(10, 100, 256, 4096) == 90
    assert room_for_answer(10, 100, 50, 4096) == 50


def test_a_full_context_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"makes 100 tokens of 100. Write /reset .* --n-ctx 200"):
        room_for_answer(100, 100, 50, 4096)
    with pytest.raises(UsageError) as full:
        room_for_answer(100, 100, 50, 100)
    assert "--n-ctx" not in str(full.value)
