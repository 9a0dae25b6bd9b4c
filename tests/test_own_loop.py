"""The loops of docs/own_loop.md, each against the mathematics in NumPy."""

import contextlib
import functools
import io
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.processes import REPOSITORY

PAGE = (REPOSITORY / "docs/own_loop.md").read_text()
STEPS, RHO, RATE = 41, 0.05, 0.05


def blocks(text):
  return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def section(heading):
  """Run the first block of the page and one section; yield after each block."""
  module = types.ModuleType(heading)
  sys.modules[module.__name__] = module  # Linen looks up the module of a class
  start, *sections = PAGE.split("\n## ")
  (text,) = (text for text in sections if text.startswith(f"{heading}\n"))
  for block in blocks(start):
    exec(block, vars(module))
  for block in blocks(text):
    with contextlib.redirect_stdout(io.StringIO()):
      exec(block, vars(module))
    yield module


def gradient(w, x, y):
  """Return the gradient of the mean squared error of a linear model."""
  residual = x @ w[:-1] + w[-1] - y
  return 2 / len(x) * np.append(x.T @ residual, residual.sum())


def reference(module, shards=1, clip=np.inf, rate=None, rho=None):
  """Train by SAM and momentum in float64; return kernel and bias as [9]."""
  x, y = (np.asarray(a, np.float64) for a in (module.x, module.y))
  w, momentum = np.zeros(9), np.zeros(9)
  for t in range(STEPS):
    total = np.zeros(9)
    for x_i, y_i in zip(np.split(x, shards), np.split(y, shards), strict=True):
      g = gradient(w, x_i, y_i)
      radius = rho(t) if rho else RHO
      total += gradient(w + radius * g / np.linalg.norm(g), x_i, y_i) / shards
    total *= min(1, clip / np.linalg.norm(total))
    momentum = 0.9 * momentum + total
    w = w - (rate(t) if rate else RATE) * momentum
  return w


def trained(module):
  """Return the page's kernel and bias as [9]."""
  return np.append(module.trained["kernel"], module.trained["bias"])


@pytest.mark.parametrize(
  ("heading", "count"),
  [("One device: jit", 1), ("Flax: TrainState and NNX", 2)],
)
def test_loops_of_one_device(heading, count):
  found = 0
  for module in section(heading):
    np.testing.assert_allclose(trained(module), reference(module), atol=1e-5)
    found += 1
  assert found == count


@pytest.mark.parametrize(
  ("heading", "count"),
  [
    ("Several devices: shard_map", 2),
    ("Several devices: jit with sharded arrays", 2),
  ],
)
def test_loops_of_several_devices(heading, count):
  """Each device has a perturbation of its own; all ways to map agree."""
  found = 0
  for module in section(heading):
    assert module.mesh.size == 8
    expected = reference(module, shards=8, clip=5.0)
    np.testing.assert_allclose(trained(module), expected, atol=1e-5)
    assert np.abs(expected - reference(module, clip=5.0)).max() > 1e-4
    found += 1
  assert found == count


def test_pmap_takes_the_step_of_shard_map():
  module = next(section("Several devices: shard_map"))
  step = jax.pmap(
    module.device_step, "batch", in_axes=(None, None, 0, 0), out_axes=(None, 0)
  )
  params = module.params
  opt_state = module.optimizer.init(params)
  shards = [a.reshape(8, 8, *a.shape[1:]) for a in (module.x, module.y)]
  for _ in range(STEPS):
    params, opt_state = step(params, opt_state, *shards)
    # Virtual CPU devices block each other with 32 steps in flight.
    opt_state = jax.device_get(jax.tree.map(lambda a: a[0], opt_state))
  actual = np.append(params["kernel"], params["bias"])
  np.testing.assert_allclose(actual, trained(module), atol=1e-6)


def test_fsdp_keeps_a_part_on_each_device():
  *_, module = section("Several devices: jit with sharded arrays")
  (momentum,) = (
    leaf for leaf in jax.tree.leaves(module.opt_state[1]) if leaf.shape == (8,)
  )
  for array in (module.trained["kernel"], momentum):
    assert {s.data.shape for s in array.addressable_shards} == {(1,)}
    assert len({s.device for s in array.addressable_shards}) == 8
  sam_state = module.opt_state[0]
  assert sam_state.count == STEPS
  assert sam_state.perturbation_norm == pytest.approx(RHO, rel=1e-5)


def test_accumulation_has_a_perturbation_for_each_microbatch():
  (module,) = section("Gradient accumulation")
  expected = reference(module, shards=4)
  np.testing.assert_allclose(trained(module), expected, atol=1e-5)


def test_mixed_precision_perturbs_in_float32():
  (module,) = section("Mixed precision")
  np.testing.assert_allclose(trained(module), reference(module), atol=0.02)
  dtypes = {a.dtype for a in jax.tree.leaves(module.trained)}
  assert dtypes == {jnp.dtype("float32")}
  radius = optax.tree.get(module.opt_state, "perturbation_norm")
  assert radius == pytest.approx(RHO, rel=1e-5)
  jaxpr = str(jax.make_jaxpr(module.bfloat16_loss)(module.params, module.x, 0))
  assert re.search(r"bf16\[64\] = dot_general", jaxpr)


