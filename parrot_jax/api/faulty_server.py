"""An OpenAI-compatible test server that reproduces the failures of real ones, deterministically.

    python -m parrot_jax.api.faulty_server --seed 1 --rate 0.2 --log server.jsonl

Prints its address and serves until standard input is closed. Replies depend only on the request;
failures also depend on how often it was sent. The log has one line for each accepted (billable)
request, whether or not its reply arrived.
"""

import argparse
import hashlib
import json
import random
import sys
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO, Any

from parrot_jax.api.scripted_server import Script, Scripted, ScriptedServer, converse

KEY = "sk-/faulty+0123456789"
"""The client's API key; some faults echo it."""
LONG_TEXT_CHARS = 100_000

_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
_ESCAPED_KEY = "".join(f"\\u{ord(char):04x}" for char in KEY[:9]) + KEY[9:]

# Rejected requests, which are not billed.
REFUSALS: Mapping[str, Scripted] = {
    "429": Scripted(status=429, text="slow down"),
    "429 with Retry-After": Scripted(
        status=429, text="slow down", headers={"retry-after-ms": "20"}
    ),
    "500": Scripted(status=500, text="boom"),
    "503": Scripted(status=503, text="busy"),
    "500 with endless body": Scripted(status=500, text="boom", endless=b"boom " * 1000),
    "500 with the key": Scripted(status=500, text=f"you sent Bearer {KEY}"),
    "500 with the key JSON-escaped": Scripted(
        status=500, body=json.dumps({"error": f"you sent {KEY}"}).replace("/", "\\/")
    ),
    "502 with the key in HTML": Scripted(
        status=502, body=f"<html>you sent {_ESCAPED_KEY}</html>", headers={"server": KEY}
    ),
}
# Faults of accepted requests that lose the reply.
LOSSES: Mapping[str, Mapping[str, Any]] = {
    "time-out": {"delay_s": 3600.0},
    "trickling bytes": {"body": "{", "endless": b" ", "pause_s": 0.3},
    "reset mid-body": {"hangs_up": True},
    "empty response": {"raw": b""},
    "garbage": {"raw": bytes(range(256)) * 4},
    "bad status line": {"raw": b"HTTP/1.1 fine\r\n\r\n"},
    "another protocol": {"raw": b"220 mail.example ESMTP ready\r\n"},
    "bad chunk size": {"raw": _OK + b"transfer-encoding: chunked\r\n\r\nten\r\n{}\r\n"},
    "bad length": {"raw": _OK + b"content-length: -5\r\n\r\n{}"},
    "long header": {"raw": _OK + b"x-long: " + b"y" * 100_000 + b"\r\n\r\n{}"},
    "many headers": {"raw": _OK + b"x-many: y\r\n" * 10_000 + b"\r\n{}"},
    "bad gzip": {"body": b"\x1f\x8b no gzip", "headers": {"content-encoding": "gzip"}},
    "gzip bomb": {
        "body": zlib.compress(bytes(2**24), wbits=31), "headers": {"content-encoding": "gzip"}
    },
    "unknown encoding": {"body": b"\x0b\x02\x80{}", "headers": {"content-encoding": "br, zstd"}},
    "truncated JSON": {"body": '{"id": "chatcmpl-1", "choices": [{"index": 0, "mess'},
    "empty choices": {"body": '{"id": "chatcmpl-1", "object": "chat.completion", "choices": []}'},
    "wrong content type": {
        "body": "<html><body>Please stand by</body></html>",
        "headers": {"content-type": "text/html"},
    },
    "lone surrogate": {"text": "Hel\ud800lo"},
    "NUL": {"text": "Hel\0lo"},
    "Latin-1": {
        "body": '{"choices": [{"message": {"content": "é"}, "finish_reason": "stop"}]}'.encode(
            "latin-1"
        )
    },
    "UTF-16": {
        "body": '{"choices": []}'.encode("utf-16"),
        "headers": {"content-type": "application/json; charset=utf-16"},
    },
    "20 MB": {"body": b'{"choices": [{"message": {"content": "' + b"x" * 20_000_000 + b'"}}]}'},
    "endless body": {"body": '{"choices": [', "endless": b" " * 65_536},
    "aborted reply": {"finish_reason": "error"},
    "error with status 200": {"body": '{"error": {"message": "upstream failed", "code": 502}}'},
}  # fmt: skip
# Unusual but valid replies to accepted requests.
ODDITIES: Mapping[str, Mapping[str, Any]] = {
    "charset utf-7": {"headers": {"content-type": "application/json; charset=utf-7"}},
    "no content type": {"headers": {"content-type": ""}},
    "eos": {"finish_reason": "eos"},
    "no finish_reason": {"finish_reason": None},
    "impossible token counts": {"usage": {"prompt_tokens": 2**53 - 1, "completion_tokens": 2**60}},
    "endless rate limits": {
        "headers": {
            "x-ratelimit-limit-requests": "1e9", "x-ratelimit-remaining-requests": "1e9",
            "x-ratelimit-reset-requests": "1e300", "set-cookie": "a=b", "retry-after": "1e300",
        }
    },
}  # fmt: skip
FAULTS: Sequence[str] = (*REFUSALS, *LOSSES, *ODDITIES)
# Permanent faults, not part of FAULTS; tests use them directly.
LASTING: Mapping[str, Scripted] = {
    "quota": Scripted(status=429, text="pay first", code="exceeded_current_quota_error"),
    "moderation": Scripted(status=403, text="Your input was flagged"),
    "unknown parameter": Scripted(status=400, text="Unsupported parameter: 'max_tokens'"),
    "unknown end": Scripted(text="Hello", finish_reason="vanished"),
    "tool call": Scripted(text=None, finish_reason="tool_calls"),
    "redirect": Scripted(status=307, headers={"location": "http://127.0.0.1:9/v1"}),
}


