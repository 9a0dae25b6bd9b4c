"""Record tests/golden/pretrained/*.npz: logits of networks of timm and Keras.

PYTHONPATH=. python tests/pretrained/record_logits.py timm|keras

The tests make the same weights and images again (`made_up_weights`), so that a
file holds only names, shapes and logits. Recorded with timm 1.0.31, PyTorch
2.13.0 and Keras 3.15.1 (TensorFlow 2.21.0) on a CPU.
"""

import json
import pathlib
import sys

import numpy as np

from tests.pretrained.made_up_weights import make_array, make_images

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "pretrained"


def record_timm(name, size):
  """Record a network of timm in evaluation."""
  import timm
  import torch

  torch.set_num_threads(1)
  model = timm.create_model(name).eval()
  state = {
    key: value
    for key, value in model.state_dict().items()
    if not key.endswith("num_batches_tracked")
  }
  shapes = {key: list(value.shape) for key, value in state.items()}
  made = {k: torch.from_numpy(make_array(k, s)) for k, s in shapes.items()}
  model.load_state_dict(made, strict=False)
  images = make_images(2, size) / 127.5 - 1
  with torch.no_grad():
    logits = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
  save(f"timm_{name}_{size}", shapes, logits.numpy())


def record_keras(size):
  """Record EfficientNetB0 of Keras in evaluation; it normalizes images."""
  import keras

  model = keras.applications.EfficientNetB0(
    weights=None, classifier_activation=None
  )
  shapes = {weight.path: list(weight.shape) for weight in model.weights}
  set_weights(model)
  logits = model(make_images(2, size), training=False)
  save(f"keras_b0_{size}", shapes, np.asarray(logits))


def set_weights(model):
  """Set the weights of a network of Keras."""
  for weight in model.weights:
    if not weight.path.endswith("/count"):
      weight.assign(make_array(weight.path, weight.shape))
  model.get_layer("normalization").finalize_state()


def save(name, shapes, logits):
  GOLDEN.mkdir(exist_ok=True)
  print(name, len(shapes), logits.shape, logits.std(), logits[0, :3])
  np.savez_compressed(
    GOLDEN / f"{name}.npz", shapes=json.dumps(shapes), logits=logits
  )


if __name__ == "__main__":
  if sys.argv[1:] == ["timm"]:
    record_timm("tf_efficientnet_b0", 224)
    record_timm("tf_efficientnet_b2", 95)  # odd, as the 475 of L2
  elif sys.argv[1:] == ["keras"]:
    record_keras(224)
  else:
    sys.exit(__doc__)