def test_schedules():
  rates = lambda t: 0.025 * (1 + np.cos(np.pi * t / 80))  # noqa: E731
  radii = lambda t: 0.1 * min(t / 20, 1)  # noqa: E731
  (module,) = section("Schedules")
  expected = reference(module, rate=rates, rho=radii)
  np.testing.assert_allclose(trained(module), expected, atol=1e-5)
  assert module.opt_state.hyperparams["rho"] == pytest.approx(0.1)
  rate = module.opt_state.hyperparams["learning_rate"]
  assert rate == pytest.approx(rates(STEPS - 1), rel=1e-4)
  # By hand, as the last sentence says.
  optimizer = module.sam_sgd(learning_rate=0.05, rho=0.1)
  opt_state = optimizer.init(module.params)
  opt_state.hyperparams["rho"] = jnp.array(0.2)
  module.optimizer = optimizer
  # A function of its own: the step is traced already, with the old optimizer.
  step = jax.jit(lambda *arguments: module.step.__wrapped__(*arguments))
  _, opt_state = step(module.params, opt_state, module.x, module.y)
  radius = optax.tree.get(opt_state, "perturbation_norm")
  assert radius == pytest.approx(0.2, rel=1e-5)


def test_scalars():
  (module,) = section("Scalars to log")
  x, y = (np.asarray(a, np.float64) for a in (module.x, module.y))
  g = gradient(np.zeros(9), x, y)
  w = RHO * g / np.linalg.norm(g)
  loss = np.mean((x @ w[:-1] + w[-1] - y) ** 2)
  assert module.sharpness == pytest.approx(loss - np.mean(y**2), rel=1e-3)


def test_frozen_parts_and_masks():
  """The bias neither moves nor is perturbed; the kernel has SAM and AdamW."""
  (module,) = section("Masks, frozen parts and other optimizers")
  x, y = (np.asarray(a, np.float64) for a in (module.x, module.y))
  kernel, first, second = np.zeros(8), np.zeros(8), np.zeros(8)
  for t in range(1, STEPS + 1):
    g = gradient(np.append(kernel, 0), x, y)[:-1]
    w = np.append(kernel + RHO * g / np.linalg.norm(g), 0)
    g = gradient(w, x, y)[:-1]
    first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
    update = (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
    kernel = kernel - 0.05 * (update + 1e-4 * kernel)
  np.testing.assert_allclose(trained(module), [*kernel, 0], atol=1e-4)


def test_batch_statistics_are_those_of_the_first_pass():
  """Shards have their own, and the running averages are the mean of them."""
  for module, shards in zip(
    section("Batch normalization"), (1, 8), strict=True
  ):
    actual, step, batch = initial(module), module.step, module.batch
    opt_state = module.optimizer.init(actual[0])
    if shards > 1:
      opt_state = (opt_state[0], module.base.init(actual[0]))
      step, batch = module.global_step, module.sharded
    for _ in range(5):
      *actual, opt_state = step(*actual, opt_state, *batch)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
      tuple(actual),
      trained_with_batch_norm(module, shards, steps=5),
    )
    apply = jax.jit(functools.partial(module.model.apply, train=False))
    predicted = apply(
      {"params": module.trained, "batch_stats": module.batch_stats}, module.x
    )
    assert np.mean((predicted - module.y) ** 2) < 0.2 * np.mean(module.y**2)


def initial(module):
  """Return the page's parameters and batch statistics before training."""
  init = jax.jit(functools.partial(module.model.init, train=False))
  variables = init(module.keys[2], module.x)
  return variables["params"], variables["batch_stats"]


def trained_with_batch_norm(module, shards, steps):
  """Train the page's network by SAM with a perturbation for each shard."""
  parts = [np.split(np.asarray(a), shards) for a in (module.x, module.y)]

  def loss(params, stats, x, y):
    predicted, updated = module.model.apply(
      {"params": params, "batch_stats": stats},
      x,
      train=True,
      mutable=["batch_stats"],
    )
    return jnp.mean((predicted - y) ** 2), updated["batch_stats"]

  @jax.jit
  def shard_step(params, stats, x, y):
    g, new_stats = jax.grad(loss, has_aux=True)(params, stats, x, y)
    length = jnp.sqrt(sum(jnp.sum(a**2) for a in jax.tree.leaves(g)))
    perturbed = jax.tree.map(lambda w, g: w + RHO * g / length, params, g)
    g, _ = jax.grad(loss, has_aux=True)(perturbed, stats, x, y)
    return g, new_stats

  pairs = list(zip(*parts, strict=True))
  params, stats = initial(module)
  momentum = jax.tree.map(np.zeros_like, params)
  for _ in range(steps):
    of_shards = [shard_step(params, stats, x, y) for x, y in pairs]
    g, stats = jax.tree.map(lambda *a: sum(a) / shards, *of_shards)
    momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, g)
    params = jax.tree.map(lambda w, m: w - RATE * m, params, momentum)
  return params, stats
