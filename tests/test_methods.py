"""methods.py against references in NumPy, on one shard and on four."""

import functools
import inspect
import pathlib
import re
import runpy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from sam_jax import cheap_methods, masks, methods
from sam_jax.one_gradient import gradient_point
from tests.method_references import (
  CENTERS,
  LEARNING_RATE,
  PARAMS,
  REFERENCES,
  RHO,
  STEPS,
  W,
  friendly_sam,
  gradient_of_shard,
  look_sam,
  loss,
  norm,
  reference_run,
  sam_gradient,
  unravel,
)

# One set of arguments for each method.
METHODS = {method: kwargs for _, method, kwargs in reversed(REFERENCES)}
all_methods = pytest.mark.parametrize(
  ("method", "kwargs"),
  METHODS.items(),
  ids=[method.__name__ for method in METHODS],
)

# Methods that take a second gradient at steps that are known before.
CHEAPEST = (methods.ae_sam, methods.momentum_sam, methods.single_step_sam)
two_gradients = pytest.mark.parametrize(
  ("method", "kwargs"),
  [(method, k) for method, k in METHODS.items() if method not in CHEAPEST],
  ids=lambda x: getattr(x, "__name__", ""),
)


def shard_step(params, state, center, tx, mean):
  value_and_grad = jax.value_and_grad(functools.partial(loss, center=center))
  updates, state = tx.update(
    value_and_grad(gradient_point(tx, state, params))[1],
    state,
    params,
    grad_fn=lambda w, ascent_step: value_and_grad(w),
  )
  updates, state = mean((updates, state))
  updates = optax.tree.scale(-LEARNING_RATE, updates)
  return optax.apply_updates(params, updates), state


def mean_of_shards(tree):
  return jax.tree.map(
    lambda x: (
      jax.lax.pmean(x, "batch") if jnp.issubdtype(x.dtype, jnp.floating) else x
    ),
    tree,
  )


def run(tx, num_shards, compiled=True):
  """Return w and the state after every step."""
  mean = mean_of_shards if num_shards > 1 else lambda tree: tree
  step: Any = functools.partial(shard_step, tx=tx, mean=mean)
  if num_shards > 1:
    step = jax.vmap(
      step, in_axes=(None, None, 0), out_axes=None, axis_name="batch"
    )
  step = jax.jit(step) if compiled else step
  params, state = jax.tree.map(jnp.asarray, PARAMS), tx.init(PARAMS)
  path, states = [], []
  for t in range(STEPS):
    centers = CENTERS[t, :num_shards].astype(np.float32)
    params, state = step(
      params, state, centers[0] if num_shards == 1 else centers
    )
    path.append(ravel_pytree(params)[0])
    states.append(state)
  return np.stack(path), states


@pytest.mark.parametrize("num_shards", [1, 4])
@pytest.mark.parametrize(
  ("reference", "method", "kwargs"),
  REFERENCES,
  ids=[reference.__name__ for reference, _, _ in REFERENCES],
)
def test_training_equals_the_reference(reference, method, kwargs, num_shards):
  tx = method(RHO, has_value=True, sync=None, mask=None, **kwargs)
  path, _ = run(tx, num_shards)
  expected = reference_run(reference, num_shards)
  np.testing.assert_allclose(path, expected, rtol=2e-5, atol=2e-5)
  others = [r for r, _, _ in REFERENCES if r is not reference]
  for other in others:  # none of which the method could be taken for
    assert np.abs(reference_run(other, num_shards) - expected).max() > 1e-3


@pytest.mark.parametrize(
  ("reference", "method", "kwargs"),
  [
    (friendly_sam, methods.friendly_sam, {"sigma": 0.7, "decay": 0.8}),
    (look_sam, methods.look_sam, {"every": 3, "alpha": 0.5}),
  ],
)
def test_training_without_jit_equals_the_reference(reference, method, kwargs):
  path, _ = run(method(RHO, has_value=True, **kwargs), 1, compiled=False)
  expected = reference_run(reference, 1)
  np.testing.assert_allclose(path, expected, rtol=2e-5, atol=2e-5)


def test_shared_perturbation_of_friendly_sam_follows_the_mean_noise():
  def reference(w, gradient, memory, t):
    mean = np.mean([gradient_of_shard(c)(w) for c in CENTERS[t]], axis=0)
    noise = mean if t == 0 else mean - memory
    average = mean if t == 0 else 0.8 * memory + 0.2 * mean
    return sam_gradient(w, gradient, noise), average

  tx = methods.friendly_sam(RHO, decay=0.8, sync="batch", has_value=True)
  path, _ = run(tx, 4)
  expected = reference_run(reference, 4)
  np.testing.assert_allclose(path, expected, rtol=2e-5, atol=2e-5)


