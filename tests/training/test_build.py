"""From a config to parts: methods and optimizers that plug in."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sam_jax import methods
from sam_jax.config.schema import ConfigError, default_config
from sam_jax.datasets.catalog import dataset_spec
from sam_jax.training import build, input_pipeline, loop, parallel
from sam_jax.training.step import create_state, train_step
from tests import tiny
from tests.models.golden_models import quick_state, quick_variables

SPEC = dataset_spec("digits")
OWN_METHOD = '''
import jax
import optax

from sam_jax import sharpness_aware


def halfway(rho, *, weight=0.5, **kwargs):
  """Descend along (1 - weight) * g + weight * g_SAM; the state is a chain's."""
  sam = sharpness_aware(rho, **kwargs)

  def update_fn(updates, state, params=None, **extra_args):
    sam_updates, sam_state = sam.update(updates, state[0], params, **extra_args)
    updates = jax.tree.map(
      lambda g, s: (1 - weight) * g + weight * s, updates, sam_updates
    )
    return updates, (sam_state, optax.EmptyState())

  return optax.GradientTransformationExtraArgs(
    lambda params: (sam.init(params), optax.EmptyState()), update_fn
  )


def gradient_only(rho, *, has_value, sync, mask):
  """Know nothing of SAM: any transformation of optax is a method."""
  return optax.scale(rho)
