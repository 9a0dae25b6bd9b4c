"""The table of a network."""

import pytest

from sam_jax.models import create_model
from sam_jax.models.summary import model_summary, size


def test_summary_has_layers_size_and_cost():
  text = model_summary(create_model("efficientnet_tiny", 10), (32, 32, 3))
  assert "MBConvBlock_3" in text
  assert "Parameters: 30,580" in text
  assert "Batch statistics: 1,872" in text
  flops = int(text.rsplit(": ", 1)[1].replace(",", ""))
  assert 1.5e6 < flops < 3e6


def test_flops_are_those_of_the_network_on_any_machine():
  """On CPUs convolutions of small images are products of their padding, too."""
  counted = size(create_model("resnet18", 10), (8, 8, 1))
  assert counted.flops == pytest.approx(3.44e6, rel=0.01)