def converse_oddly(body: dict[str, Any]) -> Scripted:
    """As `converse`, but some replies are cut, filtered, empty, rejected or very long."""
    scripted = converse(body)
    odd = int(hashlib.sha256(f"odd {scripted.text}".encode()).hexdigest(), 16) % 400
    if odd == 0:
        return replace(scripted, finish_reason="length")
    if odd == 1:
        return replace(scripted, text="", finish_reason="content_filter")
    if odd == 2:
        return replace(scripted, text="")
    if odd == 3:
        return Scripted(status=400, text="cannot process this request")
    if odd == 4:
        return Scripted(status=400, text="too long", code="context_length_exceeded")
    if odd == 5:
        return replace(scripted, text=f"{scripted.text} " * (LONG_TEXT_CHARS // 20))
    return scripted


class FaultyScript:
    """Wraps a script and makes some of its requests fail.

    Attributes:
      counts: Number of requests by fault, and `accepted`: billable requests.
    """

    def __init__(
        self, script: Script, *, seed: int, rate: float, log: IO[str] | None = None
    ) -> None:
        """Wraps a script.

        Args:
          script: Replies to requests that do not fail.
          seed: Seed of the faults.
          rate: Share of requests that fail, in [0, 1).
          log: Receives a JSON line for each accepted request, with the `sha256` of its body.
        """
        self.counts: Counter[str] = Counter()
        self._script, self._seed, self._rate, self._log = script, seed, rate, log
        self._seen: Counter[str] = Counter()

    def __call__(self, body: dict[str, Any]) -> Scripted:
        """Returns the response to a request, which may be a fault."""
        key = body_key(body)
        self._seen[key] += 1
        rng = random.Random(f"{self._seed} {key} {self._seen[key]}")
        fault = rng.choice(FAULTS) if rng.random() < self._rate else "none"
        scripted = self._script(body)
        is_accepted = fault not in REFUSALS and scripted.status < 400
        if fault in LOSSES and not is_accepted:
            fault = "none"  # keep the script's errors
        is_ordinary = is_accepted and scripted.finish_reason == "stop"
        if fault in ODDITIES and not (is_ordinary and 0 < len(scripted.text) < 100):
            fault = "none"  # keep replies that end a dialogue
        self.counts[fault] += 1
        if fault in REFUSALS:
            return REFUSALS[fault]
        if is_accepted:
            self.counts["accepted"] += 1
            if self._log is not None:
                self._log.write(json.dumps({"sha256": key, "fault": fault}) + "\n")
        return replace(scripted, **{**LOSSES, **ODDITIES}.get(fault, {}))


def body_key(body: Mapping[str, Any]) -> str:
    """The SHA-256 of a request, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def main() -> None:
    """Serves until standard input is closed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--log", required=True)
    options = parser.parse_args()
    with open(options.log, "a", buffering=1) as log:
        script = FaultyScript(converse_oddly, seed=options.seed, rate=options.rate, log=log)
        with ScriptedServer(script, delay_s=options.delay_ms / 1e3, keeps_bodies=False) as server:
            print(server.url, flush=True)
            sys.stdin.read()
        print(json.dumps(script.counts), flush=True)


if __name__ == "__main__":
    main()
