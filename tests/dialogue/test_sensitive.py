"""Personal data is found; texts that only look like it are not."""

import pytest

from parrot_jax.dialogue.sensitive import SENSITIVE

FOUND = {
    "e-mail": ["Write to jane.doe@uni-velora.org, please.", "<a+b@mail.co.uk>"],
    "phone": ["Call +1 650-253-0000 now.", "+49 30 901820", "+86 10 6552 9988"],
    "card": ["4539 1488 0343 6467", "my card: 5425-2334-3010-9903.", "378282246310005"],
    "iban": ["DE89 3704 0044 0532 0130 00", "to GB29NWBK60161331926819, today"],
    "secret": [
        "AKIAIOSFODNN7EXAMPLE is the key",
        "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",
        "-----BEGIN RSA PRIVATE KEY-----",
    ],
}
NOT_FOUND = [
    "Write to user@example.com or me@localhost.",
    "In 1914 and 1939; 2,147,483,647 is the largest; pi is 3.14159265358979323846.",
    # Wrong or missing check digits.
    "4539 1488 0343 6468", "DE88 3704 0044 0532 0130 00", "0000 0000 0000 0000",
    "Call 650-253-0000 or 110.", "3 + 4567890123 = 4567890126",
    "def f(x): return x@y  # a matrix product", "the_longest_name_of_a_variable_in_version_2 = 1",
    "password = os.environ['PASSWORD']",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(k, t) for k, texts in FOUND.items() for t in texts])
def test_found(kind: str, text: str) -> None:
    assert [name for name, find in SENSITIVE.items() if find(text)] == [kind]


@pytest.mark.parametrize("text", NOT_FOUND)
def test_not_found(text: str) -> None:
    assert [name for name, find in SENSITIVE.items() if find(text)] == []
