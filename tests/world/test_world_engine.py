"""The answerer over HTTP, with OpenAI's client."""

import openai
import pytest

from parrot_jax.serve.app import make_app
from parrot_jax.serve.background import BackgroundServer
from parrot_jax.world.answerer import Answerer
from parrot_jax.world.facts import make_world
from parrot_jax.world.world_engine import MODEL, answerer_engine

from ..stock_client import stock_client


def test_the_answerer_is_served_like_a_model() -> None:
    world = make_world("easy", 0)
    place, other = world.places[:2]
    messages = [
        {"role": "user", "content": f"What is the river of {place}?"},
        {"role": "assistant", "content": "I have forgotten."},
        {"role": "user", "content": f"What about {other}?"},
    ]
    with (
        BackgroundServer(make_app(answerer_engine(Answerer(world)))) as server,
        stock_client(server.url) as client,
    ):
        reply = client.chat.completions.create(model=MODEL, messages=messages)  # type: ignore
        assert reply.choices[0].message.content == (
            f"The river of {other} is {world.facts[other, 'river']}."
        )
        with pytest.raises(
            openai.BadRequestError, match="the last message must have the role user"
        ):
            client.chat.completions.create(model=MODEL, messages=messages[:2])  # type: ignore