def test_scalars_of_one_gradient_are_those_of_the_perturbed_point():
  path, states = run(methods.single_step_sam(RHO), 1)
  first = gradient_of_shard(CENTERS[0, 0])(W)
  eps = RHO * first / norm(first)
  second = gradient_of_shard(CENTERS[1, 0])(path[0] + eps)
  assert states[0].perturbation_norm == 0
  assert states[1].perturbation_norm == pytest.approx(RHO, rel=1e-5)
  assert states[1].gradient_norm == pytest.approx(norm(second), rel=1e-4)
  cosine = eps @ second / norm(eps) / norm(second)
  assert states[1].cosine == pytest.approx(float(cosine), rel=1e-3)


@pytest.mark.parametrize("every", [1, 2])
def test_one_gradient_is_taken_at_the_parameters_if_rho_is_zero(every):
  rho = lambda t: jnp.where(t < 3, 0.0, RHO)  # noqa: E731
  for tx, first in (
    (methods.momentum_sam(0.0), STEPS),
    (methods.momentum_sam(rho, every=every), 3),
  ):
    _, states = run(tx, 1)
    norms = [state.perturbation_norm for state in states]
    assert not any(norms[:first])
    assert all(n > 0 for n in norms[first + first % every :: every])


def test_ae_sam_runs_the_second_gradient_only_where_it_perturbs():
  calls = []
  tx = methods.ae_sam(RHO, total_steps=100)
  value_and_grad = jax.grad(functools.partial(loss, center=CENTERS[0, 0]))

  def grad_fn(w, ascent_step):
    jax.debug.callback(lambda: calls.append(1))
    return value_and_grad(w)

  update = jax.jit(functools.partial(tx.update, grad_fn=grad_fn))
  state, gradient = tx.init(PARAMS), value_and_grad(PARAMS)
  perturbed = []
  for scale in (1.0, 1.0, 0.1, 3.0, 0.5):
    scaled = optax.tree.scale(scale, gradient)
    _, state = update(scaled, state, PARAMS)
    jax.effects_barrier()
    perturbed.append(float(state.sam.perturbation_norm) > 0)
    assert len(calls) == sum(perturbed)
  assert perturbed == [True, True, False, True, False]


@pytest.mark.parametrize("kind", ["every", "schedule"])
def test_look_sam_reuses_nothing_at_steps_of_radius_zero(kind):
  rho = {"every": 0.0, "schedule": lambda t: jnp.where(t < 1, RHO, 0.0)}[kind]
  tx = methods.look_sam(rho, every=2)
  state = tx.init(PARAMS)
  gradients = jax.tree.map(lambda w: 2 * w + 1, PARAMS)
  for step in range(3):
    updates, state = tx.update(gradients, state, PARAMS, grad_fn=lambda w, _: w)
    if step:
      jax.tree.map(np.testing.assert_array_equal, updates, gradients)


@two_gradients
def test_state_tells_the_scalars_of_the_step(method, kwargs):
  path, states = run(method(RHO, has_value=True, **kwargs), 1)
  w = np.concatenate([[W], path[:-1]])
  every = kwargs.get("every", 1)
  for t, state in enumerate(states):
    scalars = {
      name: optax.tree_utils.tree_get(state, name)
      for name in ("perturbation_norm", "cosine", "perturbed_value")
    }
    gradient = gradient_of_shard(CENTERS[t, 0])(w[t])
    assert optax.tree_utils.tree_get(state, "gradient_norm") == pytest.approx(
      norm(gradient), rel=1e-4
    )
    if t % every == 0:
      assert scalars["perturbation_norm"] > 0.05
      assert abs(scalars["cosine"]) < 1
      assert scalars["perturbed_value"] > loss(
        unravel(jnp.asarray(w[t])), CENTERS[t, 0]
      )
    else:
      assert scalars["perturbation_norm"] == 0
      assert scalars["cosine"] == 1
      assert np.isnan(scalars["perturbed_value"])


