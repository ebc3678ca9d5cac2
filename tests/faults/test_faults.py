"""A sample of `make faults`: kills, signals, damaged files, full disks, renamed folders, concurrent writers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_sample_of_all_faults_is_survived():
    """In a process of its own: PyTorch refuses to train in a process that is forked from one that has trained."""
    command = [sys.executable, "-m", "tests.faults.run", "--sample"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.count("SIGKILL") == 2  # the table of what was tried
