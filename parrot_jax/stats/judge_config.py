"""Settings of a judge. Imports no HTTP client, so `--help` is fast."""

from dataclasses import dataclass

from parrot_jax.api.endpoint_config import JobEndpointConfig


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(JobEndpointConfig):
    """An endpoint that judges the questions of sessions.

    Raises:
      UserError: See `JobEndpointConfig`.
    """
