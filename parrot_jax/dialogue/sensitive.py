"""Finds personal data: addresses, numbers and keys.

A cheap pattern finds candidates, which are then validated: by the check digits of a card or an
IBAN, a country's telephone numbering plan, or the format of a provider's keys. Time is linear in
the text, since the text may be anything that a server sends.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Domains reserved for examples in documentation.
_RESERVED = re.compile(r"(?:^|\.)(?:example|test|invalid|localhost)(?:\.(?:com|org|net))?$", re.I)
_BEFORE_AT = re.compile(r"[\w.+%-]")
_DOMAIN = re.compile(r"(?:[\w-]+\.)+[a-z]{2,}\b", re.I)
_MOST_CHARS_OF_A_DOMAIN = 253
_MOST_PHONES_TRIED = 1000
_COUNTRY_CODE = re.compile(r"\+\d")
_DIGITS = re.compile(r"(?<![\w.])\+?\d(?:[ ().-]?\d){6,18}(?![\w])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
# Keys are long words with a digit; searching the text for each provider takes a millisecond.
_LONG_WORD = re.compile(r"[\w:./+=-]{20,}")
_DIGIT = re.compile(r"\d")
# The patterns of three detectors are quadratic, so they see only the surroundings of a text that
# they need.
_NEEDED_TEXTS = {"OpenAIDetector": "T3BlbkFJ", "NpmDetector": ":_authToken="}
_CHARS_BEFORE, _CHARS_BEHIND = 256, 128
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]+\.[\w-]+(?:\.[\w.+/=-]*)?", re.A)
_CARD_DIGITS = range(13, 20)
# Detectors by format; those by entropy or by words such as "password" flag half of all code.
_KEY_DETECTORS = (
    *("AWSKeyDetector", "AzureStorageKeyDetector", "DiscordBotTokenDetector"),
    *("GitHubTokenDetector", "GitLabTokenDetector", "JwtTokenDetector", "MailchimpDetector"),
    *("NpmDetector", "OpenAIDetector", "PrivateKeyDetector", "PypiTokenDetector"),
    *("SendGridDetector", "SlackDetector", "SquareOAuthDetector", "StripeDetector"),
    *("TelegramBotTokenDetector", "TwilioKeyDetector"),
)


def find_email(text: str) -> bool:
    """Whether there is a mail address; domains reserved for examples do not count."""
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text[at + 1 : at + 1 + _MOST_CHARS_OF_A_DOMAIN])
        if domain and at and _BEFORE_AT.match(text, at - 1) and not _RESERVED.search(domain[0]):
            return True
        at = text.find("@", at + 1)
    return False


def find_phone(text: str) -> bool:
    """Whether there is a valid telephone number with a country code."""
    if not _COUNTRY_CODE.search(text):
        return False
    import phonenumbers

    # A plus sign of a sum is followed by a space.
    found = phonenumbers.PhoneNumberMatcher(text, None, max_tries=_MOST_PHONES_TRIED)
    return any(_COUNTRY_CODE.match(match.raw_string) for match in found)


def find_card(text: str) -> bool:
    """Whether there is a payment card number: 13 to 19 digits with a valid check digit."""
    for match in _DIGITS.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        # First digits of travel, bank and shop cards. One repeated digit would also pass the check.
        if len(digits) in _CARD_DIGITS and digits[0] in "23456" and len(set(digits)) > 2:
            from stdnum import luhn

            if luhn.is_valid(digits):
                return True
    return False


def find_iban(text: str) -> bool:
    """Whether there is an IBAN with valid length and check digits."""
    for match in _IBAN.finditer(text):
        from stdnum import iban

        if iban.is_valid(match[0]):
            return True
    return False


def find_secret(text: str) -> bool:
    """Whether there is a key, a token or a password in the format of a provider."""
    is_likely = any(_DIGIT.search(word[0]) for word in _LONG_WORD.finditer(text))
    if not is_likely and "PRIVATE KEY" not in text:
        return False
    return any(
        secret
        for detector in _key_detectors()
        for piece in _pieces(type(detector).__name__, text)
        for secret in detector.analyze_string(piece)
    )


def _pieces(detector: str, text: str) -> Iterator[str]:
    """The parts of the text that a detector must search."""
    if detector == "JwtTokenDetector":
        yield from (match[0] for match in _JWT.finditer(text))
    elif (needed := _NEEDED_TEXTS.get(detector)) is None:
        yield text
    else:
        found = text.find(needed)
        while found >= 0:
            yield text[max(0, found - _CHARS_BEFORE) : found + _CHARS_BEHIND]
            found = text.find(needed, found + _CHARS_BEHIND // 2)


SENSITIVE: Mapping[str, Callable[[str], bool]] = {
    "e-mail": find_email,
    "phone": find_phone,
    "card": find_card,
    "iban": find_iban,
    "secret": find_secret,
}
"""Finders by kind, as named in configs and stop reasons."""


@functools.cache
def _key_detectors() -> tuple[Any, ...]:
    from detect_secrets.settings import get_plugins, transient_settings

    with transient_settings({"plugins_used": [{"name": name} for name in _KEY_DETECTORS]}):
        return tuple(get_plugins())
