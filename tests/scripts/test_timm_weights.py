"""The weights that the demonstration starts from."""

import json

from sam_jax.pretrained.fitting import load_network
from sam_jax.pretrained.formats import read_checkpoint
from scripts import timm_weights


def test_weights_are_those_of_the_network_in_the_format_of_timm(tmp_path):
  timm_weights.write(tmp_path)
  checkpoint = read_checkpoint(tmp_path)
  model, _, report = load_network(timm_weights.MODEL, checkpoint)
  assert model.num_classes == 10
  assert "(timm's tf_efficientnet_tiny), the head of 10 classes" in report
  stem = checkpoint.sources["Stem_0/conv2d/kernel"]
  header = (tmp_path / "model.safetensors").read_bytes()
  size = int.from_bytes(header[:8], "little")
  shapes = json.loads(header[8 : 8 + size])
  assert (stem, shapes[stem]["shape"][1:]) == ("conv_stem.weight", [3, 3, 3])
