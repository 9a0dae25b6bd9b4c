"""Names, sizes and parameter trees of every model."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.models import create_model, image_size, known_models
from tests.models.golden_models import GOLDEN, flattened, official_shapes

COUNTS = json.loads((GOLDEN / "param_counts.json").read_text())
SHAPES = sorted(path.stem for path in (GOLDEN / "shapes").glob("*.json"))


@functools.cache
def variable_shapes(name, classes):
  """Flat `(params, batch_stats)` name -> shape, without computing anything."""
  model = create_model(name, classes)
  variables = jax.eval_shape(
    lambda x: model.init({"params": jax.random.key(0)}, x, train=False),
    jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32),
  )
  assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(variables))
  return tuple(
    {name: leaf.shape for name, leaf in flattened(variables[part]).items()}
    for part in ("params", "batch_stats")
  )


def total(shapes):
  return sum(int(np.prod(shape)) for shape in shapes.values())


@pytest.mark.parametrize("entry", sorted(COUNTS))
def test_parameter_counts_equal_the_official_ones(entry):
  expected = COUNTS[entry]
  name = entry.split("/")[0]
  params, stats = variable_shapes(name, expected["num_classes"])
  assert total(params) == expected["params"]
  assert len(params) == expected["num_param_arrays"]
  assert total(stats) == expected["bn_state_values"]
  assert len(stats) == expected["num_state_arrays"]


@pytest.mark.parametrize("name", SHAPES)
def test_names_and_shapes_equal_the_official_ones(name):
  spec = json.loads((GOLDEN / "shapes" / f"{name}.json").read_text())
  params, stats = variable_shapes(name, spec["num_classes"])
  assert (params, stats) == official_shapes(name)


@pytest.mark.parametrize(
  ("name", "classes", "count"),
  [
    ("resnet32", 10, 464_154),  # He et al., table 6: 0.46M
    ("resnet18", 1000, 11_689_512),  # torchvision's counts
    ("resnet34", 1000, 21_797_672),
    ("resnet200", 1000, 64_673_832),
    # Most implementations have 1x1 convolutions as shortcuts; ours has none.
    ("wrn16_8", 10, 10_961_370 - (16 * 128 + 128 * 256 + 256 * 512)),
  ],
)
def test_parameter_counts_from_elsewhere(name, classes, count):
  params, _ = variable_shapes(name, classes)
  assert total(params) == count


@pytest.mark.parametrize("name", ["cnn36", "cnn39"])
def test_plain_cnn_has_as_many_weight_layers_as_it_says(name):
  params, _ = variable_shapes(name, 10)
  kernels = [key for key in params if key.endswith("kernel")]
  assert len(kernels) == int(name.removeprefix("cnn"))


def canonical_names():
  # Larger members of a family run the same code, and take longer to trace.
  large = re.compile("272|110|b[1-8]|l2|101|152|200")
  return [
    name for name in known_models() if name.islower() and not large.search(name)
  ]


@pytest.mark.parametrize("name", canonical_names())
def test_every_family_takes_digits(name):
  model = create_model(name, 7)

  def forward(x):
    variables = model.init({"params": jax.random.key(0)}, x, train=False)
    return model.apply(
      variables,
      x,
      train=True,
      true_gradient=True,
      rngs={"dropout": jax.random.key(1)},
      mutable=["batch_stats"],
    )[0]

  x = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
  logits = jax.eval_shape(forward, x)
  assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)


@pytest.mark.parametrize(
  ("official", "ours"),
  [
    ("WideResnet28x10", "wrn28_10"),
    ("WideResnet_mini", "wrn_mini"),
    ("WideResnet28x6_ShakeShake", "shake_shake_26_2x96d"),
    ("WideResnet_ShakeShake_mini", "shake_shake_mini"),
    ("Pyramid_ShakeDrop", "pyramidnet272_shakedrop"),
    ("Pyramid_ShakeDrop_mini", "pyramidnet_mini_shakedrop"),
    ("Resnet200", "resnet200"),
    ("CNN36", "cnn36"),
    ("efficientnet-l2-475", "efficientnet_l2_475"),
  ],
)
def test_official_names_are_aliases(official, ours):
  assert create_model(official, 10) == create_model(ours, 10)
  assert ours in known_models()


def test_shake_drop_is_optional():
  assert create_model("pyramidnet272_shakedrop", 10).shake_drop
  assert not create_model("pyramidnet272", 10).shake_drop
  assert not create_model("pyramidnet_mini", 10).shake_drop


@pytest.mark.parametrize(
  ("name", "size"),
  [
    ("wrn28_10", 32),
    ("resnet32", 32),
    ("resnet50", 224),
    ("efficientnet-b7", 600),
    ("efficientnet_l2", 800),
    ("efficientnet_l2_475", 475),
  ],
)
def test_image_size(name, size):
  assert image_size(name) == size


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("wrn2810", {}, r"'wrn2810'.*Did you mean 'wrn28_10'.*Known: .*resnet50"),
    ("efficientnet-b9", {}, "Did you mean 'efficientnet-b"),
    ("transformer-xxl", {}, "Unknown model 'transformer-xxl'"),
    ("wrn29_10", {}, r"depth is 6n \+ 4"),
    ("wrn4_10", {}, r"depth is 6n \+ 4"),
    ("wrn28_0", {}, "width at least 1"),
    ("pyramidnet270", {}, r"depth is 9n \+ 2"),
    ("cnn3", {}, "at least 4"),
    ("resnet50", {"dropout_rate": 0.1}, "no option 'dropout_rate'.*none"),
    ("resnet50", {"normalisation": False}, "no option 'normalisation'"),
    ("wrn10_2", {"stochastic_depth_rate": 0.1}, "additional_skips"),
    ("wrn10_2", {"dropout_rate": 1.0}, r"dropout_rate must be in \[0, 1\)"),
    ("wrn10_2", {"batch_norm_groups": [[0]]}, "needs batch_norm_axis"),
    ("wrn10_2", {"num_classes": 0}, "num_classes must be at least 1"),
  ],
)
def test_errors_say_what_is_wrong(name, options, message):
  with pytest.raises(ValueError, match=message):
    create_model(name, **{"num_classes": 10, **options})