@all_methods
def test_rho_zero_is_gradient_descent_without_a_second_gradient(method, kwargs):
  def grad_fn(w, ascent_step):
    raise AssertionError("rho = 0 needs no second gradient")

  gradients = jax.tree.map(lambda w: 2 * w + 1, PARAMS)
  tx = method(0.0, has_value=True, **kwargs)
  state = tx.init(PARAMS)
  for _ in range(3):
    updates, state = tx.update(gradients, state, PARAMS, grad_fn=grad_fn)
    jax.tree.map(np.testing.assert_array_equal, updates, gradients)


@all_methods
def test_zero_gradient_moves_nothing(method, kwargs):
  zeros = jax.tree.map(np.zeros_like, PARAMS)
  tx = method(RHO, **kwargs)
  state = tx.init(PARAMS)
  for _ in range(3):
    updates, state = tx.update(
      zeros, state, PARAMS, grad_fn=lambda w, ascent_step: zeros
    )
    assert not any(np.any(x) for x in jax.tree.leaves(updates))
  assert not optax.tree_utils.tree_get(state, "perturbation_norm")


def dtypes(tree):
  return [x.dtype for x in jax.tree.leaves(tree)]


@pytest.mark.filterwarnings("ignore:Parameters of bfloat16")
@all_methods
def test_gradients_keep_their_dtype(method, kwargs):
  params = optax.tree.cast(PARAMS, jnp.bfloat16)
  tx = method(RHO, **{**kwargs, "every": 2})
  grad_fn = lambda w, ascent_step: optax.tree.scale(2.0, w)  # noqa: E731
  state = tx.init(params)
  update = functools.partial(tx.update, grad_fn=grad_fn)
  # With or without a second gradient: a traced step has both as branches.
  updates, new_state = jax.eval_shape(update, params, state, params)
  assert dtypes(updates) == dtypes(params)
  assert dtypes(new_state) == dtypes(state)


@pytest.mark.parametrize("scale", ["rho", "sharpness"])
def test_every_k_follows_a_schedule_of_rho(scale):
  tx = methods.every_k(
    lambda t: RHO / (1 + t), every=3, scale=scale, has_value=True
  )
  path, states = run(tx, 1)
  assert np.isfinite(path).all()
  norms = [optax.tree_utils.tree_get(s, "perturbation_norm") for s in states]
  k = 3 if scale == "rho" else 1
  np.testing.assert_allclose(
    norms, [k * RHO, 0, 0, k * RHO / 4, 0, 0, k * RHO / 7], rtol=1e-5
  )


def test_hyperparameters_may_be_traced():
  injected = optax.inject_hyperparams(
    methods.friendly_sam,
    static_args=("p", "eta", "ascent_steps", "every", "surrogate_gap"),
  )
  tx = injected(RHO, sigma=0.7, decay=0.8, has_value=True)
  path, states = run(tx, 1)
  assert states[-1].hyperparams["sigma"] == np.float32(0.7)
  expected = reference_run(friendly_sam, 1)
  np.testing.assert_allclose(path, expected, rtol=2e-5, atol=2e-5)


def test_every_public_function_is_a_method():
  public = {
    name
    for name, value in vars(methods).items()
    if inspect.isfunction(value)
    and value.__module__ in (methods.__name__, cheap_methods.__name__)
    and not name.startswith("_")
  }
  assert public == set(methods.__all__)
  assert {method.__name__ for method in METHODS} == public


@pytest.mark.parametrize(
  ("method", "kwargs", "message"),
  [
    (methods.weighted_sam, {"gamma": 1.0}, "gamma must be in [0, 1.0), got"),
    (methods.friendly_sam, {"decay": 1.0}, "decay must be in [0, 1.0), got"),
    (methods.friendly_sam, {"sigma": -1}, "sigma must be in [0, inf), got"),
    (methods.friendly_sam, {"sigma": "x"}, "got sigma = 'x'"),
    (methods.friendly_sam, {"ascent_steps": 2}, "no use for ascent_steps = 2"),
    (methods.friendly_sam, {"surrogate_gap": 0.1}, "leave it at 0"),
    (
      methods.look_sam,
      {"every": 2, "alpha": -1.0},
      "alpha must be in [0, inf)",
    ),
    (methods.look_sam, {"every": 0}, "every must be an integer >= 1"),
    (methods.sam_on, {"mask": True}, "sam_on has no use for mask = True"),
    (methods.momentum_sam, {"decay": 1.0}, "decay must be in [0, 1.0), got"),
    (methods.momentum_sam, {"ascent_steps": 2}, "no use for ascent_steps = 2"),
    (methods.single_step_sam, {"surrogate_gap": 0.1}, "surrogate_gap = 0.1"),
    (methods.single_step_sam, {"p": 0.5}, "p must be in [1, inf]"),
    (
      methods.ae_sam,
      {"total_steps": 9, "ascent_steps": 2},
      "ae_sam has no use for ascent_steps = 2",
    ),
    (methods.every_k, {"every": 2, "scale": "lr"}, "got scale = 'lr'"),
    (
      methods.gsam,
      {"surrogate_gap": -1.0, "minimize_fp": False},
      "surrogate_gap must be in [0, inf)",
    ),
  ],
)
def test_bad_arguments_are_named(method, kwargs, message):
  with pytest.raises(ValueError) as error:
    method(RHO, **kwargs)
  assert message in str(error.value)


