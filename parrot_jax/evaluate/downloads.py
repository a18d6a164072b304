"""Downloads public benchmarks, when the user says so; no other command of this room does.

All files of a benchmark are fetched and checked before the first one is written.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urljoin, urlsplit

import httpx2

from parrot_jax.core.errors import UserError, disk_full_is_a_user_error
from parrot_jax.core.files import atomic_write
from parrot_jax.core.logs import console, visible
from parrot_jax.core.paths import require_local_folder
from parrot_jax.evaluate.benchmark import read_benchmark
from parrot_jax.evaluate.judge_prompts import load_judge_prompts
from parrot_jax.evaluate.length_control import check_gamed
from parrot_jax.evaluate.published import PublicBenchmark, PublicFile
from parrot_jax.version import __version__

MAX_BYTES = 64 * 2**20
"""Of one file; the largest takes 4 MB."""
TIMEOUT_S = 120.0
"""For one file, with all redirects."""
HOSTS = ("raw.githubusercontent.com", "huggingface.co", "hf.co")
"""Downloads come from these hosts and those below them; the hub redirects to others of its own."""

_STALL_S = 30.0
_MAX_REDIRECTS = 5

CheckAddress = Callable[[str], None]
"""Raises UserError for an address from which nothing is downloaded."""


State = Literal["written", "replaced", "unchanged"]


class Written(NamedTuple):
    """A file of the benchmark."""

    path: Path
    url: str
    num_bytes: int
    content: str
    """What it holds, e.g. `80 questions`."""
    state: State


def check_address(url: str) -> None:
    """Allows HTTPS to `HOSTS` only.

    >>> check_address("https://huggingface.co/datasets/tatsu-lab/alpaca_eval")

    Raises:
      UserError: The scheme or the host is another one.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "https" or parts.port not in (None, 443):
        raise UserError(f"{visible(url)} is not an https address; nothing is downloaded from it.")
    if not any(host == known or host.endswith(f".{known}") for known in HOSTS):
        raise UserError(
            f"{visible(url)} is on {host}; benchmarks are downloaded from {', '.join(HOSTS)} only."
        )


def download(
    benchmark: PublicBenchmark,
    folder: Path | str,
    *,
    overwrite: bool = False,
    check: CheckAddress = check_address,
    max_bytes: int = MAX_BYTES,
    timeout_s: float = TIMEOUT_S,
) -> list[Written]:
    """Fetches the files of a benchmark, checks them, and writes them atomically.

    Args:
      benchmark: From `PUBLIC_BENCHMARKS`.
      folder: The folder of this benchmark.
      overwrite: Whether to replace files with another content.
      check: Is asked before each request, also after a redirect.
      max_bytes: Of one file.
      timeout_s: For one file.

    Raises:
      UserError: A file cannot be fetched, is not what it should be, or would replace another one.
        Nothing was written.
      DiskFullError: The disk is full.
    """
    require_local_folder(str(folder), "--out")
    folder = Path(folder)
    with (
        disk_full_is_a_user_error(f"the benchmark in {folder}"),
        tempfile.TemporaryDirectory(prefix="parrot-") as temporary,
    ):
        staged, contents = Path(temporary), dict[str, str]()
        for file in benchmark.files:
            received = fetch(file.url, check=check, max_bytes=max_bytes, timeout_s=timeout_s)
            target = staged / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(received)
        for file in benchmark.files:
            contents[file.path] = _checked(file, staged, staged / benchmark.files[0].path)
        states: dict[str, State] = {
            file.path: _state(staged, folder, file.path) for file in benchmark.files
        }
        other = [str(folder / path) for path, state in states.items() if state == "replaced"]
        if other and not overwrite:
            raise UserError(
                f"{', '.join(other)} has another content; use --overwrite to replace it, or "
                "another --out."
            )
        found = []
        for file in benchmark.files:
            received = (staged / file.path).read_bytes()
            if states[file.path] != "unchanged":
                with atomic_write(folder / file.path, "wb") as opened:
                    opened.write(received)
            found.append(
                Written(
                    folder / file.path, file.url, len(received), contents[file.path],
                    states[file.path],
                )
            )  # fmt: skip
        return found


