"""SAM inside other wrappers, on other trees and dtypes: right, or refused."""

import doctest
import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import freeze
from flax.training import train_state
from jax.sharding import Mesh, PartitionSpec

import sam_jax

RHO = 0.1
PARAMS = {
  "body": {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.ones(2)},
  "head": {"kernel": jnp.array([[0.3], [-0.7]])},
}
XS = np.random.default_rng(0).normal(size=(8, 4, 2)).astype(np.float32)


def loss(params, x):
  hidden = jnp.tanh(x @ params["body"]["kernel"] + params["body"]["bias"])
  return jnp.mean((hidden @ params["head"]["kernel"] - 1) ** 2)


def step(tx, params, x, state=None, **kwargs):
  """Return the updates of one step, and the new state."""
  grad = functools.partial(jax.grad(loss), x=x)
  state = tx.init(params) if state is None else state
  grad_fn = kwargs.pop("grad_fn", lambda w, _: grad(w))
  return tx.update(grad(params), state, params, grad_fn=grad_fn, **kwargs)


def assert_equal(a, b, **kwargs):
  jax.tree.map(functools.partial(np.testing.assert_allclose, **kwargs), a, b)


def test_examples_in_docstrings_run():
  # `sam_jax.sam` is the function; its module has the same name.
  module = sys.modules["sam_jax.sam"]
  results = doctest.testmod(module, globs=dict(vars(module)))
  assert results.failed == 0
  assert results.attempted > 5


# --- other people's wrappers ------------------------------------------------


def test_multi_steps_around_sam_is_refused():
  tx = optax.MultiSteps(sam_jax.sam(optax.sgd(0.1), RHO), 4)
  message = r"the other way: optax\.chain\(sharpness_aware\(rho\), optax"
  with pytest.raises(ValueError, match=message):
    step(tx, PARAMS, XS[0])


