"""Starts vLLM, waits until it is ready, and stops it when this process ends.

File names contain the port: every start appends to `server-8000.log`; `server-8000.json` lists the
processes while they run.
"""

import http.client
import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parrot_jax.core.errors import RunError, UserError
from parrot_jax.serve.background import open_port
from parrot_jax.serve.following import Log, follow
from parrot_jax.serve.supervisor import Supervised, survivors
from parrot_jax.serve.vllm import Environment, Served, VllmConfig, vllm_command, vllm_variables

_TICK_S = 0.5
_ANSWER_S = 5.0  # for a health check


def serve_vllm(
    served: Served, environment: Environment, config: VllmConfig, *, place: Path
) -> None:
    """Serves until SIGINT or SIGTERM, which must raise KeyboardInterrupt; then returns.

    Args:
      served: Export and address; port 0 = a free port.
      environment: The environment of vLLM.
      config: The settings.
      place: The folder of the log and the record.

    Raises:
      UserError: The port is in use, an earlier server is still running, or settings are invalid.
      RunError: vLLM did not start, was not ready in time, or ended by itself; the message has the
        end of its log.
    """
    check_nobody_serves(place, served.port)
    with open_port(served.host, served.port) as listener:
        served = served._replace(port=listener.getsockname()[1])
    command = vllm_command(served, environment, config)
    variables = vllm_variables(served, environment, command)
    log = Log(place / f"server-{served.port}.log")
    shown = shlex.join([*(f"{name}={value}" for name, value in variables.items()), *command])
    with log.open(f"$ {shown}") as output:
        supervised = Supervised(
            command,
            output=output,
            record=place / f"server-{served.port}.json",
            env={**os.environ, **variables},
        )
        with supervised:
            _wait_until_ready(supervised, served, config.start_timeout_s, log)
            try:
                print(f"serving {served.name} at {_url(served)} (Ctrl-C stops)", flush=True)
                code = supervised.wait()
            except KeyboardInterrupt:
                return
    raise RunError(f"vLLM {_end(code)}; {log.end()}")


def run_logged(
    command: Sequence[str], variables: Mapping[str, str], *, place: Path, name: str
) -> None:
    """Runs a `parrot` command to its end; it is stopped if this process ends first.

    Args:
      command: The program and its arguments.
      variables: Additional environment variables.
      place: The folder of its log.
      name: The name of the log, also shown on the console.

    Raises:
      UserError: The command failed with a `UserError`.
      RunError: The command failed otherwise.
    """
    log = Log(place / f"{name}.log")
    with log.open(f"$ {shlex.join(command)}") as output:
        env, record = {**os.environ, **variables}, place / f"{name}.json"
        with (
            Supervised(command, output=output, record=record, env=env) as supervised,
            follow(name, log) as say,
        ):
            while (code := supervised.wait(_TICK_S)) is None:
                say()
    if code != 0:
        lines = [line for line in log.last_lines() if line.startswith("parrot: ")]
        if code == UserError.exit_code and lines:
            raise UserError(lines[-1].removeprefix("parrot: "))
        raise RunError(f"the {name} {_end(code)}; {log.end()}")


def check_nobody_serves(place: Path, port: int = 0) -> None:
    """Checks that no vLLM process of an earlier start is left, which would hold memory and ports.

    Args:
      place: The folder of the records.
      port: The port to be used; 0 = a free port.

    Raises:
      UserError: There are such processes, which the message lists; or a record is damaged.
    """
    for record in sorted(place.glob("server-*.json")):
        try:
            pids, supervised = survivors(record)
        except ValueError as error:
            raise UserError(
                f"{record} is damaged ({error}), so vLLM processes of an earlier start cannot be "
                "found; end any that run, then delete the file."
            ) from None
        if not pids:
            record.unlink(missing_ok=True)
            continue
        where = record.stem.removeprefix("server-")
        if supervised and where == str(port):
            raise UserError(
                f"another `parrot serve` (process {pids[0]}) is serving or stopping this run on "
                f"port {port}; choose another with --port, or wait until it has ended."
            )
        if not supervised:
            processes = " ".join(map(str, pids))
            raise UserError(
                f"an earlier start was killed and left vLLM processes on port {where}: "
                f"{processes}; end them with `kill -9 {processes}`, then run this again."
            )


def _end(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was stopped because signal {-code} killed its supervisor"
    return f"ended by itself with exit code {code}"


def _wait_until_ready(supervised: Supervised, served: Served, timeout_s: float, log: Log) -> None:
    deadline = time.monotonic() + timeout_s
    with follow("vLLM starts", log) as say:
        while (code := supervised.wait(_TICK_S)) is None:
            if _is_ready(served):
                return
            if time.monotonic() > deadline:
                raise RunError(
                    f"vLLM is not ready after {timeout_s:g} s; raise --vllm.start-timeout-s, or "
                    f"check the log: {log.end()}"
                )
            say()
    raise RunError(f"vLLM did not start: it {_end(code)}; {log.end()}")


def _is_ready(served: Served) -> bool:
    """Whether our server is healthy; another program may have taken the port."""
    if _get(served, "/health") is None:
        return False
    models: Any = _get(served, "/v1/models")
    return models is not None and served.name in [each["id"] for each in json.loads(models)["data"]]


def _get(served: Served, path: str) -> bytes | None:
    """Returns the body of a reply with status 200; None otherwise."""
    # Clients cannot connect to the wildcard address. `http.client` ignores proxies.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(served.host, served.host)
    key = os.environ.get("VLLM_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    connection = http.client.HTTPConnection(host, served.port, timeout=_ANSWER_S)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        return body if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _url(served: Served) -> str:
    host = f"[{served.host}]" if ":" in served.host else served.host
    return f"http://{host}:{served.port}/v1"
