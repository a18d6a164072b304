"""The little world's answerer behind an OpenAI-compatible server, as a model would be."""

from parrot_jax.core.errors import UserError
from parrot_jax.serve.engine import FunctionEngine, Messages
from parrot_jax.world.answerer import Answerer

MODEL = "answerer"
"""The name under which clients ask for it."""


def answerer_engine(answerer: Answerer) -> FunctionEngine:
    """Serves an answerer: it reads the user's messages of a history and answers the last."""

    def reply(messages: Messages) -> str:
        if not messages or messages[-1]["role"] != "user":
            raise UserError("the last message must be the user's: the answerer answers questions.")
        return answerer.answer([m["content"] for m in messages if m["role"] == "user"])

    return FunctionEngine(MODEL, reply)
