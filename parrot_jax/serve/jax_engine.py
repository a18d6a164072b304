"""A trained model as an engine: renders messages as in training and generates replies in batches.

A reply depends on its request alone, so that collections are reproducible bit for bit. A seed alone
does not ensure that: matrix products of other shapes round differently, which occasionally changes
a token. Therefore all batches have the same number of rows, padded if necessary, and only requests
that are padded to the same lengths share a batch. The cost: a request sent alone takes as long
as a full batch. Each pair of padded lengths has its own program, compiled on first use. Every few
tokens, the device returns the tokens so far, for streams, and drops cancelled rows.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from parrot_jax.data.data_config import Task
from parrot_jax.data.templates.base import Template, check_speaker
from parrot_jax.model.generate import Chunk, for_generation, generate, padded_shape
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.serve.batching import Batcher, Deliver
from parrot_jax.serve.engine import (
    Completion,
    Engine,
    Messages,
    RequestError,
    Say,
    Settings,
    context_error,
    say_nothing,
)
from parrot_jax.serve.messages import split_turns
from parrot_jax.serve.reply_text import ReplyText

_MOST_COUNTED = 16_384
"""Longest prompt, in tokens, that is encoded even if it is too long, to report the exact count."""

_LEAST_TOP_P = 1e-30  # smaller values would become 0 on the device and exclude all tokens


@dataclass(frozen=True, slots=True)
class _Row:
    """One request as a row of a batch."""

    prompt: list[int]
    max_tokens: int
    settings: Settings


class JaxEngine(Engine):
    """Serves one set of weights from one device."""

    def __init__(
        self,
        model: str,
        task: Task,
        config: ModelConfig,
        params: Any,
        template: Template,
        *,
        compute_dtype: Any,
        batch_rows: int,
        max_waiting: int = 1024,
    ) -> None:
        """Casts the weights.

        Args:
          model: The model name for clients.
          task: `ask`: replies to an answer or opens a dialogue; `chat`: replies to a question.
          config: The model config.
          params: The weights.
          template: The template of the training.
          compute_dtype: The dtype of the training.
          batch_rows: Rows of every batch, >= 1. Changing it may change rare tokens.
          max_waiting: Limit on requests waiting for a batch; further ones get status 503.
        """
        self.model = model
        self._task: Task = task
        self._config, self._template = config, template
        self._tokenizer = template.tokenizer
        stored = for_generation(config, params, compute_dtype)
        self._params = jax.tree.map(lambda weight: weight.astype(compute_dtype), stored)
        self._compute_dtype, self._batch_rows = compute_dtype, batch_rows
        self._batcher: Batcher[_Row, Chunk] = Batcher(
            self._generate, max_items=batch_rows, max_waiting=max_waiting
        )

    @property
    def busy(self) -> bool:
        """Whether the device is generating."""
        return self._batcher.busy

    async def start(self) -> None:
        """Starts to accept requests."""
        self._batcher.start()

    async def stop(self) -> None:
        """Cancels all requests; does not wait for the device."""
        self._batcher.stop()

    async def chat(
        self, messages: Messages, settings: Settings, say: Say = say_nothing
    ) -> Completion:
        """Generates the next turn, from messages rendered and stripped as in training.

        Raises:
          RequestError: The roles do not alternate, or the messages are too long.
          UserError: The next turn is not this model's role.
        """
        prompt = await asyncio.to_thread(self._render, messages, settings.max_tokens)
        return await self._speak(prompt, settings, say, "messages")

    async def complete(
        self,
        prompt: str | list[int],
        settings: Settings,
        say: Say = say_nothing,
        *,
        add_special_tokens: bool,
    ) -> Completion:
        """Continues the prompt; strips nothing. Parses special tokens in a text, as in vLLM.

        Raises:
          RequestError: The prompt is empty, too long, or has ids outside the vocabulary.
        """
        if isinstance(prompt, str):
            prompt = await asyncio.to_thread(
                self._encode, prompt, add_special_tokens, settings.max_tokens
            )
        self._check_room(len(prompt), settings.max_tokens, "prompt")
        self._check_ids(prompt)
        return await self._speak(prompt, settings, say, "prompt")

    async def _speak(
        self, prompt: list[int], settings: Settings, say: Say, param: str
    ) -> Completion:
        self._check_room(len(prompt), settings.max_tokens, param)
        limit = settings.max_tokens or self._config.max_position_embeddings - len(prompt)
        kind = padded_shape(self._config, len(prompt), limit)
        row = _Row(prompt, limit, settings)
        reply = ReplyText(self._tokenizer, settings.stop, is_turn=param == "messages")
        text, reason = "", None
        async with contextlib.aclosing(self._batcher.submit(kind, row)) as parts:
            async for part in parts:
                reason = part.finish_reason
                piece = reply.add(part.ids, is_last=reason is not None)
                if piece:
                    text += piece
                    say(piece)
                if reply.stopped or reason is not None:
                    break
        ids = reply.ids
        if not reply.stopped and reason == "stop":
            ids = [*ids, self._template.stop_ids[0]]
        return Completion(
            text=text,
            finish_reason="stop" if reply.stopped or reason == "stop" else "length",
            num_prompt_tokens=len(prompt),
            num_tokens=len(ids),
            prompt_ids=tuple(prompt),
            ids=tuple(ids),
        )

    def _generate(self, rows: Sequence[_Row], deliver: Deliver[Chunk]) -> None:
        """Runs one batch; called in the batcher's thread."""
        generate(
            self._config,
            self._params,
            [row.prompt for row in rows],
            max_new_tokens=[row.max_tokens for row in rows],
            stop_ids=self._template.stop_ids,
            temperature=[row.settings.temperature for row in rows],
            top_p=[max(row.settings.top_p, _LEAST_TOP_P) for row in rows],
            seeds=[row.settings.seed for row in rows],
            num_rows=self._batch_rows,
            compute_dtype=self._compute_dtype,
            listen=deliver,
        )

    def _check_room(
        self, num_prompt_tokens: int, max_tokens: int | None, param: str, *, least: bool = False
    ) -> None:
        """Rejects a request if prompt and `max_tokens` exceed the context, as OpenAI and vLLM do.

        Args:
          num_prompt_tokens: Tokens of the prompt.
          max_tokens: From the request.
          param: The field with the prompt.
          least: Whether `num_prompt_tokens` is a lower bound, because the prompt is not encoded.
        """
        places = self._config.max_position_embeddings
        if num_prompt_tokens + (max_tokens or 1) <= places:
            return
        found = f"{'at least ' if least else ''}{num_prompt_tokens:,} in its {param}"
        if max_tokens is None or num_prompt_tokens >= places:
            raise context_error(places, found, param=param)
        found += f" and asks for {max_tokens:,} more"
        raise context_error(places, found, param=param, way_out="lower max_tokens, or ")

    def _check_ids(self, prompt: list[int]) -> None:
        if not prompt:
            raise RequestError("the prompt is empty; it needs at least one token.", param="prompt")
        known = range(self._config.vocab_size)
        strange = next((token for token in prompt if token not in known), None)
        if strange is not None:
            raise RequestError(
                f"the prompt has the token id {strange}; the model's ids are 0 to {known[-1]}.",
                param="prompt",
            )

    def _render(self, messages: Messages, max_tokens: int | None) -> list[int]:
        """Returns the ids of the prompt; rejects very long messages without encoding them."""
        system, turns = split_turns(messages)
        check_speaker(self._task, [role for role, _ in turns])
        # Each turn has a header and a terminator.
        least = 2 * len(turns) + sum(self._least_tokens(text.strip()) for _, text in turns)
        least += self._least_tokens(system.strip())
        if least > _MOST_COUNTED:
            self._check_room(least, max_tokens, "messages", least=True)
        return self._template.prompt(system, turns)

    def _least_tokens(self, text: str) -> int:
        return -(-len(text) // self._tokenizer.max_piece_chars)

    def _encode(self, text: str, add_special_tokens: bool, max_tokens: int | None) -> list[int]:
        """Returns the ids of a text, the same as transformers with our `tokenizer.json`."""
        if (least := self._least_tokens(text)) > _MOST_COUNTED:
            self._check_room(least, max_tokens, "prompt", least=True)
        (ids,) = self._tokenizer.encode([text])
        return [*self._tokenizer.start_ids, *ids] if add_special_tokens else ids
