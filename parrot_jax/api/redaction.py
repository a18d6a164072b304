"""Removes the API key from server replies, in all encodings in which servers send it back."""

import base64
import json
import re
from typing import Any

PLACEHOLDER = "[api key]"
# Shorter keys ("none", "EMPTY") are not secret, but may be words of a reply.
_MIN_SECRET_CHARS = 8


class Redactor:
    r"""Replaces one key in texts; a key shorter than eight characters is left alone.

    Finds it verbatim, split over lines, escaped as in JSON (`\/`, `\u0073`; also JSON inside JSON),
    URLs and HTML, and inside Base64.
    """

    def __init__(self, key: str) -> None:
        """Compiles the patterns.

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

        JSON is decoded first, and re-encoded only if it contains the key.
        """
        if not self._patterns:
            return text
        try:
            value = json.loads(text)
            cleaned = self._in_value(value)
        except (ValueError, RecursionError):
            return self.text(text)
        # The text may contain more than the value: of duplicate names, JSON keeps the last.
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
    # Repeats are bounded and each alternative starts with a literal, so the search is linear.
    plain = r"\s{0,4}".join(map(_any_form, key))
    # Base64 encodes a text in three ways, by its offset; the outer characters of each depend on the
    # bytes around the key.
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