'''


@pytest.fixture
def own_file(tmp_path, monkeypatch):
  """A file of methods outside the repository, on PYTHONPATH."""
  (tmp_path / "own_methods.py").write_text(OWN_METHOD)
  monkeypatch.syspath_prepend(tmp_path)


def make_config(method="sam", options=(), **sam_fields):
  config = tiny.create_config()
  config.batch_size, config.log_every_steps = 32, 1
  config.optimizer.weight_decay = 0.0
  config.sam.update({"method": method, "rho": 0.5, **sam_fields})
  config.sam.options.update(dict(options))
  return config


RESULTS = {}  # of one_step: tests share many of them


def one_step(config, num_devices=8, steps=1):
  """Return the state and the metrics after steps of a perceptron."""
  key = config.to_json_best_effort(), num_devices, steps
  if key not in RESULTS:
    RESULTS[key] = take_steps(config, num_devices, steps)
  return RESULTS[key]


def take_steps(config, num_devices, steps):
  parts = build.parts(config, SPEC, 10, num_devices)
  parts = dataclasses.replace(parts, model=tiny.create_model())
  devices = jax.devices()[:num_devices]
  state = parallel.replicate(quick_state(parts, (8, 8, 1)), devices)
  step = parallel.map_train_step(
    functools.partial(train_step, parts=parts), devices
  )
  batch = parallel.shard(make_batch(), devices)
  results = []
  for _ in range(steps):
    state, metrics = step(state, batch)
    results.append(metrics)
  return jax.device_get((state, results[-1]))


def make_batch():
  random = np.random.default_rng(0)
  return {
    "image": random.normal(size=(32, 8, 8, 1)).astype(np.float32),
    "target": np.eye(10, dtype=np.float32)[random.integers(10, size=32)],
  }


OPTIONS = {
  "every_k": {"every": 2},
  "gsam": {"surrogate_gap": 0.2},
  "look_sam": {"every": 2},
}


# The perceptron has no normalization layers for SAM-ON to perturb.
@pytest.mark.parametrize(
  "method", ["sam", *sorted({*methods.__all__} - {"sam_on"})]
)
def test_every_method_trains_the_same_on_any_number_of_devices(method):
  """m = 2 is two microbatches on each of 8 devices, and 16 on one.

  What a method remembers is averaged over shards with the gradient.
  """
  config = make_config(method, m=2, **OPTIONS.get(method, {}))
  (one, one_metrics), (eight, metrics) = one_step(config, 1), one_step(config)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    *((s.params, s.sam_state) for s in (one, eight)),
  )
  assert metrics["loss"] == pytest.approx(one_metrics["loss"], rel=1e-5)
  if method not in ONE_GRADIENT:  # they remember nothing at the first step
    assert metrics["perturbation_norm"] > 0
    assert metrics["sharpness"] > 0


ONE_GRADIENT = ("momentum_sam", "single_step_sam")


@pytest.mark.parametrize("method", ONE_GRADIENT)
def test_one_gradient_is_taken_at_the_perturbed_point(method):
  """In the second step; a step with rho = 0 there has another loss."""
  (_, plain), (_, sam) = (
    one_step(make_config(method, rho=rho), steps=2) for rho in (0.0, 5.0)
  )
  assert abs(sam["loss"] - plain["loss"]) > 0.01
  assert sam["perturbation_norm"] == pytest.approx(5.0, rel=1e-4)
  assert np.isnan(sam["sharpness"])


@pytest.mark.parametrize("m", [2, 4, 16])  # of 4 examples on a device
@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_ascent_on_a_part_is_the_same_on_any_number_of_devices(m, fraction):
  config = make_config(m=m, ascent_fraction=fraction)
  (one, _), (eight, _) = one_step(config, 1), one_step(config)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    *(one.params, eight.params),
  )


def test_ascent_on_a_part_equals_its_closed_form():
  """The gradient at w + eps of all, with eps along that of every other one."""
  config = make_config(m=32, ascent_fraction=0.5)
  config.optimizer.gradient_clipping = 0.0
  model = tiny.create_model()
  parts = dataclasses.replace(build.parts(config, SPEC, 10, 1), model=model)
  params, batch = quick_state(parts, (8, 8, 1)).params, make_batch()

  def loss(params, examples):
    logits = model.apply({"params": params}, examples["image"], train=True)
    losses = optax.softmax_cross_entropy(logits, examples["target"])
    return losses.mean()

  rate = config.optimizer.learning_rate * (1 + config.optimizer.momentum)

  @jax.jit
  def sam_step(params):
    half = jax.tree.map(lambda x: x[::2], batch)
    first_loss, first = jax.value_and_grad(loss)(params, half)
    scale = config.sam.rho / optax.tree.norm(first)
    perturbed = optax.tree.add_scale(params, scale, first)
    gradient = jax.grad(loss)(perturbed, batch)
    return first_loss, optax.tree.add_scale(params, -rate, gradient)

  first_loss, expected = sam_step(params)
  state, metrics = one_step(config, 1)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    *(state.params, expected),
  )
  assert metrics["loss"] == pytest.approx(float(first_loss), rel=1e-5)


def test_random_direction_is_the_same_on_any_number_of_devices():
  config = make_config(m=2, random_direction=True)
  (one, metrics), (eight, _) = one_step(config, 1), one_step(config)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    *(one.params, eight.params),
  )
  # Next to the gradient, a normal draw hardly climbs.
  climbed = one_step(make_config(m=2), 1)[1]["sharpness"]
  assert abs(metrics["sharpness"]) < 0.2 * climbed
  assert metrics["perturbation_norm"] == pytest.approx(config.sam.rho)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (
      {"ascent_fraction": 0.3},
      "ascent_fraction = 0.3 does not divide the 4 examples of a device that"
      " share a perturbation; it can be 1, 0.5, 0.25.",
    ),
    ({"ascent_fraction": 0.5, "m": 1}, "does not divide the 1 example of"),
    (
      {"ascent_fraction": 0.5, "method": "momentum_sam"},
      "config.sam.method = 'momentum_sam' may descend along it: set it to 1.0",
    ),
    (
      {"ascent_steps": 2, "method": "single_step_sam"},
      "single_step_sam has no use for ascent_steps = 2",
    ),
    ({"method": "ae_sam"}, "'ae_sam' lets every shard choose its steps of SAM"),
  ],
)
def test_methods_that_do_not_fit_are_refused(fields, message):
  config = make_config(**fields)
  config.model.batch_norm = "all" if fields == {"method": "ae_sam"} else None
  with pytest.raises(ConfigError) as error:
    build.validate(config, 8)
  assert message in str(error.value)


def test_a_method_in_a_file_of_ones_own(own_file):
  plain, _ = one_step(make_config(rho=0.0))
  sam, _ = one_step(make_config(m=4))  # all of a device: the default
  config = make_config("own_methods:halfway", {"weight": 0.25})
  config.optimizer.gradient_clipping = 0.0
  ours, metrics = one_step(config)
  expected = jax.tree.map(
    lambda a, b: 0.75 * a + 0.25 * b, plain.params, sam.params
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    ours.params,
    expected,
  )
  assert metrics["perturbation_norm"] == pytest.approx(0.5, rel=1e-5)
  assert metrics["sharpness"] == pytest.approx(
    metrics["sam_loss"] - metrics["loss"], rel=1e-4
  )


@jax.jit
def sigmoid_loss(params, images, labels):
  """Return the mean loss of the perceptron."""
  logits = tiny.Perceptron().apply({"params": params}, images, train=False)
  targets = jax.nn.one_hot(labels, 10)
  return optax.sigmoid_binary_cross_entropy(logits, targets).sum(1).mean()


def test_sam_with_a_sigmoid_climbs_and_descends_along_that_loss():
  config = make_config(m=32)
  config.loss = "sigmoid"
  state, metrics = one_step(config, 1)
  batch = make_batch()
  examples = batch["image"], batch["target"].argmax(1)

  @jax.jit
  def sam_step(params):
    loss, gradient = jax.value_and_grad(sigmoid_loss)(params, *examples)
    scale = 0.5 / optax.tree.norm(gradient)
    perturbed = optax.tree.add_scale(params, scale, gradient)
    sam_loss, gradient = jax.value_and_grad(sigmoid_loss)(perturbed, *examples)
    # Nesterov's first step, without clipping at 5.
    scale = jnp.minimum(1, 5 / optax.tree.norm(gradient))
    updated = optax.tree.add_scale(params, -0.1 * 1.9 * scale, gradient)
    return loss, sam_loss, updated

  params = quick_variables(tiny.Perceptron(), examples[0])["params"]
  loss, sam_loss, updated = sam_step(params)
  assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
  assert metrics["sam_loss"] == pytest.approx(float(sam_loss), rel=1e-4)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
    state.params,
    updated,
  )


def test_the_loss_of_evaluations_is_that_of_training(tmp_path, monkeypatch):
  monkeypatch.setattr(build, "model", tiny.create_model)
  monkeypatch.setattr(input_pipeline, "create_dataset", tiny.create_dataset)
  config = make_config()
  config.loss, config.optimizer.learning_rate = "sigmoid", 0.0
  result = loop.train_and_evaluate(config, tmp_path / "run")
  data = tiny.create_dataset(config)
  state = create_state(
    dataclasses.replace(
      build.parts(config, SPEC, 1, 8), model=tiny.create_model()
    ),
    (8, 8, 1),
    0,
  )
  batches = list(data.eval_batches("test"))
  images, labels = (
    np.concatenate([b[name] for b in batches]) for name in ("image", "label")
  )
  images = build.preprocess_fn(SPEC)(images)
  expected = sigmoid_loss(state.params, images, labels)
  assert result["loss"] == pytest.approx(float(expected), rel=1e-5)
  assert result["loss"] > 5  # of ten classes; a softmax has 2.3
  apply = jax.jit(functools.partial(tiny.Perceptron().apply, train=False))
  logits = apply({"params": state.params}, images)
  assert result["error_rate"] == np.mean(logits.argmax(1) != labels)


def test_any_transformation_is_a_method(own_file):
  """Without SAM's scalars in its state, they are not measured."""
  config = make_config("own_methods:gradient_only")
  state, metrics = one_step(config)
  for name in ("sharpness", "perturbation_norm", "gradient_cosine", "sam_loss"):
    assert np.isnan(metrics[name])
  assert np.isfinite(metrics["loss"])
  assert metrics["diverged_at"] == -1
  assert isinstance(state.sam_state, optax.ScaleState | optax.EmptyState)


def test_whole_run_with_a_method_of_ones_own(own_file, tmp_path, monkeypatch):
  monkeypatch.setattr(build, "model", tiny.create_model)
  monkeypatch.setattr(input_pipeline, "create_dataset", tiny.create_dataset)
  config = make_config("own_methods:halfway", {"weight": 0.25})
  result = loop.train_and_evaluate(config, tmp_path / "run")
  assert result["step"] == 2
  assert np.isfinite(result["loss"])


@pytest.mark.parametrize(("devices", "m"), [(1, 256), (8, 32)])
def test_no_m_is_recorded_as_the_number_it_stands_for(devices, m):
  config = default_config()
  assert build.validate(config, devices).sam.m == m
  assert config.sam.m is None  # the caller's config stays


@pytest.mark.parametrize(
  ("m", "devices", "examples"),
  [(None, 1, 256), (None, 8, 32), (16, 8, 16), (256, 8, 32), (256, 4, 64)],
)
def test_batch_statistics_of_a_device_are_recorded(m, devices, examples):
  config = default_config()
  assert build.validate(config, devices).model.batch_norm_examples is None
  config.model.batch_norm, config.sam.m = "device", m
  recorded = build.validate(config, devices)
  assert recorded.model.batch_norm_examples == examples
  assert build.validate(recorded, devices) == recorded
  recorded.model.batch_norm_examples += 1
  with pytest.raises(ConfigError, match=f"_examples = .* it is {examples}"):
    build.validate(recorded, devices)


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_symmetric_pixels_are_those_of_advprop(name):
  config = default_config()
  config.dataset.name = name
  config.dataset.normalization = "symmetric"
  spec = build.dataset_spec(config)
  images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  images = np.broadcast_to(images, (1, 16, 16, spec.image_shape[2]))
  spec = spec.with_image_size(16)
  np.testing.assert_allclose(
    build.preprocess_fn(spec)(images), 2.0 * images / 255 - 1, atol=1e-6
  )
