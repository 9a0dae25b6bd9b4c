"""Names, options, sizes and parameter trees of every network."""

import doctest
import functools
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sam_jax.models import (
  Classifier,
  create_model,
  image_size,
  known_models,
  register,
  registry,
  synchronizes_batch_norm,
)
from sam_jax.models.plain_cnn import PlainCNN
from tests import kept
from tests.models.golden_models import GOLDEN, flattened, official_shapes
from tests.models.shapes import init_shapes

COUNTS = json.loads((GOLDEN / "param_counts.json").read_text())
SHAPES = sorted(path.stem for path in (GOLDEN / "shapes").glob("*.json"))


@functools.cache
def variable_shapes(name, classes):
  """Return parameters and batch statistics, name -> shape, uncomputed.

  Tracing large networks takes seconds: this is kept while their code is.
  """
  trace = functools.partial(trace_shapes, name, classes)
  return kept.shapes(f"{name}_{classes}", "sam_jax/models", trace)


# One of each family.
FAMILIES = [
  "wrn10_1",
  "shake_shake_mini",
  "pyramidnet_mini_shakedrop",
  "resnet20",
  "resnet18",
  "efficientnet_tiny",
  "cnn4",
  "vit_nano4",
  "mixer_nano4",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_initial_values_have_the_shapes_and_types_of_zeros(name):
  """`init_shapes`, which the tests use, traces no initializers."""
  model = create_model(name, 10)
  x = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
  init = functools.partial(model.init_with_output, train=False)
  expected = jax.eval_shape(init, jax.random.key(0), x)
  assert init_shapes(model, x, train=False) == expected


def trace_shapes(name, classes):
  x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  _, variables = init_shapes(create_model(name, classes), x, train=False)
  assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(variables))
  return tuple(
    {n: v.shape for n, v in flattened(variables.get(part, {})).items()}
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
def test_plain_cnn_has_as_many_weight_layers_as_its_name_says(name):
  params, _ = variable_shapes(name, 10)
  kernels = [key for key in params if key.endswith("kernel")]
  assert len(kernels) == int(name.removeprefix("cnn"))


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
    ("ViT-Ti_16", "vit_ti16"),
    ("ViT-B_32", "vit_b32"),
    ("Mixer-S_32", "mixer_s32"),
  ],
)
def test_official_names_are_aliases(official, ours):
  assert create_model(official, 10) == create_model(ours, 10)
  assert ours in known_models()


@pytest.mark.parametrize(
  ("name", "size"),
  [
    ("wrn28_10", 32),
    ("resnet32", 32),
    ("resnet50", 224),
    ("efficientnet-b7", 600),
    ("efficientnet_l2", 800),
    ("efficientnet_l2_475", 475),
    ("vit_ti16", 224),
    ("ViT-S_16-gap-norep", 224),
    ("mixer_nano4", 32),
  ],
)
def test_image_size(name, size):
  assert image_size(name) == size


def test_every_name_belongs_to_one_family():
  families = registry.families()
  for name in known_models():
    matches = [
      f for f in families if re.fullmatch(f.pattern, f.aliases.get(name, name))
    ]
    assert len(matches) == 1, name


def test_only_efficientnets_synchronize_batch_norm():
  names = [name for name in known_models() if synchronizes_batch_norm(name)]
  assert names == [n for n in known_models() if n.startswith("efficientnet")]


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("wrn2810", {}, r"'wrn2810'.*Did you mean 'wrn28_10'.*Known: .*resnet50"),
    ("efficientnet-b9", {}, "Did you mean 'efficientnet-b"),
    ("transformer-xxl", {}, "Unknown model 'transformer-xxl'"),
    ("", {}, r"also any cnn\{depth\}, .*, wrn\{depth\}_\{width\}, and package"),
    ("wrn29_10", {}, r"depth is 6n \+ 4"),
    ("wrn4_10", {}, r"depth is 6n \+ 4"),
    ("wrn28_0", {}, "width at least 1"),
    ("pyramidnet270", {}, r"depth is 9n \+ 2"),
    ("cnn3", {}, "at least 4"),
    ("vit_ti0", {}, "a patch has at least 1 pixel"),
    ("mixer_b0", {}, "a patch has at least 1 pixel"),
    ("vit_b15x", {}, r"Did you mean 'vit_b.*any .*vit_\{size\}\{patch\}"),
    ("mixer_s16", {"dropout_rate": 0.1}, "no option 'dropout_rate'"),
    ("resnet50", {"dropout_rate": 0.1}, "no option 'dropout_rate'.*none"),
    ("resnet50", {"normalization": False}, "no option 'normalization'"),
    (
      "wrn10_2",
      {"stochastic_depth_rate": 0.1},
      "it takes additional_skips, dropout_rate, normalization",
    ),
    ("wrn10_2", {"dropout_rate": 1.0}, r"dropout_rate must be in \[0, 1\)"),
    ("wrn10_2", {"dropout_rate": "x"}, r"must be in \[0, 1\), not 'x'"),
    ("wrn10_2", {"batch_norm_groups": [[0]]}, "needs batch_norm_axis"),
    ("wrn10_2", {"num_classes": 0}, "num_classes must be at least 1"),
    ("no_such_file:f", {}, "can't import 'no_such_file' .*PYTHONPATH"),
    (":f", {}, "Unknown model ':f': can't import ''"),
    (".x:f", {}, "Unknown model '.x:f': can't import '.x'"),
    ("math:net", {}, "math has no function or class 'net'"),
    ("math:pi", {}, "math has no function or class 'pi'"),
  ],
)
def test_errors_report_name_and_remedy(name, options, message):
  with pytest.raises(ValueError, match=message) as error:
    create_model(name, **{"num_classes": 10, **options})
  assert "\n" not in str(error.value)


