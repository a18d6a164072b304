"""Memory that was freed is used again, not given back and cleared anew by the system."""

import subprocess
import sys

# 64 MiB are 16,384 pages; each is a fault when it is touched for the first time.
_FAULTS_OF_SECOND_ARRAY = """
import resource, sys
import numpy as np
from parrot_jax.core.memory import keep_freed_memory

faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
if sys.argv[1] == "keep":
    assert keep_freed_memory()
np.ones(64 << 20, np.uint8)
before = faults()
np.ones(64 << 20, np.uint8)
print(faults() - before)
"""


def _faults(what: str) -> int:
    command = [sys.executable, "-c", _FAULTS_OF_SECOND_ARRAY, what]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_a_second_array_takes_the_pages_of_the_first() -> None:
    assert _faults("keep") < 100
    # numpy asks for huge pages where it may: 32 faults are the least without us.
    assert _faults("as it was") >= 32