def test_multi_steps_inside_is_m_sharpness():
  """Four microbatches: the mean of their sharpness-aware gradients."""
  tx = optax.chain(
    sam_jax.sharpness_aware(RHO),
    optax.MultiSteps(optax.sgd(1.0), 4).gradient_transformation(),
  )
  state = tx.init(PARAMS)
  for x in XS[:4]:
    updates, state = step(tx, PARAMS, x, state)
  each = [step(sam_jax.sharpness_aware(RHO), PARAMS, x)[0] for x in XS[:4]]
  mean = jax.tree.map(lambda *x: -sum(x) / 4, *each)
  assert_equal(updates, mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("wrapper", ["masked", "partition"])
def test_hidden_parameters_are_refused(wrapper):
  tx = sam_jax.sam(optax.sgd(0.1), RHO)
  if wrapper == "masked":
    tx = optax.masked(tx, {"body": True, "head": False})
  else:
    labels = {"body": "sam", "head": "frozen"}
    tx = optax.partition({"sam": tx, "frozen": optax.set_to_zero()}, labels)
  with pytest.raises(ValueError, match="hides parameters that grad_fn needs"):
    step(tx, PARAMS, XS[0])


def test_a_frozen_part_inside_sam():
  """The cure that the refusal names: a mask, and partition after SAM."""
  labels = {"body": "frozen", "head": "sgd"}
  base = optax.partition(
    {"sgd": optax.sgd(1.0), "frozen": optax.set_to_zero()}, labels
  )
  mask = {"body": False, "head": True}
  updates, _ = step(sam_jax.sam(base, RHO, mask=mask), PARAMS, XS[0])
  head = lambda h: loss({**PARAMS, "head": h}, XS[0])  # noqa: E731
  gradient = jax.grad(head)(PARAMS["head"])
  length = optax.tree.norm(gradient)
  perturbed = optax.tree.add_scale(PARAMS["head"], RHO / length, gradient)
  expected = jax.tree.map(jnp.negative, jax.grad(head)(perturbed))
  assert_equal(updates["head"], expected, rtol=1e-5)
  assert_equal(updates["body"], jax.tree.map(jnp.zeros_like, PARAMS["body"]))


def test_rho_can_be_injected():
  tx = optax.inject_hyperparams(sam_jax.sam)(optax.sgd(1.0), rho=RHO)
  state = tx.init(PARAMS)
  assert state.hyperparams["rho"] == pytest.approx(RHO)
  state.hyperparams["rho"] = jnp.float32(0.3)
  updates, _ = step(tx, PARAMS, XS[0], state)
  expected, _ = step(sam_jax.sam(optax.sgd(1.0), 0.3), PARAMS, XS[0])
  assert_equal(updates, expected, rtol=1e-6)


def test_optimizer_of_nnx():
  """With the gradients that nnx.grad returns, in containers of its own."""
  x, y = jnp.asarray(XS[0]), jnp.ones((4, 3))

  def nnx_loss(model):
    return jnp.mean((model(x) - y) ** 2)

  model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
  graph, start = nnx.split(model)
  params = nnx.to_pure_dict(start)
  optimizer = nnx.Optimizer(
    model, sam_jax.sam(optax.sgd(1.0), RHO), wrt=nnx.Param
  )
  optimizer.update(
    model,
    nnx.grad(nnx_loss)(model),
    grad_fn=lambda w, _: nnx.grad(nnx_loss)(nnx.merge(graph, w)),
  )

  def plain_loss(w):
    return jnp.mean((x @ w["kernel"] + w["bias"] - y) ** 2)

  gradient = jax.grad(plain_loss)(params)
  scale = RHO / optax.tree.norm(gradient)
  perturbed = optax.tree.add_scale(params, scale, gradient)
  expected = optax.tree.sub(params, jax.grad(plain_loss)(perturbed))
  after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  assert_equal(after, expected, rtol=1e-5)


def test_train_state_of_flax_names_the_cure():
  state = train_state.TrainState.create(
    apply_fn=None, params=PARAMS, tx=sam_jax.sam(optax.sgd(0.1))
  )
  gradient = jax.grad(loss)(PARAMS, XS[0])
  with pytest.raises(ValueError, match=r"TrainState.*call tx\.update"):
    state.apply_gradients(grads=gradient)


# --- shard_map ----------------------------------------------------------------


def mapped_update(tx, check_vma, is_varying=False):
  """One step on eight shards, each with its own examples."""
  mesh = Mesh(np.array(jax.devices()), ("batch",))

  def on_device(params, x):
    if is_varying:
      params = jax.lax.pcast(params, "batch", to="varying")
    updates, _ = step(tx, params, x[0])
    if is_varying:  # equal on all devices; say so
      updates = jax.lax.pmean(updates, "batch")
    return updates

  mapped = jax.shard_map(
    on_device,
    mesh=mesh,
    in_specs=(PartitionSpec(), PartitionSpec("batch")),
    out_specs=PartitionSpec(),
    check_vma=check_vma,
  )
  return jax.jit(mapped)(PARAMS, XS)


def mean_over_shards():
  each = [step(sam_jax.sharpness_aware(RHO), PARAMS, x)[0] for x in XS]
  return jax.tree.map(lambda *x: -sum(x) / 8, *each)


def test_gradients_that_shard_map_summed_are_refused():
  for tx in (
    sam_jax.sam(optax.sgd(1.0), RHO, "batch"),
    sam_jax.sharpness_aware(RHO, sync="batch"),
  ):
    with pytest.raises(ValueError, match=r"check_vma=False, or differentiate"):
      mapped_update(tx, check_vma=True)


@pytest.mark.parametrize("how", ["check_vma=False", "pcast"])
def test_both_cures_give_m_sharpness(how):
  tx = sam_jax.sam(optax.sgd(1.0), RHO, "batch")
  is_varying = how == "pcast"
  updates = mapped_update(tx, is_varying, is_varying)
  assert_equal(updates, mean_over_shards(), rtol=1e-5, atol=1e-7)


def test_plain_steps_between_have_the_same_types_under_shard_map():
  tx = sam_jax.sam(optax.sgd(1.0), RHO, "batch", every=2)
  updates = mapped_update(tx, check_vma=True, is_varying=True)
  assert_equal(updates, mean_over_shards(), rtol=1e-5, atol=1e-7)


def test_groups_need_check_vma_off():
  groups = ("batch", [[0, 1, 2, 3], [4, 5, 6, 7]])
  tx = sam_jax.sam(optax.sgd(1.0), RHO, "batch", sync=groups)
  with pytest.raises(ValueError, match="check_vma=False"):
    mapped_update(tx, check_vma=True, is_varying=True)


# --- trees and dtypes ---------------------------------------------------------


@pytest.mark.parametrize(
  ("params", "mask"),
  [
    (PARAMS, {"body": True, "head": False}),
    (PARAMS, {"body": {"kernel": True, "bias": True}, "head": False}),
    (freeze(PARAMS), {"body": True, "head": {"kernel": False}}),
    (PARAMS, lambda params: {"body": True, "head": False}),
  ],
)
def test_masks_as_optax_takes_them(params, mask):
  seen = []

  def grad_fn(w, _):
    seen.append(w)
    return jax.grad(loss)(w, XS[0])

  tx = sam_jax.sharpness_aware(RHO, mask=mask)
  _, state = step(tx, params, XS[0], grad_fn=grad_fn)
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), seen[0], params)
  assert jax.tree.leaves(moved) == [True, True, False]
  assert state.perturbation_norm == pytest.approx(RHO, rel=1e-5)


