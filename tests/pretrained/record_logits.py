"""Record tests/golden/pretrained/*.npz: logits of networks of timm and Keras.

PYTHONPATH=. python tests/pretrained/record_logits.py timm|tokens|keras

"tokens" are the ViTs and Mixers of timm. The tests make the same weights and
images again (`made_up_weights`), so that a file holds only names, shapes and
logits. Recorded with timm 1.0.31, PyTorch 2.13.0 and Keras 3.15.1 (TensorFlow
2.21.0) on a CPU.
"""

import json
import pathlib
import sys
import tempfile

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


def record_vit(name, size, patch, **sizes):
  """Record a ViT of timm, which reads the .npz files of google-research.

  The classifier of the name is a token, or the average ("gap").
  """
  import torch
  from timm.layers import GELUTanh
  from timm.models.vision_transformer import VisionTransformer

  is_gap = name.endswith("_gap")
  model = VisionTransformer(
    size,
    patch,
    class_token=not is_gap,
    global_pool="avg" if is_gap else "token",
    fc_norm=False,
    act_layer=GELUTanh,
    **sizes,
  ).eval()
  state = {key: list(v.shape) for key, v in model.state_dict().items()}
  shapes = vit_shapes(state, sizes["num_heads"])
  with tempfile.TemporaryDirectory() as directory:
    file = pathlib.Path(directory) / "vit.npz"
    np.savez(file, **{k: make_array(k, s) for k, s in shapes.items()})
    model.load_pretrained(str(file))
  record_tokens(name, size, model, shapes, torch)


def vit_shapes(state, heads):
  """Return shapes by google-research's names, in the layout of 2020."""
  width, classes = state["patch_embed.proj.weight"][0], state["head.bias"][0]
  patch, tokens = state["patch_embed.proj.weight"][2], state["pos_embed"][1]
  hidden = state["blocks.0.mlp.fc1.bias"][0]
  head = width // heads
  shapes = {
    "embedding/kernel": [patch, patch, 3, width],
    "embedding/bias": [width],
    "Transformer/posembed_input/pos_embedding": [1, tokens, width],
    "Transformer/encoder_norm/scale": [width],
    "Transformer/encoder_norm/bias": [width],
    "head/kernel": [width, classes],
    "head/bias": [classes],
  }
  if "cls_token" in state:
    shapes["cls"] = [1, 1, width]
  for i in range(sum(name.endswith("norm1.bias") for name in state)):
    block = f"Transformer/encoderblock_{i}"
    for norm in ("LayerNorm_0", "LayerNorm_2"):
      shapes |= {
        f"{block}/{norm}/{leaf}": [width] for leaf in ("scale", "bias")
      }
    attention = f"{block}/MultiHeadDotProductAttention_1"
    for part in ("query", "key", "value"):
      shapes[f"{attention}/{part}/kernel"] = [width, heads, head]
      shapes[f"{attention}/{part}/bias"] = [heads, head]
    shapes[f"{attention}/out/kernel"] = [heads, head, width]
    shapes[f"{attention}/out/bias"] = [width]
    for j, sizes in enumerate(([width, hidden], [hidden, width])):
      shapes[f"{block}/MlpBlock_3/Dense_{j}/kernel"] = sizes
      shapes[f"{block}/MlpBlock_3/Dense_{j}/bias"] = sizes[1:]
  return shapes


def record_mixer(name, size, patch, **sizes):
  """Record a Mixer of timm, whose weights get google-research's names."""
  import torch
  from timm.layers import GELUTanh
  from timm.models.mlp_mixer import MlpMixer

  model = MlpMixer(
    img_size=size, patch_size=patch, act_layer=GELUTanh, **sizes
  ).eval()
  shapes, state = {}, {}
  for key, value in model.state_dict().items():
    ours = mixer_name(key)
    array = make_array(ours, ours_shape := torch_to_flax(value.shape))
    shapes[ours] = list(ours_shape)
    axes = (3, 2, 0, 1) if array.ndim == 4 else range(array.ndim)[::-1]
    state[key] = torch.from_numpy(array.transpose(axes).copy())
  model.load_state_dict(state)
  record_tokens(name, size, model, shapes, torch)


def torch_to_flax(shape):
  """Return the shape of a kernel with the axes of Flax."""
  if len(shape) == 4:
    return (*shape[2:], shape[1], shape[0])
  return tuple(shape[::-1])


def mixer_name(key):
  """Return google-research's name of an array of timm's Mixer."""
  for theirs, ours in (
    (".", "/"),
    ("blocks/", "MixerBlock_"),
    ("mlp_tokens/fc", "token_mixing/Dense_"),
    ("mlp_channels/fc", "channel_mixing/Dense_"),
    ("Dense_1", "Dense_0"),
    ("Dense_2", "Dense_1"),
    ("norm1", "LayerNorm_0"),
    ("norm2", "LayerNorm_1"),
    ("stem/proj", "stem"),
  ):
    key = key.replace(theirs, ours)
  if key.startswith("norm/"):
    key = f"pre_head_layer_{key}"
  is_norm = "LayerNorm" in key or key.startswith("pre_head")
  return key.replace("weight", "scale" if is_norm else "kernel")


def record_tokens(name, size, model, shapes, torch):
  """Record the logits of a network of timm on images in [-1, 1]."""
  torch.set_num_threads(1)
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
  elif sys.argv[1:] == ["tokens"]:
    nano = {"depth": 6, "embed_dim": 64, "num_classes": 10}
    for name in ("vit_nano4", "vit_nano4_gap"):
      record_vit(name, 32, 4, **nano, num_heads=4, mlp_ratio=2)
    small = {"embed_dim": 384, "num_heads": 6}
    record_vit("vit_s16_gap", 224, 16, **small)
    record_vit("vit_b32", 224, 32, embed_dim=768, num_heads=12)
    nano["num_blocks"] = nano.pop("depth")
    record_mixer("mixer_nano4", 32, 4, **nano, mlp_ratio=(0.5, 2))
    record_mixer("mixer_s16", 224, 16, num_blocks=8, embed_dim=512)
  elif sys.argv[1:] == ["keras"]:
    record_keras(224)
  else:
    sys.exit(__doc__)
