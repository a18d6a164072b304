"""Time, memory and size of `parrot view` on many dialogues.

python scripts/bench/view.py --dialogues 400000 --folder FOLDER

Makes a file of dialogues with the lengths of WildChat's (kept for the next run), starts the command
in a process of its own, waits for its index, starts it again, and asks for pages as a browser does.
"""

import argparse
import http.client
import itertools
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_STOPS = ("max_turns", "asker_left", "thanks", "repeated_question", "short_question", "refusal")
_MODELS = ("gpt-3.5-turbo", "gpt-4", "vicuna-13b", "llama-2-13b-chat")
_REPEATS = 7
_RARE = "zyzzyva"

PAGES = {
    "first page of the list": "",
    "a page in the middle": "?after={middle}",
    "search: a common word": "?q={common}",
    "search: two words": "?q={common}+{second}",
    "search: a phrase": "?q=%22{common}+{second}%22",
    "search: a word of one dialogue": "?q=" + _RARE,
    "filter: a stop reason": "?stop=thanks",
    "filter: a model, 5 questions or more": "?model=answerer%3A+gpt-4&min_turns=5",
    "order: longest first": "?sort=-words",
    "search and filter, best score first": "?q={common}&stop=refusal&sort=-score",
}


def main() -> None:
    """Measures, and prints tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialogues", type=int, default=400_000)
    parser.add_argument("--folder", type=Path, required=True, help="for the file and the index")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / f"dialogues-{options.dialogues}.jsonl"
    if not path.exists():
        write_dialogues(path, options.dialogues)
    for old in options.folder.glob(".parrot_cache/view/*"):
        old.unlink()
    start = time.monotonic()
    with Server(options.folder, path.name) as server:
        server.wait_for(lambda news: news["matching"] > 0)
        first_s = time.monotonic() - start
        slowest = 0.0
        while server.news()["progress"]:
            slowest = max(slowest, server.seconds("/1")[0])
            time.sleep(1)
        indexed_s = time.monotonic() - start
        indexing_mb = server.peak_mb()
    index_bytes = sum(file.stat().st_size for file in options.folder.glob(".parrot_cache/view/*"))
    print(f"{options.dialogues:,} dialogues, {path.stat().st_size / 1e9:.2f} GB\n")
    print("| building the index | |\n|---|---|")
    print(f"| until the first dialogues are listed | {first_s:.1f} s |")
    print(f"| until all are | {indexed_s:.0f} s |")
    print(f"| slowest first page meanwhile | {slowest:.2f} s |")
    print(f"| size of the index | {index_bytes / 1e9:.2f} GB |")
    print(f"| peak memory of the process | {indexing_mb:.0f} MB |\n")
    start = time.monotonic()
    with Server(options.folder, path.name) as server:
        server.seconds("/1")
        restart_s = time.monotonic() - start
        print("| the index exists | median | slowest |\n|---|---|---|")
        print(f"| from the command to the first page | {restart_s:.2f} s | |")
        words = dict(zip(("common", "second"), vocabulary()[20:22], strict=True))
        for name, query in PAGES.items():
            page = "/1" + query.format(middle=options.dialogues // 2, **words)
            # Another process never asked for the same page before: each has its own count.
            times = [server.seconds(page)[0] for _ in range(_REPEATS)]
            print(f"| {name} | {statistics.median(times):.3f} s | {max(times):.3f} s |")
        times = [
            server.seconds(f"/1/{n}?q={words['common']}&sort=-words")[0]
            for n in range(0, options.dialogues, max(options.dialogues // _REPEATS, 1))
        ]
        print(f"| a dialogue, within a search | {statistics.median(times):.3f} s "
              f"| {max(times):.3f} s |")  # fmt: skip
        print(f"| peak memory of the process | {server.peak_mb():.0f} MB | |")


class Server:
    """`parrot view` in a process of its own, and a browser's session."""

    def __init__(self, folder: Path, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "parrot_jax.cli", "view", name],
            cwd=folder, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/(\?token=[\w-]+)", line)
        assert found, line
        self.port, self.cookie = int(found[1]), ""
        reply = self._ask(f"/{found[2]}")
        self.cookie = reply[1]["set-cookie"].split(";")[0]

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def _ask(self, path: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("GET", path, headers={"Cookie": self.cookie} if self.cookie else {})
        reply = connection.getresponse()
        found = reply.status, reply.headers, reply.read()
        connection.close()
        return found

    def seconds(self, path: str) -> tuple[float, bytes]:
        """Time of a request, and the page."""
        start = time.monotonic()
        status, _, body = self._ask(path)
        assert status == 200, body[:500]
        return time.monotonic() - start, body

    def news(self) -> dict:
        """What the page's script asks for."""
        return json.loads(self.seconds("/1/news")[1])

    def wait_for(self, done: Callable[[dict], bool]) -> None:
        """Asks until a condition holds."""
        while not done(self.news()):
            time.sleep(0.05)

    def peak_mb(self) -> float:
        """The largest resident memory so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found, status
        return int(found[1]) / 1000


def vocabulary() -> list[str]:
    """60,000 words, the most frequent ones first."""
    syllables = [c + v for c in "bdfgklmnprstv" for v in "aeiou"]
    words = map("".join, itertools.product(syllables, repeat=3))
    short = ["".join(pair) for pair in itertools.product(syllables, repeat=2)]
    return [*syllables, *short, *itertools.islice(words, 60_000 - len(short) - len(syllables))]


def write_dialogues(path: Path, count: int) -> None:
    """Writes the file: the same bytes for the same number."""
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        file.writelines(_lines(count))
    partial.rename(path)


def _lines(count: int) -> Iterator[str]:
    """Dialogues of 4 questions on average; questions of about 30 words, answers of about 200."""
    draw = random.Random(0)
    words = vocabulary()
    # By Zipf's law: the n-th word is n times as rare as the first.
    weights = list(itertools.accumulate(1 / (n + 1) for n in range(len(words))))
    sentences = [
        " ".join(draw.choices(words, cum_weights=weights, k=draw.randint(5, 25))) + "."
        for _ in range(50_000)
    ]
    for number in range(count):
        messages = []
        for _ in range(min(1 + int(draw.expovariate(1 / 3.5)), 20)):
            for role, mean in (("user", 2), ("assistant", 13)):
                size = 1 + int(draw.expovariate(1 / (mean - 0.5)))
                text = " ".join(draw.choices(sentences, k=min(size, 100)))
                messages.append({"role": role, "content": text})
        if number == count // 3:
            messages[0]["content"] += f" {_RARE}"
        about = {
            "stop": draw.choice(_STOPS),
            "models": {"asker": ["parrot-ask"], "answerer": [draw.choice(_MODELS)]},
        }
        row = {"id": f"d{number}", "score": draw.randint(1, 10), "collection": about,
               "messages": messages}  # fmt: skip
        yield json.dumps(row) + "\n"


if __name__ == "__main__":
    main()
