"""Renders a published Jinja template as transformers does; run as a script by `published`.

A template is a program: it may loop for ever or fill the memory. So it runs in a process of its own
with a limit on memory, which the caller ends after a while. It reads one JSON object from standard
input, and writes one: `texts`, or `error`.
"""

import contextlib
import datetime
import json
import sys
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MOST_BYTES = 2**30
_MOST_CHARS = 10**8


class _Generation(Extension):
    """`{% generation %}`, transformers' mark of the assistant's text, without effect on it."""

    tags = {"generation"}  # noqa: RUF012 - as in jinja2

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def _compiled(published: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _strftime_now}
    return environment.from_string(published)


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    try:
        template = _compiled(asked["template"])
    except Exception as error:
        return {"error": f"is not valid: {error}"}
    texts: list[str] = []
    for messages in asked["dialogues"]:
        try:
            texts.append(
                template.render(
                    messages=messages,
                    tools=None,
                    documents=None,
                    add_generation_prompt=False,
                    **asked["tokens"],
                )
            )
        except Exception as error:  # a template may do anything
            return {"error": f"cannot render a dialogue: {str(error) or type(error).__name__}"}
        if sum(map(len, texts)) > _MOST_CHARS:
            return {"error": "renders dialogues of many megabytes"}
    return {"texts": texts}


def main() -> None:
    """Answers one request."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    json.dump(_answer(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
