"""Lists that commands print: networks, data sets, configs."""

import itertools
import json
import math
import subprocess
import sys

import pytest

from sam_jax.datasets import catalog
from sam_jax.models import listing, registry
from tests.in_process import run_module
from tests.processes import REPOSITORY

# Other tests register families of their own.
NAMES = [
  name
  for family in registry.families()
  if family.build.__module__.startswith("sam_jax.models.")
  for name in family.names
]


def test_networks_with_a_name_are_counted():
  sizes = listing.stored_sizes()
  assert list(sizes) == NAMES, "run python -m scripts.network_sizes"
  made = json.loads(listing.SIZES.read_text(encoding="utf-8"))["made"]
  assert {"date", "cpu", "versions"} <= made.keys()


@pytest.mark.parametrize(
  "name", ["wrn28_10", "resnet50", "efficientnet_tiny", "cnn36", "resnet20"]
)
def test_sizes_are_those_of_the_networks(name):
  stored = listing.stored_sizes()[name]
  counted = listing.count(name)
  # Versions of XLA may count FLOPs of cheap operations differently.
  assert math.isclose(counted.pop("flops"), stored.pop("flops"), rel_tol=0.01)
  assert counted == stored


def test_lists_all_networks(capsys):
  run_module("sam_jax.models")
  output = capsys.readouterr().out
  for name in NAMES:
    assert f"| {name} " in output
  assert "wrn{depth}_{width}" in output


def test_counts_a_member_of_a_family(capsys):
  run_module("sam_jax.models", "cnn4")
  row = capsys.readouterr().out.splitlines()[2]
  # Kernels of 3x3, one scale and bias for each channel, and a linear layer.
  channels = [3, 32, 64, 128]
  parameters = sum(9 * a * b + 2 * b for a, b in itertools.pairwise(channels))
  parameters += 128 * 10 + 10
  assert f"{parameters:,}" in row


def test_refuses_an_unknown_network(capsys):
  with pytest.raises(SystemExit) as end:
    run_module("sam_jax.models", "wrn2810")
  assert end.value.code == 2
  assert "Did you mean 'wrn28_10'" in capsys.readouterr().err


def test_lists_all_data_sets(capsys):
  run_module("sam_jax.datasets")
  output = capsys.readouterr().out
  for name in catalog.known_datasets():
    assert f"| {name} " in output
  assert "1,281,167" in output


def test_help_names_what_a_command_line_can():
  output = subprocess.run(
    [sys.executable, "-m", "sam_jax.train", "--help"],
    cwd=REPOSITORY,
    check=True,  # absl's own --help ends with exit code 1
    capture_output=True,
    text=True,
  ).stdout
  assert "--workdir: Directory of logs, checkpoints and results. Required." in (
    " ".join(output.split())
  )
  assert "configs/cifar.py" in output
  words = output.replace(",", " ").replace(".\n", " ").split()
  assert {*NAMES, *catalog.known_datasets()} <= set(words)
