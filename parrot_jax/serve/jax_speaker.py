"""A trained model as a speaker: messages rendered as in training, replies generated in batches.

A reply is a function of its request alone, so that what was collected can be collected again bit
for bit. A seed alone does not give that: matrix products of other shapes round differently, and now
and then another token wins. Therefore every batch has the same number of rows, whatever it holds,
and only requests that are padded to the same lengths share one. The price is paid by a client that
comes alone: it waits for a whole batch. Each pair of padded lengths is a program, compiled when it
is first needed.
"""

import asyncio
import bisect
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from parrot_jax.data.config import Task
from parrot_jax.data.template import check_speaker, render_prompt
from parrot_jax.data.tokenizer import Tokenizer
from parrot_jax.dialogue.types import Role
from parrot_jax.model.config import LlamaConfig
from parrot_jax.model.generate import Generated, generate, padded_shape
from parrot_jax.serve.batching import Batcher
from parrot_jax.serve.speaker import (
    Completion,
    Messages,
    RequestError,
    Settings,
    Speaker,
    first_stop,
)


@dataclass(frozen=True, slots=True)
class _Row:
    """One request as the device sees it."""

    prompt: list[int]
    max_tokens: int
    settings: Settings


class JaxSpeaker(Speaker):
    """Serves one set of weights from one device."""

    def __init__(
        self,
        model: str,
        task: Task,
        config: LlamaConfig,
        params: Any,
        tokenizer: Tokenizer,
        *,
        compute_dtype: Any,
        batch_rows: int,
        max_waiting: int = 1024,
    ) -> None:
        """Casts the weights; the rest begins with `start`.

        Args:
          model: The name under which clients ask for it.
          task: `ask`: it speaks after an answer, or first; `chat`: after a question.
          config: The sizes.
          params: The weights.
          tokenizer: That of the training.
          compute_dtype: That of the training.
          batch_rows: Rows of every batch, >= 1. Replies may differ in rare tokens between servers
            that differ in it.
          max_waiting: Most requests that wait for a batch; further ones get status 503.
        """
        self.model = model
        self._task: Task = task
        self._config, self._tokenizer = config, tokenizer
        self._params = jax.tree.map(lambda weight: weight.astype(compute_dtype), params)
        self._compute_dtype, self._batch_rows = compute_dtype, batch_rows
        self._batcher: Batcher[_Row, Generated] = Batcher(
            self._generate, max_items=batch_rows, max_waiting=max_waiting
        )

    @property
    def busy(self) -> bool:
        """Whether the device is at work."""
        return self._batcher.busy

    async def start(self) -> None:
        """Begins to take requests."""
        self._batcher.start()

    async def stop(self) -> None:
        """Drops what waits; does not wait for the device."""
        self._batcher.stop()

    async def chat(self, messages: Messages, settings: Settings) -> Completion:
        """The next turn: rendered as in training, and trimmed, as training trims it.

        Raises:
          RequestError: The messages are in no order, or too long.
          UserError: It is not this model's turn.
        """
        system, turns = _split(messages)
        check_speaker(self._task, [role for role, _ in turns])
        prompt = await asyncio.to_thread(render_prompt, system, turns, self._tokenizer)
        completion = await self._speak(prompt, settings, self._tokenizer.decode, "messages")
        return dataclasses.replace(completion, text=completion.text.strip())

    async def complete(
        self, prompt: str | list[int], settings: Settings, *, add_special_tokens: bool
    ) -> Completion:
        """What follows the prompt, untrimmed. Special tokens in a text are special, as in vLLM.

        Raises:
          RequestError: The prompt is empty, too long, or holds ids that the model does not know.
        """
        if isinstance(prompt, str):
            prompt = await asyncio.to_thread(self._encode, prompt, add_special_tokens)
        self._check_ids(prompt)
        return await self._speak(prompt, settings, self._tokenizer.show, "prompt")

    async def _speak(
        self,
        prompt: list[int],
        settings: Settings,
        decode: Callable[[Sequence[int]], str],
        param: str,
    ) -> Completion:
        limit = self._limit(len(prompt), settings.max_tokens, param)
        kind = padded_shape(self._config, len(prompt), limit)
        row = await self._batcher.submit(kind, _Row(prompt, limit, settings))
        ids, text, reason = list(row.ids), decode(row.ids), row.finish_reason
        cut = first_stop(text, settings.stop)
        if cut is not None:
            # The device knows no strings: it wrote on, to the turn's end or to the limit.
            text, reason = text[:cut], "stop"
            ids = ids[: _num_ids_through_stop(ids, settings.stop, decode)]
        elif reason == "stop":
            ids.append(self._tokenizer.eos_id)
        return Completion(
            text=text,
            finish_reason=reason,
            num_prompt_tokens=len(prompt),
            num_tokens=len(ids),
            prompt_ids=tuple(prompt),
            ids=tuple(ids),
        )

    def _generate(self, rows: Sequence[_Row]) -> list[Generated]:
        """Runs one batch; called in the batcher's thread."""
        return generate(
            self._config,
            self._params,
            [row.prompt for row in rows],
            max_new_tokens=[row.max_tokens for row in rows],
            stop_ids=(self._tokenizer.eos_id,),
            temperature=[row.settings.temperature for row in rows],
            top_p=[row.settings.top_p for row in rows],
            seeds=[row.settings.seed for row in rows],
            num_rows=self._batch_rows,
            compute_dtype=self._compute_dtype,
        )

    def _limit(self, num_prompt_tokens: int, max_tokens: int | None, param: str) -> int:
        """Most tokens of the reply. Like OpenAI and vLLM, refuses what would not fit as a whole."""
        places = self._config.max_position_embeddings
        if num_prompt_tokens + (max_tokens or 1) > places:
            more, way_out = "", f"shorten the {param}."
            if max_tokens is not None:
                more = f" and asks for {max_tokens:,} more"
                way_out = f"lower max_tokens, or {way_out}"
            raise RequestError(
                f"this model's maximum context length is {places:,} tokens, but the request has "
                f"{num_prompt_tokens:,} in its {param}{more}; {way_out}",
                param=param,
                code="context_length_exceeded",
            )
        return max_tokens or places - num_prompt_tokens

    def _check_ids(self, prompt: list[int]) -> None:
        if not prompt:
            raise RequestError("the prompt is empty; it needs at least one token.", param="prompt")
        known = range(self._config.vocab_size)
        strange = next((token for token in prompt if token not in known), None)
        if strange is not None:
            raise RequestError(
                f"the prompt has the id {strange}, but the model knows 0 to {known[-1]}.",
                param="prompt",
            )

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """The ids that transformers gives with our `tokenizer.json`."""
        # Encoded behind a special token, a text lacks the space that opens it on its own.
        bare = not text or text.startswith((" ", *self._tokenizer.control_strings))
        (ids,) = self._tokenizer.encode_pieces([text if bare else f" {text}"])
        return [self._tokenizer.bos_id, *ids] if add_special_tokens else ids


def _split(messages: Messages) -> tuple[str, list[tuple[Role, str]]]:
    """The system text (empty = none) and the turns.

    Raises:
      RequestError: A system message is not the first, or the speakers do not alternate.
    """
    system, turns = "", []
    for number, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if role == "system" and number == 0:
            system = content
        elif role != ("user" if len(turns) % 2 == 0 else "assistant"):
            raise RequestError(
                f"message {number + 1} has role {role!r}; after an optional system message user "
                "and assistant must alternate, the user first.",
                param=f"messages.{number}.role",
            )
        else:
            turns.append((role, content))
    return system, turns


def _num_ids_through_stop(
    ids: Sequence[int], stop: Sequence[str], decode: Callable[[Sequence[int]], str]
) -> int:
    """How many ids there are when their text first holds a stop string."""

    def stopped(count: int) -> bool:
        return first_stop(decode(ids[:count]), stop) is not None

    return bisect.bisect_left(range(len(ids)), True, key=stopped)
