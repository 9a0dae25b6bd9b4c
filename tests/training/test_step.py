"""The training step: what m means, what it costs, what it leaves alone."""

import dataclasses
import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import traverse_util

from sam_jax import create_model
from sam_jax.config.schema import default_config
from sam_jax.datasets.catalog import dataset_spec
from sam_jax.m_sharpness import m_sharpness_layout
from sam_jax.models import layers
from sam_jax.training import build, losses, parallel
from sam_jax.training import step as step_lib
from sam_jax.training.parallel import AXIS
from tests.models.golden_models import quick_state

BATCH = 32


class SmoothNet(nn.Module):
  """Batch norm and dropout, but no kinks that amplify rounding."""

  axis: str | None = None
  groups: tuple[tuple[int, ...], ...] | None = None
  dropout_rate: float = 0.0

  @nn.compact
  def __call__(self, x, *, train, true_gradient=False):
    x = nn.Conv(8, (3, 3), use_bias=False)(x)
    x = nn.BatchNorm(
      use_running_average=not train,
      momentum=0.9,
      axis_name=self.axis,
      axis_index_groups=self.groups,
    )(x)
    x = nn.swish(x)
    x = jnp.mean(x, axis=(1, 2))
    x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
    return nn.Dense(10)(x)


def make_config(model="tests.tiny:ConvNet", **sam_fields):
  config = default_config()
  config.dataset.name = "digits"
  config.model.name = model
  config.batch_size = BATCH
  config.num_epochs = 1
  config.sam.update({"rho": 0.5, **sam_fields})
  return config


def make_parts(config, num_devices, model=None):
  parts = build.parts(config, dataset_spec("digits"), 10, num_devices)
  return parts if model is None else dataclasses.replace(parts, model=model)


def create_state(parts):
  return quick_state(parts, (8, 8, 1))


def make_batch(step=0):
  random = np.random.default_rng(step)
  images = random.normal(size=(BATCH, 8, 8, 1)).astype(np.float32)
  targets = np.eye(10, dtype=np.float32)[random.integers(10, size=BATCH)]
  return {"image": images, "target": targets}


def split(batch, num_devices):
  return jax.tree.map(lambda x: x.reshape(num_devices, -1, *x.shape[1:]), batch)


def mapped(parts, num_devices):
  step = functools.partial(step_lib.train_step, parts=parts)
  return parallel.map_train_step(step, jax.devices()[:num_devices])


def train_steps(parts, num_devices, steps):
  """Return the last state, and the metrics after each step."""
  state = create_state(parts)
  step = mapped(parts, num_devices)
  metrics = []
  for i in range(steps):
    state, now = step(state, split(make_batch(i), num_devices))
    metrics.append(now)
  return jax.device_get((state, metrics))


def train(parts, num_devices, steps=3):
  """Return the state and the metrics after some steps."""
  state, metrics = train_steps(parts, num_devices, steps)
  return state, metrics[-1]


def distance(a, b):
  """Largest difference of two trees."""
  differences = jax.tree.map(lambda x, y: np.max(np.abs(x - y)), a, b)
  return max(jax.tree.leaves(differences))