def fetch(
    url: str,
    *,
    check: CheckAddress = check_address,
    max_bytes: int = MAX_BYTES,
    timeout_s: float = TIMEOUT_S,
) -> bytes:
    """The content at an address.

    Args:
      url: The address.
      check: Is asked before each request, also after a redirect.
      max_bytes: Of the content.
      timeout_s: For all requests together.

    Raises:
      UserError: There is none, it is too large, or it took too long.
    """
    until = time.monotonic() + timeout_s
    address = url
    # Not compressed: a small body could become a large one.
    headers = {"user-agent": f"parrot_jax/{__version__}", "accept-encoding": "identity"}
    timeout = httpx2.Timeout(min(_STALL_S, timeout_s))
    try:
        with httpx2.Client(headers=headers, timeout=timeout, follow_redirects=False) as client:
            for _ in range(_MAX_REDIRECTS + 1):
                check(address)
                with client.stream("GET", address) as response:
                    if response.has_redirect_location:
                        address = urljoin(address, response.headers["location"])
                        continue
                    return _body(response, url, max_bytes, until)
    except (httpx2.TimeoutException, _TooSlowError):
        raise UserError(
            f"{url} was not received within {timeout_s:g} s; check the network, or try later."
        ) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, OSError) as error:
        raise UserError(
            f"{url} cannot be downloaded ({visible(str(error)) or type(error).__name__}); check "
            "the network, and proxies in the environment."
        ) from None
    raise UserError(f"{url} redirects more than {_MAX_REDIRECTS} times.")


class _TooSlowError(Exception):
    """The time is over."""


def _body(response: httpx2.Response, url: str, max_bytes: int, until: float) -> bytes:
    if response.status_code != 200:
        raise UserError(
            f"{url} answered with HTTP {response.status_code}; look at the page of the benchmark, "
            "and put the file in place yourself if it has moved."
        )
    if response.headers.get("content-encoding", "identity") != "identity":
        raise UserError(f"{url} sent a compressed reply, which was not asked for.")
    received = bytearray()
    for part in response.iter_raw():
        received += part
        if len(received) > max_bytes:
            raise UserError(f"{url} is larger than {max_bytes:,} bytes, too large for what it is.")
        if time.monotonic() > until:
            raise _TooSlowError
    return bytes(received)


def _checked(file: PublicFile, staged: Path, questions: Path) -> str:
    """What a file holds, in words.

    Raises:
      UserError: It is not what it should be.
    """
    path = staged / file.path
    try:
        match file.kind:
            case "questions":
                return f"{len(read_benchmark(str(path))):,} questions"
            case "references":
                with console.capture():  # what it says of known errors, it says at each use
                    found = read_benchmark(str(questions), references=str(path))
                with_references = sum(None not in question.references for question in found)
                return f"references of {with_references:,} questions"
            case "prompts":
                return f"{len(load_judge_prompts(str(path)).by_use):,} prompts"
            case "difficulties":
                return f"difficulties of {check_gamed(str(path)):,} instructions"
    except UserError as error:
        problem = str(error).replace(f"{staged}/", "")
        raise UserError(f"{file.url} is not what it was: {problem} Nothing was written.") from None


def _state(staged: Path, folder: Path, path: str) -> State:
    there = folder / path
    if not there.exists():
        return "written"
    same = there.is_file() and there.read_bytes() == (staged / path).read_bytes()
    return "unchanged" if same else "replaced"


def listed(benchmarks: Sequence[tuple[str, PublicBenchmark]]) -> list[str]:
    """The benchmarks with their sources and licences, as lines."""
    lines = []
    for name, one in benchmarks:
        lines += [f"{name}: {one.about}", f"  {one.home}, {one.licence}"]
        lines += [f"  {file.path}  <-  {file.url}" for file in one.files]
    return lines