@pytest.mark.parametrize(
  ("method", "argument"),
  [(methods.look_sam, "every"), (methods.gsam, "surrogate_gap")],
)
def test_missing_arguments_are_named(method, argument):
  with pytest.raises(TypeError, match=argument):
    method(RHO)


def test_sam_on_needs_normalization_layers():
  tx = methods.sam_on(RHO)
  params = {"dense": PARAMS["conv"]}
  with pytest.raises(ValueError, match="no module of params has a `scale`"):
    tx.update(params, tx.init(params), params, grad_fn=lambda w, ascent_step: w)


def test_sam_on_finds_the_normalization_layers_of_flax():
  class Network(nnx.Module):
    def __init__(self):
      rngs = nnx.Rngs(0)
      self.dense = nnx.Linear(3, 2, rngs=rngs)
      self.norm = nnx.LayerNorm(2, rngs=rngs)

  for params in (
    nnx.state(Network(), nnx.Param),
    {"block": {"norm": PARAMS["norm"]}, "dense": PARAMS["conv"]},
  ):
    mask = masks.normalization(params)
    perturbed = [
      jax.tree_util.keystr(path)
      for path, is_perturbed in jax.tree_util.tree_leaves_with_path(mask)
      if is_perturbed
    ]
    assert len(perturbed) == 2
    assert all("norm" in name for name in perturbed)


def code_blocks_of_the_docs():
  text = (pathlib.Path(__file__).parents[1] / "docs/methods.md").read_text()
  return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_docs_name_every_method():
  text = (pathlib.Path(__file__).parents[1] / "docs/methods.md").read_text()
  rows = re.findall(r"^\| `(\w+)`", text, flags=re.MULTILINE)
  assert {*rows} == {"sam", *methods.__all__}


def test_python_of_the_docs_descends(capsys):
  blocks = code_blocks_of_the_docs()
  assert len(blocks) == 4
  names: dict[str, Any] = {}
  exec("\n".join(blocks[:2]), names)
  before, after = capsys.readouterr().out.splitlines()
  assert before == "loss 11.00"
  loss_after, norm_after = re.findall(r"\d+\.\d+", after)
  assert float(loss_after) < 0.5
  assert norm_after == "0.05"
  # The centers of the shards have the mean 0, and so has their minimum.
  assert names["loss"](names["w"]) < 0.5
  # The moving average lags behind; the gradient of one shard is 2 or more away.
  mean_gradient = jax.grad(names["loss"])(names["w"])
  np.testing.assert_allclose(names["state"].average, mean_gradient, atol=0.1)


def test_own_methods_of_the_docs_equal_their_references(tmp_path):
  code = "\n".join(code_blocks_of_the_docs()[2:])
  (tmp_path / "my_methods.py").write_text(code)
  own = runpy.run_path(str(tmp_path / "my_methods.py"))

  def gradient_norm_penalty(w, gradient, memory, t):
    g = gradient(w)
    return 0.5 * g + 0.5 * sam_gradient(w, gradient, g), memory

  def loss_budget(w, gradient, memory, t):
    g = gradient(w)
    return gradient(w + RHO * g / norm(g) ** 2), memory

  contract = {"has_value": True, "sync": None, "mask": None}
  for reference, tx in [
    (gradient_norm_penalty, own["my_method"](RHO, weight=0.5, **contract)),
    (loss_budget, own["loss_budget"](RHO, **contract)),
  ]:
    path, states = run(tx, 4)
    expected = reference_run(reference, 4)
    np.testing.assert_allclose(path, expected, rtol=2e-5, atol=2e-5)
    for name in ("perturbation_norm", "perturbed_value"):
      assert optax.tree_utils.tree_get(states[-1], name) > 0
