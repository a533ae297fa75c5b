"""The table of times beside another checkout, by its cheapest row."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def ask(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.times", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


@pytest.mark.slow
def test_a_checkout_beside_itself():
    done = ask(f"--old={REPOSITORY}", "--rows=energy-2", "--repeats=1")
    assert done.returncode == 0, done.stderr
    head, row = done.stdout.splitlines()
    assert head.split() == ["old", "now", "ratio", "target"]
    name, *numbers = row.split()
    assert name == "energy-2" and all(float(number) > 0 for number in numbers) and len(numbers) == 4


def test_unknown_rows_and_folders_are_refused(tmp_path):
    refused = ask(f"--old={tmp_path}", "--rows=energy-2")
    assert refused.returncode and "is no checkout" in refused.stdout + refused.stderr
    refused = ask(f"--old={REPOSITORY}", "--rows=energy")
    assert refused.returncode and "--rows has no energy" in refused.stdout + refused.stderr
