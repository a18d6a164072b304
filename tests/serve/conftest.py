"""Fixtures: a trained asker behind a real server, and plain HTTP for invalid requests."""

import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jax.numpy as jnp
import openai
import pytest

from parrot_jax.data.templates import make_template
from parrot_jax.data.tokenizers import Tokenizer, load_tokenizer
from parrot_jax.serve.app import make_app
from parrot_jax.serve.background import BackgroundServer
from parrot_jax.serve.jax_engine import JaxEngine
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.weights.model_folder import load_params

from ..stock_client import stock_client

Send = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="session")
def tokenizer(trained_run: Path) -> Tokenizer:
    """The asker's tokenizer."""
    return load_tokenizer(RunFolder(trained_run).tokenizer)


@pytest.fixture(scope="session")
def asker(trained_run: Path, tokenizer: Tokenizer) -> Iterator[str]:
    """The URL of a served asker with 256 positions, in batches of 16 rows."""
    config = RunFolder(trained_run).load_config()
    engine = JaxEngine(
        "asker",
        config.task,
        config.model,
        load_params(trained_run),
        make_template("parrot", tokenizer),
        compute_dtype=jnp.dtype(config.compute_dtype),
        batch_rows=16,
    )
    with BackgroundServer(make_app(engine)) as server:
        yield server.url


@pytest.fixture
def client(asker: str) -> Iterator[openai.OpenAI]:
    """OpenAI's client for the asker, without retries."""
    with stock_client(asker) as client:
        yield client


@pytest.fixture(scope="session")
def send() -> Send:
    """Sends bytes or JSON; returns status and JSON."""

    def send(url: str, body: Any = None, method: str = "POST") -> tuple[int, Any]:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        data = body if isinstance(body, bytes) else json.dumps(body)
        headers = {"Content-Type": "application/json"}
        connection.request(method, parts.path, None if method == "GET" else data, headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response.status, json.loads(text) if text else None

    return send
