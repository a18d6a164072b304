"""Fakes a Python with vLLM for `parrot serve`; the variable STANDIN selects a fault.

Its server starts a child, which ignores SIGTERM if STANDIN is `deaf`, and writes both process ids
to the file PROCESSES.
"""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time

WRONG = os.environ.get("STANDIN", "")

CHILD = """
import signal, time
signal.signal(signal.SIGTERM, signal.{})
print(flush=True)
time.sleep(600)
"""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/crash":
            print("EngineDeadError: the engine is dead", flush=True)
            os._exit(1)
        model = sys.argv[sys.argv.index("--served-model-name") + 1]
        body = json.dumps({"data": [{"id": model}]}).encode()
        self.send_response(503 if WRONG == "never ready" else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def serve() -> None:
    kind = "SIG_IGN" if WRONG == "deaf" else "SIG_DFL"
    child = subprocess.Popen([sys.executable, "-c", CHILD.format(kind)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    with open(os.environ["PROCESSES"], "w") as file:
        json.dump([os.getpid(), child.pid], file)
    if WRONG == "dies":
        print("a line\nValueError: no room for the cache", flush=True)
        raise SystemExit(3)
    address = (sys.argv[sys.argv.index("--host") + 1], int(sys.argv[sys.argv.index("--port") + 1]))
    server = http.server.ThreadingHTTPServer(address, Handler)

    def stop(*_: object) -> None:
        print("stopping", flush=True)
        child.terminate()
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "-c":
        found = WRONG != "absent"
        print(json.dumps({"found": found, "gpu_bytes": [], "has_program": False}))
    else:
        time.sleep(0.2)
        serve()
