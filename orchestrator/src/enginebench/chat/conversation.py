"""What was said so far, and the prompt that it makes: the model's chat template, or one text after the other."""

from __future__ import annotations

from collections.abc import Sequence

from enginebench_models.errors import ModelError
from enginebench_models.tokenizer import Tokenizer

from enginebench.errors import UsageError

Message = dict[str, str]
"""{"role": "user" or "assistant", "content": text}, as chat templates want it."""


class Conversation:
    """Grows by a question and an answer; a question that got no answer is taken back."""

    def __init__(self, tokenizer: Tokenizer, plain: bool = False, said: Sequence[Message] = ()) -> None:
        self._tokenizer = tokenizer
        self._messages = list(said)
        self.templated = tokenizer.chat_template is not None and not plain

    @property
    def said(self) -> tuple[Message, ...]:
        return tuple(self._messages)

    def ids_with(self, question: str) -> list[int]:
        """The prompt for this question after all that was said. Raises UsageError if the template fails."""
        messages = [*self._messages, {"role": "user", "content": question}]
        return self._tokenizer.encode(self._rendered(messages))

    def keep(self, question: str, answer: Sequence[int]) -> None:
        text = self._tokenizer.decode(answer)
        self._messages += [{"role": "user", "content": question}, {"role": "assistant", "content": text}]

    def _rendered(self, messages: Sequence[Message]) -> str:
        if not self.templated:
            return "\n".join(message["content"] for message in messages)
        try:
            return self._tokenizer.render_chat(messages)
        except ModelError as error:
            raise UsageError(f"{error} --plain does without it.") from None


def room_for_answer(n_prompt: int, n_ctx: int, n_gen: int, max_context: int) -> int:
    """How many tokens an answer may have. Raises UsageError where the prompt leaves room for none."""
    left = n_ctx - n_prompt
    if left < 1:
        more = f", or start again with --n-ctx {min(2 * n_ctx, max_context)}" if n_ctx < max_context else ""
        raise UsageError(
            f"the context is full: what was said makes {n_prompt} tokens of {n_ctx}. Write /reset to begin anew{more}"
        )
    return min(left, n_gen)
