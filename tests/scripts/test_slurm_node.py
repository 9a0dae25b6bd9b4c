"""Arguments that slurm_node.sh refuses; tests/test_slurm.py needs the rest."""

import subprocess

import pytest

from tests.processes import REPOSITORY


@pytest.mark.parametrize("words", [[], ["restart"]])
def test_wrong_command_gives_one_line(words):
  command = ["bash", REPOSITORY / "scripts/slurm_node.sh", *words]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 2
  word = words[0] if words else ""
  assert done.stderr == f"error: '{word}' is not one of start, stop.\n"
