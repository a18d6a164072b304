"""An OpenAI-compatible server that fails in every way that real ones do, the same way each time.

    python -m parrot_jax.api.faulty_server --seed 1 --rate 0.2 --log server.jsonl

It prints its address, and serves until its standard input is closed. What it answers follows from
the request alone; whether and how it fails, from the request and from how often it came. Each
request that it accepted, and might send a bill for, is a line of its log, whether or not its reply
arrived.
"""

import argparse
import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO, Any

from parrot_jax.api.scripted_server import Script, Scripted, ScriptedServer, converse

LONG_TEXT_CHARS = 100_000

# The request is refused: nothing was accepted.
REFUSALS: Mapping[str, Scripted] = {
    "429": Scripted(status=429, text="slow down"),
    "429 with Retry-After": Scripted(
        status=429, text="slow down", headers={"retry-after-ms": "20"}
    ),
    "500": Scripted(status=500, text="boom"),
    "503": Scripted(status=503, text="busy"),
}
# It was accepted, but its reply is lost on the way.
LOSSES: Mapping[str, Mapping[str, Any]] = {
    "time-out": {"delay_s": 3600.0},
    "reset in mid body": {"hangs_up": True},
    "truncated JSON": {"body": '{"id": "chatcmpl-1", "choices": [{"index": 0, "mess'},
    "empty choices": {"body": '{"id": "chatcmpl-1", "object": "chat.completion", "choices": []}'},
    "wrong content type": {
        "body": "<html><body>Please stand by</body></html>",
        "headers": {"content-type": "text/html"},
    },
}
FAULTS: Sequence[str] = (*REFUSALS, *LOSSES)


def converse_oddly(body: dict[str, Any]) -> Scripted:
    """As `converse`, but some replies are cut, held back, empty, refused or very long."""
    scripted = converse(body)
    odd = int(hashlib.sha256(f"odd {scripted.text}".encode()).hexdigest(), 16) % 400
    if odd == 0:
        return replace(scripted, finish_reason="length")
    if odd == 1:
        return replace(scripted, text="", finish_reason="content_filter")
    if odd == 2:
        return replace(scripted, text="")
    if odd == 3:
        return Scripted(status=400, text="this one I cannot")
    if odd == 4:
        return Scripted(status=400, text="too long", code="context_length_exceeded")
    if odd == 5:
        return replace(scripted, text=f"{scripted.text} " * (LONG_TEXT_CHARS // 20))
    return scripted


class FaultyScript:
    """A script that fails some of the requests of another one.

    Attributes:
      counts: How often which fault was made, and `accepted`: requests that may be billed.
    """

    def __init__(
        self, script: Script, *, seed: int, rate: float, log: IO[str] | None = None
    ) -> None:
        """Fails nothing yet.

        Args:
          script: What the server says where nothing fails.
          seed: Of the faults.
          rate: The share of requests that fail, in [0, 1).
          log: Gets a JSON line for each request that was accepted: the `sha256` of its body.
        """
        self.counts: Counter[str] = Counter()
        self._script, self._seed, self._rate, self._log = script, seed, rate, log
        self._seen: Counter[str] = Counter()

    def __call__(self, body: dict[str, Any]) -> Scripted:
        """What the server does with a request."""
        key = body_key(body)
        self._seen[key] += 1
        dice = random.Random(f"{self._seed} {key} {self._seen[key]}")
        fault = dice.choice(FAULTS) if dice.random() < self._rate else "none"
        scripted = self._script(body)
        is_accepted = fault not in REFUSALS and scripted.status < 400
        if fault in LOSSES and not is_accepted:
            fault = "none"  # an error in other words would be another error
        self.counts[fault] += 1
        if fault in REFUSALS:
            return REFUSALS[fault]
        if is_accepted:
            self.counts["accepted"] += 1
            if self._log is not None:
                self._log.write(json.dumps({"sha256": key, "fault": fault}) + "\n")
        return replace(scripted, **LOSSES[fault]) if fault in LOSSES else scripted


def body_key(body: Mapping[str, Any]) -> str:
    """The sha256 of a request, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def main() -> None:
    """Serves until the standard input is closed."""
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
