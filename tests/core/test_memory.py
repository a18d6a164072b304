"""Freed memory is reused instead of returned to the system, which would clear its pages again."""

import subprocess
import sys

# 96 MiB are 24,576 pages, or 48 huge pages; each causes a fault when first touched. Measured in a
# thread, because glibc's heaps for threads hold blocks of at most 64 MB.
_FAULTS_OF_SECOND_ARRAY = """
import resource, sys, threading
import numpy as np
from parrot_jax.core.memory import keep_freed_memory

faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
if sys.argv[1] == "keep":
    assert keep_freed_memory()


def twice():
    np.ones(96 << 20, np.uint8)
    before = faults()
    np.ones(96 << 20, np.uint8)
    print(faults() - before)

thread = threading.Thread(target=twice)
thread.start()
thread.join()
"""


def _faults(what: str) -> int:
    command = [sys.executable, "-c", _FAULTS_OF_SECOND_ARRAY, what]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_a_second_array_takes_the_pages_of_the_first() -> None:
    assert _faults("keep") < 16
    assert _faults("as it was") >= 48
