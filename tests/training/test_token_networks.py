"""SAM on ViTs and Mixers: any m on any devices, masks, pixels, patches."""

import functools

import jax
import numpy as np
import pytest

from sam_jax import masks
from sam_jax.analysis import landscape
from sam_jax.config.schema import ConfigError, default_config
from sam_jax.models import create_model, mlp_mixer, vision_transformer
from sam_jax.training import build, parallel
from sam_jax.training import step as step_lib
from tests.models.golden_models import flattened, quick_state, quick_variables

BATCH = 32
NETWORKS = ["vit_nano4", "mixer_nano4"]


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
  size = vision_transformer.Size(width=16, depth=1, mlp_dim=16, heads=2)
  monkeypatch.setitem(vision_transformer.SIZES, "nano", size)
  size = mlp_mixer.Size(16, 1, 4, 16)
  monkeypatch.setitem(mlp_mixer.SIZES, "nano", size)


def make_config(name, m=None):
  config = default_config()
  config.batch_size = BATCH
  config.model.name = name
  config.dataset.name = "digits"
  config.augment.policy = "none"
  config.optimizer.weight_decay = 0.0
  config.sam.m, config.sam.rho = m, 0.1
  return config


@functools.cache
def initial_state(name):
  """Return the state that every m, mask and number of devices starts from."""
  config = make_config(name)
  parts = build.parts(config, build.dataset_spec(config), 10, 8)
  # The head is 0 at first: start from weights that every layer feels.
  return quick_state(parts, (8, 8, 1))


@functools.cache
def two_steps(name, num_devices, m, dropout_rate=None, mask="all"):
  """Return the state and the metrics after two steps of random images."""
  config = make_config(name, m)
  config.model.dropout_rate, config.sam.mask = dropout_rate, mask
  parts = build.parts(config, build.dataset_spec(config), 10, num_devices)
  state = initial_state(name)
  devices = jax.devices()[:num_devices]
  step = parallel.map_train_step(
    functools.partial(step_lib.train_step, parts=parts), devices
  )
  random = np.random.default_rng(0)
  for _ in range(2):
    shape = (num_devices, BATCH // num_devices)
    labels = random.integers(10, size=shape)
    state, metrics = step(
      state,
      {
        "image": random.normal(size=(*shape, 8, 8, 1)).astype(np.float32),
        "target": np.eye(10, dtype=np.float32)[labels],
      },
    )
  return jax.device_get((state, metrics))


def params_of(name):
  model, image = create_model(name, 10), np.zeros((1, 8, 8, 3))
  return quick_variables(model, image.astype(np.float32))["params"]


def largest_difference(a, b):
  differences = jax.tree.map(lambda x, y: np.max(np.abs(x - y)), a, b)
  return max(jax.tree.leaves(differences))


@pytest.mark.long  # compiles six steps
@pytest.mark.parametrize("name", NETWORKS)
def test_two_steps_with_any_m_are_those_of_one_device(name):
  """m below, at and above the batch of a device; dropout where it can be."""
  results = {}
  for m in (2, 4, 16):
    rate = 0.2 if name.startswith("vit") and m <= 4 else None
    (one, one_metrics), (eight, metrics) = (
      two_steps(name, devices, m, rate) for devices in (1, 8)
    )
    assert largest_difference(one.params, eight.params) < 2e-5
    for key in ("loss", "sam_loss", "perturbation_norm"):
      assert metrics[key] == pytest.approx(one_metrics[key], rel=1e-4)
    assert metrics["perturbation_norm"] == pytest.approx(0.1, rel=1e-4)
    assert eight.batch_stats == {} == one.batch_stats
    results[m] = eight.params
  assert largest_difference(results[4], results[16]) > 1e-3


def chosen(mask, params):
  return {name for name, is_in in flattened(mask(params)).items() if is_in}


@pytest.mark.parametrize("name", NETWORKS)
def test_masks(name):
  params = params_of(name)
  every = set(flattened(params))
  norms = {key for key in every if "LayerNorm" in key or "_norm/" in key}
  assert chosen(masks.normalization, params) == norms
  assert len(norms) == 2 * (2 + 1)  # scale and bias of two in a block, one more
  kernels = {key for key in every if key.endswith("/kernel")}
  assert chosen(masks.kernels, params) == kernels
  scales = {key for key in norms if key.endswith("/scale")}
  assert chosen(masks.weights, params) == kernels | scales


@pytest.mark.parametrize("name", NETWORKS)
def test_sam_on_perturbs_layer_normalization_only(name):
  (state, metrics), (whole, _) = (
    two_steps(name, 8, 16, mask=mask) for mask in ("norm", "all")
  )
  assert metrics["perturbation_norm"] == pytest.approx(0.1, rel=1e-4)
  assert largest_difference(state.params, whole.params) > 1e-4


def test_weight_decay_spares_all_but_kernels():
  """Two gradients of zero move what decays, and nothing else."""
  config = make_config("vit_nano4")
  config.optimizer.name, config.optimizer.learning_rate = "adamw", 0.003
  config.optimizer.weight_decay_kind = "decoupled"
  config.optimizer.weight_decay = 0.3
  config.optimizer.weight_decay_on_norm = False
  parts = build.parts(config, build.dataset_spec(config), 10, 8)
  params = params_of("vit_nano4")
  zeros = jax.tree.map(np.zeros_like, params)
  state = jax.jit(parts.optimizer.init)(params)
  updates, _ = jax.jit(parts.optimizer.update)(zeros, state, params)
  for key, update in flattened(updates).items():
    decays = key.endswith("/kernel")
    expected = -0.003 * 0.3 * flattened(params)[key] * decays
    np.testing.assert_allclose(update, expected, atol=1e-8, err_msg=key)


def test_filters_of_attention_are_its_output_channels():
  params = params_of("vit_nano4")
  direction = flattened(landscape.random_direction(params, seed=0))
  for key, weight in flattened(params).items():
    if not key.endswith("/kernel"):
      assert not direction[key].any(), key
      continue
    is_input = key.split("/")[-2] in ("query", "key", "value")
    axes = 0 if is_input else tuple(range(weight.ndim - 1))
    found, norm = (
      np.sqrt((w**2).sum(axis=axes)) for w in (direction[key], weight)
    )
    np.testing.assert_allclose(found, norm, rtol=1e-4, err_msg=key)


def test_images_consist_of_whole_patches():
  config = make_config("vit_nano3")
  with pytest.raises(ConfigError, match=r"which 8x8 is .* to 9 for"):
    build.validate(config, 8)
  config.dataset.image_size = 9
  build.validate(config, 8)