@functools.cache
def trained_with(m, num_devices):
  """Return variables and metrics of three steps; dropout where it can be."""
  layout = m_sharpness_layout(m, BATCH // num_devices, num_devices)
  spans = layout.devices_per_shard > 1
  groups = layout.axis_index_groups if spans else None
  model = SmoothNet(
    axis=AXIS if spans else None,
    groups=groups and tuple(map(tuple, groups)),
    dropout_rate=0.3 if m <= BATCH // 8 else 0.0,
  )
  # Microbatches of our networks are a loop; those of others would be copies.
  parts = make_parts(make_config("cnn4", m=m), num_devices, model)
  state, metrics = train(parts, num_devices)
  return (state.params, state.batch_stats), metrics


@pytest.mark.parametrize(("m", "devices"), [(4, (8,)), (8, (2, 4, 8))])
def test_same_m_trains_the_same_network_on_any_number_of_devices(m, devices):
  """Up to the order of float32 sums: 1e-6 of weights of size 1 in 3 steps.

  m = 4 is one shard on each of 8 devices and 8 microbatches on one; a shard
  of m = 8 spans two of 8 devices. Dropout is drawn shard by shard, so the test
  includes it wherever a shard is on one device.
  """
  one, metrics = trained_with(m, 1)
  for num_devices in devices:
    several, their_metrics = trained_with(m, num_devices)
    assert distance(one, several) < 2e-6
    for name in ("loss", "sam_loss", "perturbation_norm"):
      assert metrics[name] == pytest.approx(their_metrics[name], rel=1e-5)
  other, _ = trained_with(16, 1)
  assert distance(one, other) > 1e-3  # so it can tell one m from another


def test_config_shares_batch_statistics_as_m_says():
  """Compare the statistics of a shard that spans devices."""
  stats = []
  for num_devices in (4, 8):
    parts = make_parts(make_config(m=8, rho=0.0), num_devices)
    state, _ = train(parts, num_devices, steps=1)
    stats.append(state.batch_stats)
  assert distance(*stats) < 1e-6
  config = make_config(m=8, rho=0.0)
  config.model.batch_norm = "device"
  state, _ = train(make_parts(config, 8), 8, steps=1)
  assert distance(stats[0], state.batch_stats) > 1e-3


def test_dropout_differs_between_shards_and_steps():
  class Noise(nn.Module):
    @nn.compact
    def __call__(self, x, *, train, true_gradient=False):
      self.param("w", nn.initializers.zeros, ())
      x = jnp.ones((x.shape[0], 1000))
      return nn.Dropout(0.5, deterministic=not train)(x)[:, :10] * 1.0

  seen = []
  for m, num_devices in ((4, 8), (4, 1)):
    config = make_config("cnn4", m=m, rho=0.0)
    parts = make_parts(config, num_devices, Noise())
    state = create_state(parts)
    step = mapped(parts, num_devices)
    batch = split(make_batch(), num_devices)
    seen.append([])
    for _ in range(2):
      state, metrics = step(state, batch)
      seen[-1].append(float(metrics["loss"]))
  assert seen[0] == pytest.approx(seen[1])  # shards, not devices, decide
  assert seen[0][0] != pytest.approx(seen[0][1])


def compiled_text(parts, num_devices):
  state = create_state(parts)
  batch = split(make_batch(), num_devices)
  return mapped(parts, num_devices).lower(state, batch).compile().as_text()


def count_all_reduces(text):
  return len(re.findall(r"= .* all-reduce(-start)?\(", text))


@pytest.mark.parametrize(("rho", "m"), [(0.0, None), (0.05, None), (0.05, 2)])
def test_one_all_reduce_a_step(rho, m):
  parts = make_parts(make_config(rho=rho, m=m), 8)
  assert count_all_reduces(compiled_text(parts, 8)) == 1


@pytest.mark.parametrize("m", [8, 32])
def test_one_more_all_reduce_where_m_spans_devices(m):
  config = make_config(m=m)
  config.model.batch_norm = "device"
  text = compiled_text(make_parts(config, 8), 8)
  assert count_all_reduces(text) == 2


def plain_sgd(parts, state, batch):
  """SGD written by hand, that knows nothing of SAM."""

  def loss_fn(params):
    logits, updated = parts.model.apply(
      {"params": params, "batch_stats": state.batch_stats},
      batch["image"],
      train=True,
      mutable=["batch_stats"],
    )
    cross_entropy = optax.softmax_cross_entropy(logits, batch["target"])
    return jnp.mean(cross_entropy) + losses.l2_penalty(params, 5e-4), (
      updated["batch_stats"]
    )

  gradient, batch_stats = jax.grad(loss_fn, has_aux=True)(state.params)
  gradient, batch_stats = jax.lax.pmean((gradient, batch_stats), AXIS)
  updates, opt_state = parts.optimizer.update(
    gradient, state.opt_state, state.params
  )
  params = optax.apply_updates(state.params, updates)
  return params, batch_stats, opt_state


def test_no_rho_is_the_plain_sgd_step():
  # In smaller networks the norms that are logged take more than 3% of the work.
  parts = make_parts(make_config("wrn10_1", rho=0.0), 8)
  state = create_state(parts)
  batch = split(make_batch(), 8)
  by_hand = parallel.map_over_devices(
    functools.partial(plain_sgd, parts), in_axes=(None, 0), out_axes=None
  )
  step = mapped(parts, 8)
  sam = mapped(make_parts(make_config("wrn10_1"), 8), 8)
  compiled = [fn.lower(state, batch).compile() for fn in (by_hand, step, sam)]
  flops = [program.cost_analysis()["flops"] for program in compiled]
  convolutions = [p.as_text().count(" convolution(") for p in compiled]
  assert convolutions[1] == convolutions[0] > 0
  # What is left of 3% on this tiny network are the norms that are logged.
  assert flops[1] == pytest.approx(flops[0], rel=0.03)
  assert flops[2] == pytest.approx(2 * flops[0], rel=0.1)
  by_hand, step, _ = compiled
  params, batch_stats, _ = by_hand(state, batch)
  after, _ = step(state, batch)
  assert distance(params, after.params) < 1e-7
  assert distance(batch_stats, after.batch_stats) == 0


def test_statistics_and_metrics_are_those_of_the_first_pass():
  """A SAM step moves batch statistics exactly as an SGD step does."""
  results = [
    train(make_parts(make_config(rho=rho), 8), 8, steps=1) for rho in (0.0, 0.5)
  ]
  (sgd, sgd_metrics), (sam, sam_metrics) = results
  assert distance(sgd.batch_stats, sam.batch_stats) < 1e-6
  for name in ("loss", "error_rate", "gradient_norm"):
    assert sgd_metrics[name] == pytest.approx(sam_metrics[name], rel=1e-6)
  assert np.isnan(sgd_metrics["sharpness"])
  expected = sam_metrics["sam_loss"] - sam_metrics["loss"]
  assert sam_metrics["sharpness"] == pytest.approx(expected, rel=1e-5)
  assert sam_metrics["sharpness"] > 0
  assert distance(sgd.params, sam.params) > 1e-4


class ShakeNet(nn.Module):
  """Two branches mixed at random; notes whose gradient each pass takes."""

  note: Callable[[bool], None] | None = None

  @nn.compact
  def __call__(self, x, *, train, true_gradient=False):
    if self.note is not None:
      self.note(true_gradient)
    x = x.reshape(len(x), -1)
    a, b = (nn.tanh(nn.Dense(10, name=name)(x)) for name in "ab")
    if not train:
      return (a + b) / 2
    draws = layers.draw_shake_shake(self.make_rng("dropout"), len(x))
    gates = [gate[..., 0, 0] for gate in draws]
    return layers.shake_shake(a, b, *gates, true_gradient=true_gradient)


@pytest.mark.parametrize(
  ("fields", "expected"),
  [
    ({"rho": 0.0}, [False]),
    ({}, [True, False]),
    ({"ascent_steps": 3}, [True, True, True, False]),
    ({"second_order": True}, [True, False, True]),
  ],
)
def test_sam_climbs_along_the_true_gradient_and_descends_along_the_other(
  fields, expected
):
  parts = make_parts(make_config(**fields), 1, ShakeNet())
  state = create_state(parts)
  passes = []
  model = ShakeNet(note=passes.append)
  step = functools.partial(
    step_lib.train_step, parts=dataclasses.replace(parts, model=model)
  )
  mapped = jax.vmap(step, in_axes=(None, 0), out_axes=None, axis_name=AXIS)
  jax.eval_shape(mapped, state, split(make_batch(), 1))
  assert passes == expected


def test_steps_between_those_of_sam_are_those_of_sgd():
  sam = make_parts(make_config(every=2), 1, ShakeNet())
  sgd = make_parts(make_config(rho=0.0), 1, ShakeNet())
  state, _ = train(sam, 1, steps=1)
  batch = split(make_batch(1), 1)
  (plain, _), (expected, _) = (mapped(r, 1)(state, batch) for r in (sam, sgd))
  assert distance(plain.params, expected.params) < 1e-7
  assert distance(plain.params, state.params) > 1e-3


def test_metrics_are_means_since_the_last_log_line():
  parts = make_parts(make_config(every=2), 2, SmoothNet())
  each = dataclasses.replace(parts, log_every_steps=1)
  _, singles = train_steps(each, 2, 6)
  _, means = train_steps(dataclasses.replace(parts, log_every_steps=3), 2, 6)
  expected = np.mean([s["loss"] for s in singles[3:]])
  assert means[5]["loss"] == pytest.approx(expected, rel=1e-5)
  # Of the steps 3, 4, 5 only the one in the middle perturbs.
  sharpness = singles[4]["sharpness"]
  assert means[5]["sharpness"] == pytest.approx(sharpness, rel=1e-4)
  assert np.isnan(singles[3]["sharpness"])


@pytest.mark.parametrize("bad_step", [0, 1])
def test_first_non_finite_step_is_remembered(bad_step):
  parts = make_parts(make_config(), 1, SmoothNet())
  parts = dataclasses.replace(parts, log_every_steps=2)
  state = create_state(parts)
  step = mapped(parts, 1)
  for i in range(4):
    batch = make_batch(i)
    if i == bad_step:
      batch["image"][0] = np.nan
    state, metrics = step(state, split(batch, 1))
    assert metrics["diverged_at"] == (bad_step if i >= bad_step else -1)


def test_ema_follows_parameters_and_statistics():
  config = make_config()
  config.ema.decay, config.ema.warmup_steps = 0.5, 0
  parts = make_parts(config, 2, SmoothNet())
  before = create_state(parts)
  after, _ = train(parts, 2, steps=1)
  decay = 2 / 11  # min(0.5, (1 + 1) / (10 + 1))
  for name in ("params", "batch_stats"):
    expected = jax.tree.map(
      lambda a, v: decay * a + (1 - decay) * v,
      before.ema[name],
      getattr(after, name),
    )
    assert distance(after.ema[name], expected) < 1e-6
  assert after.eval_variables().keys() == {"params", "batch_stats"}
  assert after.eval_variables()["params"] is after.ema["params"]


@pytest.mark.parametrize("kind", ["nomask", "mask"])
def test_evaluation_equals_the_official_release(golden, kind):
  recorded = golden("eval_step.npz")
  initial = dict(golden("wide_resnet_mini.npz"))

  def tree(arrays, prefix, fn=lambda x: x):
    return traverse_util.unflatten_dict(
      {
        tuple(n[len(prefix) :].split("/")): fn(arrays[n])
        for n in arrays
        if n.startswith(prefix)
      }
    )

  variables = {
    "params": tree(initial, "params/"),
    "batch_stats": tree(
      dict(recorded), "replica_state/", lambda x: x.mean(axis=0)
    ),
  }
  mask = recorded["mask"] if kind == "mask" else np.ones(8)
  batch = {
    "image": recorded["image"],
    "label": recorded["labels"],
    "mask": mask.astype(np.float32),
  }
  step = functools.partial(
    step_lib.eval_step,
    model=create_model("wrn_mini", 10),
    preprocess=lambda images: images,
  )
  eval_step = parallel.map_eval_step(step, jax.devices()[:4])
  sums = eval_step(variables, split(batch, 4))
  assert sums["count"] == mask.sum()
  np.testing.assert_allclose(sums["loss"], recorded[f"{kind}/loss"], rtol=1e-5)
  np.testing.assert_allclose(
    sums["error_rate"], recorded[f"{kind}/error_rate"], atol=1e-5
  )
  if kind == "nomask":
    assert sums["top_5_error_rate"] == 1  # theirs is negative: a bug