def test_none_is_the_default_of_an_option():
  options = {"dropout_rate": None, "additional_skips": None}
  assert create_model("wrn10_2", 10, **options) == create_model("wrn10_2", 10)
  # An option that the family lacks may be None too.
  assert create_model("cnn8", 10, **options) == create_model("cnn8", 10)
  assert create_model("efficientnet-b7", 10).dropout_rate == 0.5
  changed = create_model("efficientnet-b7", 10, stochastic_depth_rate=0.1)
  assert changed.stochastic_depth_rate == 0.1


NETWORKS = """
from flax import linen as nn
from sam_jax.models import Classifier

class Linear(Classifier):
  scale: float = 1.0

  @nn.compact
  def logits(self, x, settings):
    x = self.scale * x.reshape(len(x), -1)
    return nn.Dense(self.num_classes)(x)

class Wide(Classifier):
  width: int

def linear(num_classes, settings, *, dropout_rate=0.0):
  return Linear(num_classes, settings, 1 - dropout_rate)

def any_linear(num_classes, settings, **options):
  return Linear(num_classes, settings, **options)

def dense(num_classes, settings):
  return nn.Dense(num_classes)

def no_settings(num_classes):
  return nn.Dense(num_classes)
"""


@pytest.fixture
def own_networks(tmp_path, monkeypatch):
  """Write a module of networks outside of this package."""
  (tmp_path / "own_networks.py").write_text(NETWORKS)
  monkeypatch.syspath_prepend(tmp_path)
  yield
  sys.modules.pop("own_networks", None)


@pytest.mark.parametrize(
  ("function", "options", "scale"),
  [
    ("Linear", {}, 1.0),
    ("Linear", {"scale": 3.0}, 3.0),
    ("linear", {"dropout_rate": 0.25}, 0.75),
    ("any_linear", {"scale": 2.0, "dropout_rate": None}, 2.0),
  ],
)
def test_networks_outside_of_the_package(
  own_networks, function, options, scale
):
  name = f"own_networks:{function}"
  model = create_model(name, 5, remat=True, **options)
  assert model.settings.remat and model.scale == scale
  x = np.ones((2, 4, 4, 1), np.float32)
  logits, variables = model.init_with_output(jax.random.key(0), x, train=True)
  kernel = variables["params"]["Dense_0"]["kernel"]
  np.testing.assert_allclose(
    logits, scale * x.reshape(2, -1) @ kernel, rtol=1e-5
  )
  assert image_size(name) is None
  assert not synchronizes_batch_norm(name)


@pytest.mark.parametrize(
  ("function", "options", "message"),
  [
    ("linear", {"depth": 3}, "no option 'depth'; it takes dropout_rate"),
    ("Linear", {"depth": 3}, "no option 'depth'; it takes scale"),
    ("linear", {"dropout_rate": 2}, r"dropout_rate must be in \[0, 1\)"),
    ("Wide", {}, "missing a required argument: 'width'"),
    ("no_settings", {}, r"must take \(num_classes, settings.*too many"),
    ("dense", {}, r"must be a sam_jax.models.Classifier, not a Dense"),
  ],
)
def test_errors_of_networks_outside_of_the_package(
  own_networks, function, options, message
):
  with pytest.raises(ValueError, match=message) as error:
    create_model(f"own_networks:{function}", 5, **options)
  assert "\n" not in str(error.value)


@pytest.fixture
def own_registry(monkeypatch):
  known_models()  # registers the families of the package
  monkeypatch.setattr(registry, "_FAMILIES", {**registry._FAMILIES})


def test_register_makes_a_family_known(own_registry):
  @register(
    r"stack(\d+)(_wide)?",
    names=("stack5",),
    aliases={"Stack": "stack1_wide"},
    general_name="stack{depth}",
    image_size=28,
    synchronized=True,
  )
  def stack(num_classes, settings, depth, wide, *, depth_rate=0.5):
    return PlainCNN(num_classes, settings, depth + 10 * bool(wide))

  assert create_model("stack7", 3).depth == 7
  assert create_model("Stack", 3).depth == 11
  assert image_size("stack4") == 28 and synchronizes_batch_norm("stack4")
  assert {"stack5", "Stack"} <= set(known_models())
  with pytest.raises(ValueError, match=r"'stack5'.*any cnn\{d.*stack\{depth\}"):
    create_model("stack", 3)
  with pytest.raises(ValueError, match="'width'; it takes depth_rate"):
    create_model("stack5", 3, width=3)


def test_the_examples_of_the_docstrings(own_registry):
  names = {"nn": nn, "Classifier": Classifier}
  result = doctest.testmod(registry, extraglobs=names)
  assert result.attempted >= 2 and result.failed == 0
