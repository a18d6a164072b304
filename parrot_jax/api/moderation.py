"""OpenAI's `/moderations`: sends texts, returns the categories of each."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from parrot_jax.api.endpoint import Endpoint
from parrot_jax.api.endpoint_config import EndpointConfig
from parrot_jax.api.replies import NoReplyError, Outcome, Reply, Response, read_response

PATH = "/moderations"


def moderation_endpoint(config: EndpointConfig) -> Endpoint:
    """A client of a moderator.

    Raises:
      UserError: See `Endpoint`.
    """
    return Endpoint(config, path=PATH, read=read_moderation)


def moderation_body(config: EndpointConfig, texts: Sequence[str]) -> dict[str, Any]:
    """The body of a request."""
    return {"model": config.model, "input": list(texts), **config.extra_body}


def read_moderation(
    status: int, body: str, *, request: Mapping[str, Any] | None = None
) -> Response:
    """Reads an HTTP response of `/moderations`.

    The text of the reply is JSON: for each text of the request, the list of its flagged categories;
    see `read_categories`.

    >>> body = '{"results": [{"flagged": true, "categories": {"violence": true, "hate": false}}]}'
    >>> read_moderation(200, body).reply.text
    '[["violence"]]'
    """
    response = read_response(status, body, _read_reply, request=request)
    asked = len((request or {}).get("input", ()))
    if request is None or response.reply.outcome is not Outcome.COMPLETE:
        return response
    if (found := len(read_categories(response.reply))) != asked:
        problem = f"HTTP {status}, but it has {found} results for {asked} texts"
        return replace(response, reply=Reply(Outcome.FAILED, ""), error=problem)
    return response


def read_categories(reply: Reply) -> list[list[str]]:
    """The categories of each text of a complete reply; empty if the journaled text is damaged."""
    try:
        found = json.loads(reply.text)
    except ValueError:
        return []
    is_whole = isinstance(found, list) and all(isinstance(names, list) for names in found)
    return [[str(name) for name in names] for names in found] if is_whole else []


def _read_reply(value: Any) -> Reply:
    try:
        found = [_categories(result) for result in value["results"]]
    except (TypeError, LookupError, AttributeError):
        raise NoReplyError("the body has no results with flagged and categories") from None
    return Reply(Outcome.COMPLETE, json.dumps(found))


def _categories(result: Any) -> list[str]:
    if not isinstance(result["flagged"], bool):
        raise TypeError
    if not result["flagged"]:
        return []
    names = sorted(name for name, is_it in result["categories"].items() if is_it)
    if not all(map(str.isprintable, names)):
        raise TypeError
    return names or ["flagged"]  # some moderators flag without a category
