"""ResNets of ImageNet against official numbers; of CIFAR, a plain block."""

import jax
import numpy as np
import pytest

from sam_jax.models import LayerSettings, create_model
from sam_jax.models.resnet import CifarBlock
from tests.models.golden_models import (
  block_variables,
  flattened,
  full_size,
)
from tests.models.passes import conv, eval_pass, images, norm, train_pass


def test_full_size_eval_logits():
  golden, variables, x = full_size("resnet50_rule", "Resnet50", 1.4)
  logits = eval_pass(create_model("Resnet50", 1000), variables, x)
  error = np.abs(logits - golden["logits_eval"]).max()
  assert error <= 4 * golden["logits_eval_noise"]


def test_full_size_training_pass():
  golden, variables, x = full_size("resnet50_rule", "Resnet50", 1.4)
  logits, stats = train_pass(create_model("resnet50", 1000), variables, x)
  scale = np.abs(golden["logits_train"]).max()
  np.testing.assert_allclose(logits, golden["logits_train"], atol=1e-3 * scale)
  stats = flattened(stats)
  for name, expected in zip(
    golden["new_state_names"], golden["new_state_sums"], strict=True
  ):
    values = np.asarray(stats[str(name).removeprefix("state/")], np.float64)
    total = values.sum()
    np.testing.assert_allclose(total, expected, 1e-4, 1e-4, err_msg=str(name))


@pytest.mark.parametrize("shortcut", [False, True])
def test_cifar_block(shortcut):
  x = images(2, 8, 8, 3)
  block = CifarBlock(5, (2, 2), shortcut, LayerSettings())
  variables = block_variables(block, x)
  params, stats = variables["params"], variables["batch_stats"]
  y = norm(
    conv(x, params["Conv_0"], 2), params["BatchNorm_1"], stats["BatchNorm_1"]
  )
  y = conv(jax.nn.relu(y), params["Conv_2"])
  y = norm(y, params["BatchNorm_3"], stats["BatchNorm_3"])
  if shortcut:
    y = y.at[..., :3].add(x[:, ::2, ::2])
  actual = block.apply(variables, x)
  np.testing.assert_allclose(actual, jax.nn.relu(y), rtol=1e-4, atol=1e-5)
