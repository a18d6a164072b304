"""A vLLM that runs as long as this process does: started, watched until it is ready, stopped.

Its files stand in one folder, by the port: `server-8000.log`, to which every start adds, and
`server-8000.json`, which names the processes as long as there are any.
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
_ANSWER_S = 5.0  # that a server may take to say that it is well


def serve_vllm(
    served: Served, environment: Environment, config: VllmConfig, *, place: Path
) -> None:
    """Serves until SIGINT or SIGTERM comes, which must raise KeyboardInterrupt: no failure then.

    Args:
      served: What, and where; port 0 = one that is free.
      environment: Of vLLM.
      config: How.
      place: The folder of the log and the record.

    Raises:
      UserError: The port is in use, a server was left behind here, or the command is impossible.
      RunError: vLLM did not start, not in time, or ended by itself; the text has the end of its
        log.
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
    """Runs a `parrot` command to its end, which is also ours: nothing of it is left behind.

    Args:
      command: The program and its arguments.
      variables: Environment variables beside ours.
      place: The folder of its log.
      name: Of the log, and for the eye.

    Raises:
      UserError: The command says that its input is wrong.
      RunError: It failed.
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
    """Refuses to start beside what an earlier start left behind, which holds memory and ports.

    Args:
      place: The folder of the records.
      port: Where another server of this run would be in the way; 0 = none would.

    Raises:
      UserError: There is such a thing; the text names the processes. Or a record is damaged.
    """
    for record in sorted(place.glob("server-*.json")):
        try:
            pids, supervised = survivors(record)
        except ValueError as error:
            raise UserError(
                f"{record} is damaged ({error}), so it is not known whether an earlier start left "
                "a vLLM behind; end what runs, and remove the file."
            ) from None
        if not pids:
            record.unlink(missing_ok=True)
            continue
        where = record.stem.removeprefix("server-")
        if supervised and where == str(port):
            raise UserError(
                f"another `parrot serve` serves or stops this run at port {port} (its process "
                f"{pids[0]}); choose another with --port, or wait for its end."
            )
        if not supervised:
            processes = " ".join(map(str, pids))
            raise UserError(
                f"an earlier start was killed and left a vLLM behind, at port {where}: the "
                f"processes {processes}; end them with `kill -9 {processes}`, then run this again."
            )


def _end(code: int | None) -> str:
    if code is not None and code < 0:
        return f"lost its supervisor, which signal {-code} killed, and was stopped"
    return f"ended by itself with exit code {code}"


def _wait_until_ready(supervised: Supervised, served: Served, timeout_s: float, log: Log) -> None:
    deadline = time.monotonic() + timeout_s
    with follow("vLLM starts", log) as say:
        while (code := supervised.wait(_TICK_S)) is None:
            if _is_ready(served):
                return
            if time.monotonic() > deadline:
                raise RunError(
                    f"vLLM is not ready after {timeout_s:g} s; allow more with "
                    f"--vllm.start-timeout-s, or see what it waits for: {log.end()}"
                )
            say()
    raise RunError(f"vLLM did not start: it {_end(code)}; {log.end()}")


def _is_ready(served: Served) -> bool:
    """Whether the server is well, and it is ours: another could have taken the port."""
    if _get(served, "/health") is None:
        return False
    models: Any = _get(served, "/v1/models")
    return models is not None and served.name in [each["id"] for each in json.loads(models)["data"]]


def _get(served: Served, path: str) -> bytes | None:
    """The body of an answer with status 200."""
    # All interfaces are no address to connect to. No proxy of the environment is asked.
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
