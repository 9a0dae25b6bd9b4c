"""Masks of parameters by what they are."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx

from sam_jax import create_model, masks


@pytest.fixture(scope="module")
def params():
  model = create_model("wrn_mini", 10)
  images = jnp.zeros((1, 8, 8, 3))
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), images, train=False)
  )
  return shapes["params"]


@pytest.mark.parametrize(
  ("mask", "expected"),
  [
    (masks.everything, lambda leaf: True),
    (masks.weights, lambda leaf: "bias" not in leaf),
    (masks.kernels, lambda leaf: "kernel" in leaf),
    (
      masks.normalization,
      lambda leaf: "kernel" not in leaf and "Dense" not in leaf,
    ),
  ],
)
def test_masks_of_a_wide_resnet(params, mask, expected):
  found = jax.tree_util.tree_leaves_with_path(mask(params))
  assert found
  for path, is_chosen in found:
    leaf = jax.tree_util.keystr(path)
    assert is_chosen == expected(leaf), leaf


def test_biases_of_attention_heads_are_no_kernels():
  model = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4)
  x = jnp.zeros((1, 3, 4))
  params = model.init(jax.random.key(0), x, x)["params"]
  assert params["query"]["bias"].ndim == 2
  mask = masks.kernels(params)
  assert mask["query"] == {"kernel": True, "bias": False}


def test_variables_of_nnx_are_seen_through():
  state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
  found = jax.tree.leaves(masks.weights(state))
  assert found == [False, True]  # bias, kernel
