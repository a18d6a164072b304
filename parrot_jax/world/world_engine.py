"""The synthetic world's answerer as an engine of the OpenAI-compatible server."""

from parrot_jax.core.errors import UserError
from parrot_jax.serve.engine import FunctionEngine, Messages
from parrot_jax.world.answerer import Answerer
from parrot_jax.world.mistakes import WrongAnswerer

MODEL = "answerer"
"""The model name for clients."""


def answerer_engine(answerer: Answerer | WrongAnswerer) -> FunctionEngine:
    """Serves an answerer: it reads the user messages of a history and answers the last one."""

    def reply(messages: Messages) -> str:
        if not messages or messages[-1]["role"] != "user":
            raise UserError("the last message must have the role user.")
        return answerer.answer([m["content"] for m in messages if m["role"] == "user"])

    return FunctionEngine(MODEL, reply)
