"""SIGTERM to real processes: the step is finished; a second, later SIGTERM ends the process."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from parrot_jax.train.preemption import preemption

PROGRAM = """
import sys, time
from parrot_jax.train import preemption

preemption._SAME_REQUEST_S = float(sys.argv[1])
with preemption.preemption() as asked:
    asked.catch()
    print("ready", flush=True)
    while not asked.asked:
        time.sleep(0.01)
    print("asked", flush=True)
    for line in sys.stdin:  # what it does before it ends, as long as the test likes
        print("saved" if asked.asked else "?", flush=True)
print("after", flush=True)
time.sleep(30)
"""


class Child:
    """A process that saves before it ends."""

    def __init__(self, same_request_s: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(same_request_s)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.expect("ready")

    def expect(self, line: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{line}\n"

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def save(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("save\n")
        self.process.stdin.flush()
        self.expect("saved")

    def end_block(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.expect("after")


@pytest.fixture
def start() -> Iterator[type[Child]]:
    children: list[Child] = []

    class Started(Child):
        def __init__(self, same_request_s: float) -> None:
            super().__init__(same_request_s)
            children.append(self)

    yield Started
    for child in children:
        with child.process:
            child.process.kill()


def test_the_first_sigterm_is_heard_and_its_repetition_changes_nothing(start: type[Child]) -> None:
    child = start(60.0)
    child.terminate()
    child.expect("asked")
    child.terminate()  # the supervisor forwards a signal that the process already has
    child.save()
    child.end_block()
    child.terminate()  # the previous handler, the default, is restored
    assert child.process.wait(10) == -signal.SIGTERM


def test_a_later_second_sigterm_ends_the_process_at_once(start: type[Child]) -> None:
    child = start(0.0)
    child.terminate()
    child.expect("asked")
    child.save()
    child.terminate()
    assert child.process.wait(10) == -signal.SIGTERM


def test_the_handler_from_before_is_back_after_the_block() -> None:
    def mine(number: int, frame: object) -> None: ...

    original = signal.signal(signal.SIGTERM, mine)
    try:
        with preemption() as asked:
            assert signal.getsignal(signal.SIGTERM) is mine
            asked.catch()
            asked.catch()
            assert signal.getsignal(signal.SIGTERM) is not mine
            signal.raise_signal(signal.SIGTERM)
            assert asked.asked
        assert signal.getsignal(signal.SIGTERM) is mine
        with preemption() as asked:
            assert not asked.asked
    finally:
        signal.signal(signal.SIGTERM, original)


def test_outside_the_main_thread_it_does_nothing() -> None:
    seen: list[bool] = []

    def block() -> None:
        with preemption() as asked:
            asked.catch()
            seen.append(asked.asked)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert seen == [False]
