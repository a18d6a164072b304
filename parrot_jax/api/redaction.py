"""Takes a key out of what a server sends, in every form in which servers send it back."""

import base64
import json
import re
from typing import Any

PLACEHOLDER = "[api key]"
# What is shorter ("none", "EMPTY") is no secret, but may be a word of a reply.
_MIN_SECRET_CHARS = 8


class Redactor:
    r"""Replaces one key in texts; a key that is empty or shorter than eight characters stays.

    It is found as it is, broken over lines, with characters escaped as in JSON (`\/`, `\u0073`;
    also in JSON inside JSON), in URLs and in HTML, and inside Base64.
    """

    def __init__(self, key: str) -> None:
        """Prepares the search.

        Args:
          key: ASCII without spaces.
        """
        self._patterns = _patterns(key) if len(key) >= _MIN_SECRET_CHARS else []

    def text(self, text: str) -> str:
        r"""The text without the key.

        >>> Redactor("sk-/123456").text(r'{"you sent": "sk-\/12345\u0036"}')
        '{"you sent": "[api key]"}'
        """
        for pattern in self._patterns:
            text = pattern.sub(PLACEHOLDER, text)
        return text

    def body(self, text: str) -> str:
        """The body of a reply without the key.

        JSON is decoded first, and written again only where the key was in it.
        """
        if not self._patterns:
            return text
        try:
            value = json.loads(text)
            cleaned = self._in_value(value)
        except (ValueError, RecursionError):
            return self.text(text)
        # The text may have what the value has not: of two equal names, JSON keeps the last.
        if cleaned == value and self.text(text) == text:
            return text
        return json.dumps(cleaned)

    def _in_value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._in_value(item) for item in value]
        if isinstance(value, dict):
            return {self.text(name): self._in_value(item) for name, item in value.items()}
        return value


def _patterns(key: str) -> list[re.Pattern[str]]:
    # Repeats are bounded, and each alternative starts with a literal: a search is linear and fast.
    plain = r"\s{0,4}".join(map(_any_form, key))
    # Base64 has three forms of a text, by the bytes before it; the outer characters of each depend
    # on what stands around the key.
    encoded = {
        base64.b64encode(b"\0" * shift + key.encode())[(0, 2, 3)[shift] :].rstrip(b"=")[:-1]
        for shift in range(3)
    }
    encoded |= {form.replace(b"+", b"-").replace(b"/", b"_") for form in encoded}
    in_base64 = "|".join(re.escape(form.decode()) for form in sorted(encoded))
    return [re.compile(plain), re.compile(in_base64)]


def _any_form(char: str) -> str:
    code = ord(char)
    either_case = f"(?i:{code:02x})"
    return (
        rf"(?:{re.escape(char)}|\\\\{{0,7}}(?:{re.escape(char)}|u00{either_case}|x{either_case})"
        rf"|%(?:25){{0,3}}{either_case}|&#(?:0{{0,4}}{code}|[xX]0{{0,4}}{either_case});)"
    )
