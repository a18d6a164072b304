"""Time and peak memory of an endless reply, compared with the bare `openai` client.

    python scripts/bench/endless_reply.py [--mb 1000]

A server sends a body of this size, plain and as gzip of zeros. Each client sends one request from a
separate process.
"""

import argparse
import asyncio
import multiprocessing
import resource
import time
import zlib
from collections.abc import AsyncIterator
from typing import Any

import openai

from parrot_jax.api.endpoint import Endpoint
from parrot_jax.api.endpoint_config import EndpointConfig

PART = b" " * 2**20


async def parts(mb: int, *, packed: bool) -> AsyncIterator[bytes]:
    """Yields the body of a reply, one megabyte at a time."""
    packer = zlib.compressobj(wbits=31)
    for _ in range(mb):
        yield packer.compress(PART) if packed else PART
    if packed:
        yield packer.flush()


def serve(mb: int, ports: Any) -> None:
    """The server's process."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        packed = b"/gzip/" in head
        encoding = b"content-encoding: gzip\r\n" if packed else b""
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n" + encoding + b"\r\n")
        try:
            async for part in parts(mb, packed=packed):
                writer.write(part)
                await writer.drain()
        except ConnectionError:
            pass  # the client disconnected
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        ports.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def ask(url: str, client: str, results: Any) -> None:
    """A client's process: sends one request; reports result, seconds and MB of memory."""
    messages = [{"role": "user", "content": "Hi"}]

    async def endpoint() -> str:
        config = EndpointConfig(base_url=url, model="m", timeout_s=600)
        async with Endpoint(config) as endpoint:
            response = await endpoint.send({"model": "m", "messages": messages})
            return response.error or "a reply"

    async def bare() -> str:
        http = openai.DefaultAioHttpClient()
        async with openai.AsyncOpenAI(
            base_url=url, api_key="none", max_retries=0, http_client=http
        ) as client:
            try:
                await client.chat.completions.create(model="m", messages=messages)  # type: ignore[arg-type]
                return "a reply"
            except Exception as error:
                return f"{type(error).__name__}: {str(error)[:60]}"

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    said = asyncio.run(endpoint() if client == "parrot" else bare())
    seconds = time.perf_counter() - start
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results.put((said, seconds, (most - before) / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mb", type=int, default=1000)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ports, results = context.Queue(), context.Queue()
    server = context.Process(target=serve, args=(options.mb, ports), daemon=True)
    server.start()
    port = ports.get()
    for form in ("plain", "gzip"):
        for client in ("openai", "parrot"):
            url = f"http://127.0.0.1:{port}/{form}/v1"
            process = context.Process(target=ask, args=(url, client, results))
            process.start()
            said, seconds, mb = results.get()
            process.join()
            print(f"{form:5} {client:6} {seconds:6.2f} s, {mb:7,.0f} MB more; {said}", flush=True)
    server.terminate()


if __name__ == "__main__":
    main()
