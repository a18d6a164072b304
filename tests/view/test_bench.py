"""The benchmark of the viewer runs, on fewer dialogues."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT


@pytest.mark.slow
def test_the_benchmark_measures_each_page(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "bench" / "view.py")]
    done = subprocess.run(
        [*script, "--dialogues", "1200", "--folder", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1,200 dialogues, 0.01 GB" in done.stdout
    memory = [float(number) for number in re.findall(r"memory.* (\d+) MB", done.stdout)]
    assert len(memory) == 2
    assert max(memory) < 500
    assert len(re.findall(r"\| \d\.\d{3} s \| \d\.\d{3} s \|", done.stdout)) == 11
