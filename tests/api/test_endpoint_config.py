"""Settings of endpoints and retries: invalid values and exposed secrets are rejected."""

from dataclasses import fields
from typing import Any

import pytest

from parrot_jax.api.endpoint_config import DECIDES_NO_REPLY, EndpointConfig, RetryConfig
from parrot_jax.core.errors import UserError
from parrot_jax.stats.judge_config import JudgeConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "127.0.0.1:8000"}, "it must be like http://127.0.0.1:8000/v1"),
        ({"base_url": "ftp://host/v1"}, "it must be like"),
        ({"base_url": "http://host:port/v1"}, "it must be like"),
        ({"temperature": -1.0}, "temperature is -1.0; it must be finite and >= 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, r"top_p is 0.0; it must be in \(0, 1\]"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"extra_body": {"n": 2}}, "extra_body has 'n', which cannot be set"),
        ({"extra_body": {"stream": True}}, "extra_body has 'stream', which cannot be set"),
        ({"extra_body": {"messages": []}}, "extra_body has 'messages', which cannot be set"),
        ({"extra_body": {"model": "x"}}, "extra_body has 'model'; set model instead"),
        ({"extra_body": {"max_completion_tokens": 9}}, "set max_tokens and max_tokens_field"),
        ({"extra_body": {"seed": 1}}, "set send_seed instead"),
        ({"extra_body": {"x": float("nan")}}, "extra_body cannot be written as JSON"),
        ({"extra_body": {"x": "\ud800"}}, "extra_body cannot be written as JSON"),
        ({"timeout_s": 0.0}, "timeout_s is 0.0; it must be finite and above 0"),
    ],
)
def test_an_endpoint_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EndpointConfig(**{"base_url": "http://host/v1", "model": "m", **changes})


@pytest.mark.parametrize("url", ["http://me:secret@host/v1", "http://host/v1?key=secret"])
def test_an_address_with_a_secret_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(UserError, match="give the plain address") as error:
        EndpointConfig(base_url=url, model="m")
    assert "secret" not in str(error.value)


def test_retries_are_counted_from_one_and_delays_are_finite() -> None:
    with pytest.raises(UserError, match="max_attempts is 0; it must be at least 1"):
        RetryConfig(max_attempts=0)
    with pytest.raises(UserError, match="first_delay_s is 2.0 and max_delay_s 1.0"):
        RetryConfig(first_delay_s=2.0, max_delay_s=1.0)
    with pytest.raises(UserError, match="max_wait_s is 0.0; it must be finite and above 0"):
        RetryConfig(max_wait_s=0.0)


def test_what_decides_no_reply_names_settings_that_there_are() -> None:
    settings = {field.name for kind in (EndpointConfig, JudgeConfig) for field in fields(kind)}
    assert settings >= DECIDES_NO_REPLY
    assert settings - DECIDES_NO_REPLY == {
        "model", "temperature", "top_p", "max_tokens", "extra_body"
    }  # fmt: skip
