"""Vision Transformers and MLP-Mixers: sizes, costs, initial values, options."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.models import create_model, mlp_mixer, vision_transformer
from sam_jax.models.summary import size
from tests import kept
from tests.models.golden_models import flattened, quick_variables
from tests.models.passes import (
  assert_trees_close,
  eval_pass,
  fast_key,
  forward,
  images,
)
from tests.models.shapes import init_shapes

# Parameters with 1000 classes: models_test.py of google-research's
# vision_transformer; for the small Mixers the tables of Chen et al. (2022) have
# 18.5 and 19.1 million. Billions of multiply-adds at 224 pixels: DeiT's table 5
# (Ti, S, B), tables of timm.
SIZES = {
  "vit_ti16": (5_717_416, 1.26),
  "vit_s16": (22_050_664, 4.6),
  "vit_s16_gap": (22_049_896, None),
  "vit_s32": (22_878_952, 1.14),
  "vit_b16": (86_567_656, 17.6),
  "vit_b32": (88_224_232, 4.41),
  "vit_b32_gap": (88_222_696, None),
  "vit_b8": (86_576_872, None),
  "vit_l16": (304_326_632, None),
  "vit_l32": (306_535_400, None),
  "mixer_s16": (18_528_264, 3.79),
  "mixer_s32": (19_104_624, 1.00),
  "mixer_b16": (59_880_472, 12.62),
  "mixer_b32": (60_293_428, 3.24),
  "mixer_l16": (208_196_168, None),
}


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_cost_are_those_of_the_papers(name):
  count, multiply_adds = SIZES[name]
  # Tracing large networks takes seconds: this is kept while their code is.
  collections, found_count, flops = kept.value(
    f"sizes/{name}", "sam_jax/models", functools.partial(trace_size, name)
  )
  assert collections == ["params"]
  assert found_count == count
  if multiply_adds is not None:
    # XLA also counts softmax, GELU and normalization.
    assert 0.99 < flops / (2e9 * multiply_adds) < 1.025


def trace_size(name):
  """Return the names of collections, the number of parameters and FLOPs."""
  model = create_model(name, 1000)
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  _, shapes = init_shapes(model, image, train=False)
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  if SIZES[name][1] is None:
    return list(shapes), count, None
  counted = size(model, (224, 224, 3))
  assert counted.parameters == count
  return list(shapes), count, counted.flops


@functools.cache
def initialized(name):
  """Return logits and parameters of a network that starts with a bias.

  Not as one program: blocks that are equal share the programs of their layers.
  """
  model = create_model(name, 10, head_bias=-10.0)
  x = images(2, 16, 16, 3)
  logits, variables = model.init_with_output(fast_key(0), x, train=False)
  return logits, flattened(variables["params"])


@pytest.mark.parametrize("name", ["vit_nano4", "vit_nano4_gap", "mixer_nano4"])
def test_a_bias_of_the_head_makes_all_classes_improbable(name):
  logits, _ = initialized(name)
  np.testing.assert_array_equal(logits, np.full((2, 10), -10.0))
  with pytest.raises(ValueError, match="could not convert string to float"):
    create_model(name, 10, head_bias="low")


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    (
      "vit_nano4",
      {
        "embedding/kernel": 48**-0.5,
        "embedding/bias": 0,
        "cls": 0,
        "Transformer/posembed_input/pos_embedding": 0.02,
        "MlpBlock_0/Dense_0/kernel": (2 / (64 + 128)) ** 0.5,
        "MlpBlock_0/Dense_1/bias": 1e-6,
        "query/kernel": 64**-0.5,
        "out/kernel": 64**-0.5,
        "value/bias": 0,
        "head/kernel": 0,
      },
    ),
    (
      "mixer_nano4",
      {
        "stem/kernel": 48**-0.5,
        "token_mixing/Dense_0/kernel": 16**-0.5,
        "channel_mixing/Dense_1/kernel": 128**-0.5,
        "channel_mixing/Dense_1/bias": 0,
        "head/kernel": 0,
      },
    ),
  ],
)
def test_initial_values_are_those_of_google_research(name, expected):
  _, params = initialized(name)
  for ending, std in expected.items():
    found = [v for key, v in params.items() if key.endswith(ending)]
    assert found
    values = np.concatenate([np.ravel(v) for v in found])
    assert values.std() == pytest.approx(std, rel=0.1)
    assert abs(values.mean()) <= 4 * std / math.sqrt(values.size)


@pytest.fixture
def one_block(monkeypatch):
  for module in (vision_transformer, mlp_mixer):
    size = module.SIZES["nano"]._replace(depth=1)
    monkeypatch.setitem(module.SIZES, "nano", size)


def test_dropout_is_that_of_its_places(one_block, monkeypatch):
  """Expect noise on tokens, in and after attention, twice in the perceptron."""
  x = images(4, 8, 8, 3)
  variables = quick_variables(create_model("vit_nano4", 10), x)
  plain = eval_pass(create_model("vit_nano4", 10), variables, x)
  draw, draws = jax.random.bernoulli, []

  def count(key, probability, shape):
    draws.append(probability)
    return draw(key, probability, shape)

  monkeypatch.setattr(jax.random, "bernoulli", count)
  for rates, expected in (
    ({}, []),
    ({"dropout_rate": 0.25}, [0.75] * (1 + 3)),
    ({"attention_dropout_rate": 0.5}, [0.5]),
  ):
    draws.clear()
    model = create_model("vit_nano4", 10, **rates)
    # Not `train_pass`, whose program may not have been traced here.
    logits, _ = forward(model, train=True)(variables, x, fast_key(1))
    assert draws == expected
    assert np.allclose(logits, plain, atol=1e-5) == (not rates)


def test_remat_and_bfloat16_compute_the_same(one_block):
  x = images(2, 8, 8, 3)
  for name in ("vit_nano4", "mixer_nano4"):
    plain = create_model(name, 10)
    variables = quick_variables(plain, x)

    def gradient(model, variables=variables):
      def loss(params):
        logits = model.apply({"params": params}, x, train=True)
        return jnp.sum(np.sin(np.arange(20.0)) * logits.ravel()), logits

      return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    again = create_model(name, 10, remat=True, precision="highest")
    exact, logits = gradient(plain)
    assert_trees_close(gradient(again)[0], exact, rtol=1e-3, atol=1e-4)
    rough = create_model(name, 10, dtype=jnp.bfloat16)
    error = abs(eval_pass(rough, variables, x) - logits).max()
    assert 0 < error < 0.1 * abs(logits).max()
