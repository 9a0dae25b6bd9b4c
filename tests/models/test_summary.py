"""The table of a network."""

from sam_jax.models import create_model
from sam_jax.models.summary import model_summary


def test_summary_has_layers_size_and_cost():
  text = model_summary(create_model("efficientnet_tiny", 10), (32, 32, 3))
  assert "MBConvBlock_3" in text
  assert "Parameters: 30,580" in text
  assert "Batch statistics: 1,872" in text
  flops = int(text.rsplit(": ", 1)[1].replace(",", ""))
  assert 1.5e6 < flops < 3e6