def test_mask_without_an_entry_is_refused():
  with pytest.raises(ValueError, match=r"mask .* no entry for head/kernel"):
    step(sam_jax.sharpness_aware(RHO, mask={"body": True}), PARAMS, XS[0])


def test_adaptive_leaves_biases_unscaled_as_its_authors_do():
  """T = |w| + eta for kernels, 1 for biases: eps = rho T^2 g / ||T g||."""
  seen = []

  def grad_fn(w, _):
    seen.append(w)
    return jax.grad(loss)(w, XS[0])

  eta = 0.01
  tx = sam_jax.sharpness_aware(RHO, adaptive=True, eta=eta)
  step(tx, PARAMS, XS[0], grad_fn=grad_fn)
  g = jax.grad(loss)(PARAMS, XS[0])
  t = jax.tree.map(lambda w: jnp.abs(w) + eta, PARAMS)
  t["body"]["bias"] = jnp.ones(2)
  length = optax.tree.norm(optax.tree.mul(t, g))
  expected = jax.tree.map(
    lambda w, t, g: w + RHO * t**2 * g / length, PARAMS, t, g
  )
  assert_equal(seen[0], expected, rtol=1e-5)


def test_a_python_number_is_a_parameter():
  tx = sam_jax.sam(optax.sgd(0.1), rho=0.1)
  updates, _ = tx.update(
    200.0, tx.init(100.0), 100.0, grad_fn=lambda w, _: 2 * w
  )
  assert updates == pytest.approx(-0.1 * 2 * 100.1)


def test_what_bfloat16_rounds_away_is_not_reported_as_perturbation():
  w = jnp.ones(1000, jnp.bfloat16)
  tx = sam_jax.sharpness_aware(rho=0.05)
  with pytest.warns(UserWarning, match="SAM becomes SGD"):
    _, state = tx.update(w, tx.init(w), w, grad_fn=lambda w, _: w)
  assert state.perturbation_norm == 0


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64, bool])
def test_parameters_that_are_no_real_numbers_are_refused(dtype):
  params = {"w": jnp.ones(3), "count": jnp.ones(2, dtype)}
  tx = sam_jax.sharpness_aware(RHO)
  with pytest.raises(ValueError, match=f"count of {jnp.dtype(dtype)}"):
    tx.update(params, tx.init(params), params, grad_fn=lambda w, _: w)


def test_another_tree_than_params_is_refused():
  tx = sam_jax.sharpness_aware(RHO)
  with pytest.raises(ValueError, match=r"3 leaves \(body/bias, body/kernel, h"):
    step(tx, PARAMS, XS[0], grad_fn=lambda w, _: {"body": w["body"]})


@pytest.mark.parametrize(
  ("grad_fn", "message"),
  [
    (
      lambda w, _: w | {"head": {"kernel": jnp.ones(2)}},
      r"shape \(2,\) for he",
    ),
    (lambda w, _: (jnp.ones(2), w), r"scalar as its value, got .* \(2,\)"),
  ],
)
def test_other_shapes_than_params_are_refused(grad_fn, message):
  has_value = isinstance(grad_fn(PARAMS, 0), tuple)
  tx = sam_jax.sharpness_aware(RHO, has_value=has_value)
  with pytest.raises(ValueError, match=message):
    step(tx, PARAMS, XS[0], grad_fn=grad_fn)


@pytest.mark.parametrize("mask", [{"body": "yes", "head": True}, PARAMS])
def test_masks_of_other_things_than_bools_are_refused(mask):
  with pytest.raises(ValueError, match="mask must be a tree of bools, got"):
    step(sam_jax.sharpness_aware(RHO, mask=mask), PARAMS, XS[0])


def test_functions_as_masks_are_no_schedules_of_injected_hyperparameters():
  """optax takes any function for a schedule that is not in static_args."""

  def update(tx):
    return jax.jit(lambda x: step(tx, PARAMS, x)[0])(XS[0])

  inject = functools.partial(optax.inject_hyperparams, sam_jax.sharpness_aware)
  with pytest.raises(ValueError, match="static_args=") as error:
    update(inject()(rho=RHO))
  names = re.findall(r"'(\w+)'", str(error.value))
  mask = functools.partial(jax.tree.map, lambda w: w.ndim > 1)
  injected = inject(static_args=names)(rho=RHO, mask=mask)
  expected = update(sam_jax.sharpness_aware(RHO, mask=mask))
  assert_equal(update(injected), expected, rtol=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
def test_no_parameters_at_all(p):
  tx = sam_jax.sharpness_aware(RHO, p=p)
  updates, state = tx.update({}, tx.init({}), {}, grad_fn=lambda w, _: w)
  assert updates == {}
  assert state.perturbation_norm == 0
