"""Forecast a collection: calls, tokens, cost, hours and disk, before the first call."""

from dataclasses import dataclass

from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CollectPlanConfig(CollectConfig):
    """A collection and the assumptions of its forecast."""

    question_tokens: float = 45.0
    """Mean tokens of a question, > 0. People's questions are about an eighth of a dialogue."""

    answer_tokens: float = 310.0
    """Mean tokens of an answer, > 0. A speaker's `max_tokens` limits it."""

    latency_s: float = 5.0
    """Mean seconds from a request to its reply, > 0."""

    json: bool = False
    """Print one JSON object and nothing else."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("question_tokens", "answer_tokens", "latency_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)}; it must be finite and > 0.")


Config = CollectPlanConfig


def run(config: CollectPlanConfig) -> None:
    """Prints the forecast: of the whole collection, or of the rest if it was started."""
    import json
    from dataclasses import asdict, fields

    from parrot_jax.collect.forecast import Assumptions, forecast_lines
    from parrot_jax.collect.status import forecast_collection
    from parrot_jax.core.logs import console

    assumed = Assumptions(
        question_tokens=config.question_tokens,
        answer_tokens=config.answer_tokens,
        latency_s=config.latency_s,
    )
    collection = CollectConfig(**{f.name: getattr(config, f.name) for f in fields(CollectConfig)})
    left = forecast_collection(collection, assumed)
    if config.json:
        print(json.dumps(asdict(left)))
    else:
        console.print("\n".join(forecast_lines(left)))
