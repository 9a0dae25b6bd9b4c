"""sam.py against the paper's closed forms and against optax.contrib.sam."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

import sam_jax
from sam_jax.sam import dual_vector, is_sam_step

RHO = 0.1
CURVATURE = np.diag([1.0, 2.0, 5.0]).astype(np.float32)
W = np.array([1.0, -1.0, 0.5], np.float32)


def quadratic(w):
  return 0.5 * w @ CURVATURE @ w


def quadratic_grad_fn(w, ascent_step):
  del ascent_step
  return jax.grad(quadratic)(w)


def sam_gradient(w, grad_fn=quadratic_grad_fn, **kwargs):
  tx = sam_jax.sharpness_aware(**{"rho": RHO, **kwargs})
  return tx.update(grad_fn(w, 0), tx.init(w), w, grad_fn=grad_fn)


def random_tree(seed, scale=1.0):
  a, b = np.random.default_rng(seed).normal(size=(2, 7)).astype(np.float32)
  return {"a": scale * a.reshape(7, 1), "b": {"c": scale * b}}


def flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def p_norm(x, p):
  return np.linalg.norm(np.asarray(x, np.float64), p)


@pytest.mark.parametrize("p", [1.0, 1.01, 1.5, 2.0, 3.0, 50.0, math.inf])
def test_direction_is_the_dual_vector(p):
  g = random_tree(0)
  direction = flat(dual_vector(g, p))
  q = math.inf if p == 1 else 1.0 if p == math.inf else p / (p - 1)
  assert p_norm(direction, p) == pytest.approx(1, rel=1e-5)
  # Hoelder's inequality holds with equality only for the maximizer.
  assert direction @ flat(g) == pytest.approx(p_norm(flat(g), q), rel=1e-4)


@pytest.mark.parametrize("p", [1.2, 2.0, 4.0])
def test_direction_is_equation_2_of_the_paper(p):
  g = flat(random_tree(1)).astype(np.float64)
  q = p / (p - 1)
  paper = np.sign(g) * np.abs(g) ** (q - 1)
  paper /= (np.abs(g) ** q).sum() ** (1 / p)
  np.testing.assert_allclose(
    flat(dual_vector(random_tree(1), p)), paper, rtol=2e-5
  )


def test_one_norm_shares_the_radius_among_equal_entries():
  g = np.array([2.0, -2.0, 1.0])
  np.testing.assert_array_equal(dual_vector(g, 1.0), [0.5, -0.5, 0])


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, math.inf])
@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_direction_does_not_depend_on_the_gradients_length(p, scale):
  np.testing.assert_allclose(
    flat(dual_vector(random_tree(2, scale), p)),
    flat(dual_vector(random_tree(2), p)),
    rtol=1e-5,
  )


def test_quadratic_equals_its_closed_form():
  g = CURVATURE @ W
  expected = CURVATURE @ (W + RHO * g / np.linalg.norm(g))
  gradient, state = sam_gradient(W)
  np.testing.assert_allclose(gradient, expected, rtol=1e-6)
  assert state.gradient_norm == pytest.approx(np.linalg.norm(g))
  assert state.perturbation_norm == pytest.approx(RHO)
  cosine = g @ expected / np.linalg.norm(g) / np.linalg.norm(expected)
  assert state.cosine == pytest.approx(cosine)
  assert state.count == 1


def test_adaptive_is_asam():
  eta = 0.3
  t = np.abs(W) + eta
  g = CURVATURE @ W
  eps = RHO * t**2 * g / np.linalg.norm(t * g)
  gradient, state = sam_gradient(W, adaptive=True, eta=eta)
  np.testing.assert_allclose(gradient, CURVATURE @ (W + eps), rtol=1e-6)
  assert state.perturbation_norm == pytest.approx(np.linalg.norm(eps))
  cosine = eps @ gradient / np.linalg.norm(eps) / np.linalg.norm(gradient)
  assert state.cosine == pytest.approx(cosine)


def test_many_ascent_steps_find_the_sharpest_direction():
  w = np.float32(1e-6) * W  # where L is flat, rho**2 / 2 * lambda_max is left

  def value_and_grad(w, _):
    return jax.value_and_grad(quadratic)(w)

  tx = sam_jax.sharpness_aware(RHO, ascent_steps=40, has_value=True)
  gradient = jax.grad(quadratic)(w)
  _, state = tx.update(gradient, tx.init(w), w, grad_fn=value_and_grad)
  assert state.perturbed_value == pytest.approx(RHO**2 / 2 * 5, rel=1e-3)
  assert state.perturbation_norm == pytest.approx(RHO, rel=1e-5)


def test_grad_fn_is_told_the_ascent_step():
  seen = []

  def grad_fn(w, ascent_step):
    seen.append(ascent_step)
    return jax.grad(quadratic)(w)

  tx = sam_jax.sharpness_aware(RHO, ascent_steps=3)
  tx.update(jax.grad(quadratic)(W), tx.init(W), W, grad_fn=grad_fn)
  assert seen == [0, 1, 2]


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, math.inf])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_perturbation_stays_in_the_neighborhood(p, steps):
  _, state = sam_gradient(W, p=p, ascent_steps=steps)
  assert state.perturbation_norm <= RHO * (1 + 1e-5)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, math.inf])
@pytest.mark.parametrize("adaptive", [False, True])
def test_useless_ascent_gradient_perturbs_nothing(bad, p, adaptive):
  seen = []

  def grad_fn(w, ascent_step):
    seen.append(w)
    return jnp.ones(3)

  tx = sam_jax.sharpness_aware(RHO, p=p, adaptive=adaptive)
  bad_gradient = jnp.array([bad, 0.0, 0.0])
  gradient, state = tx.update(bad_gradient, tx.init(W), W, grad_fn=grad_fn)
  np.testing.assert_array_equal(seen[0], W)
  np.testing.assert_array_equal(gradient, 1.0)
  assert state.perturbation_norm == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_norms_are_taken_in_float32(dtype):
  g = jnp.full((1000,), 1e-5, dtype)  # its square is 0 in float16
  seen = []

  def grad_fn(w, _):
    seen.append(w)
    return g

  tx = sam_jax.sharpness_aware(rho=1000.0)
  w = jnp.zeros((1000,), dtype)
  with pytest.warns(UserWarning, match="keep float32 parameters"):
    gradient, state = tx.update(g, tx.init(w), w, grad_fn=grad_fn)
  assert gradient.dtype == seen[0].dtype == dtype
  np.testing.assert_allclose(
    np.asarray(seen[0], np.float32), 1000 / np.sqrt(1000), rtol=1e-2
  )
  assert state.gradient_norm == pytest.approx(1e-5 * np.sqrt(1000), rel=1e-2)


def test_no_radius_never_calls_grad_fn():
  def grad_fn(w, _):
    raise AssertionError("traced")

  tx = sam_jax.sharpness_aware(rho=0.0)
  gradient, state = tx.update(W, tx.init(W), W, grad_fn=grad_fn)
  np.testing.assert_array_equal(gradient, W)
  assert state.perturbation_norm == 0


def test_schedule_of_rho_counts_steps():
  tx = sam_jax.sharpness_aware(lambda count: 0.1 * (count + 1))
  state = tx.init(W)
  for expected in (0.1, 0.2, 0.3):
    _, state = tx.update(W, state, W, grad_fn=quadratic_grad_fn)
    assert state.perturbation_norm == pytest.approx(expected)


def test_a_step_at_which_a_schedule_is_zero_takes_no_second_gradient():
  calls = []

  def grad_fn(w, _):
    jax.debug.callback(lambda: calls.append(1))
    return jax.grad(quadratic)(w)

  tx = sam_jax.sharpness_aware(lambda count: jnp.where(count < 2, 0.0, RHO))
  update = jax.jit(functools.partial(tx.update, grad_fn=grad_fn))
  state, plain = tx.init(W), quadratic_grad_fn(W, 0)
  for step in range(4):
    gradient, state = update(plain, state, W)
    jax.effects_barrier()
    assert len(calls) == max(step - 1, 0)
    expected = plain if step < 2 else sam_gradient(W)[0]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize(
  ("rho", "every", "expected"),
  [
    (0.1, 1, True),
    (0.0, 1, False),
    (0.0, 2, False),
    (lambda count: 0.1, 1, True),
    (lambda count: 0.0, 3, False),
  ],
)
def test_steps_that_are_all_alike_need_no_branch(rho, every, expected):
  count = jnp.int32(1)
  assert is_sam_step(count, rho, every) is expected


def test_every_other_step_is_plain():
  tx = sam_jax.sharpness_aware(RHO, every=2)
  state, plain = tx.init(W), quadratic_grad_fn(W, 0)
  update = jax.jit(functools.partial(tx.update, grad_fn=quadratic_grad_fn))
  for step in range(4):
    gradient, state = update(plain, state, W)
    expected = plain if step % 2 else sam_gradient(W)[0]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    assert (state.perturbation_norm > 0) == (step % 2 == 0)


@pytest.mark.parametrize("as_function", [False, True])
def test_mask_perturbs_only_its_leaves(as_function):
  params = {"norm": W, "kernel": 2 * W}
  seen = []

  def grad_fn(params, _):
    seen.append(params)
    return params

  mask = {"norm": True, "kernel": False}
  tx = sam_jax.sharpness_aware(
    RHO, mask=(lambda params: mask) if as_function else mask
  )
  tx.update(params, tx.init(params), params, grad_fn=grad_fn)
  eps = seen[0]["norm"] - W
  assert np.linalg.norm(eps) == pytest.approx(RHO, rel=1e-5)
  np.testing.assert_array_equal(seen[0]["kernel"], params["kernel"])


def test_surrogate_gap_is_gsam():
  alpha = 0.4
  g, g_sam = CURVATURE @ W, np.asarray(sam_gradient(W)[0])
  orthogonal = g - (g @ g_sam) / (g_sam @ g_sam) * g_sam
  gradient, _ = sam_gradient(W, surrogate_gap=alpha)
  np.testing.assert_allclose(gradient, g_sam - alpha * orthogonal, rtol=1e-5)


def reference_perturbed_params(gradient, w, eta):
  """Return w + eps(w) by the paper's eq. 2, or by ASAM's if eta is given."""
  t = jax.tree.map(lambda w: 1.0 if eta is None else jnp.abs(w) + eta, w)
  scaled = jax.tree.map(jnp.multiply, t, gradient)
  length = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(scaled)))
  return jax.tree.map(lambda w, t, g: w + RHO * t * g / length, w, t, scaled)


@pytest.mark.parametrize("eta", [None, 0.1])
def test_second_order_is_the_gradient_through_the_perturbation(eta):
  params, x, y = network_problem()

  def perturbed_loss(w):
    gradient = jax.grad(network_loss)(w, x, y)
    return network_loss(reference_perturbed_params(gradient, w, eta), x, y)

  def value_and_grad(w, _):
    return jax.value_and_grad(network_loss)(w, x, y)

  arguments = {} if eta is None else {"adaptive": True, "eta": eta}
  tx = sam_jax.sharpness_aware(
    RHO, second_order=True, has_value=True, **arguments
  )

  @jax.jit
  def update(w):
    gradient = jax.grad(network_loss)(w, x, y)
    return tx.update(gradient, tx.init(w), w, grad_fn=value_and_grad)

  @jax.jit
  def reference(w):
    gradient = jax.grad(network_loss)(w, x, y)
    perturbed = reference_perturbed_params(gradient, w, eta)
    first_order = jax.grad(network_loss)(perturbed, x, y)
    return *jax.value_and_grad(perturbed_loss)(w), first_order

  actual, state = update(params)
  loss, expected, first_order = reference(params)
  np.testing.assert_allclose(flat(actual), flat(expected), atol=2e-6)
  assert state.perturbed_value == pytest.approx(loss)
  assert np.abs(flat(first_order) - flat(expected)).max() > 1e-3


def test_second_order_spans_the_shards_that_share_a_perturbation():
  params, x, y = network_problem()
  xs, ys = (a.reshape(4, -1, a.shape[-1]) for a in (x, y))
  tx = sam_jax.sharpness_aware(RHO, second_order=True, sync="batch")

  def step(x, y):
    grad_fn = lambda w, _: jax.grad(network_loss)(w, x, y)  # noqa: E731
    gradient, _ = tx.update(
      grad_fn(params, 0), tx.init(params), params, grad_fn=grad_fn
    )
    return jax.lax.pmean(gradient, "batch")

  def perturbed_loss(w):  # shards of equal size: their mean loss is the batch's
    gradient = jax.grad(network_loss)(w, x, y)
    return network_loss(reference_perturbed_params(gradient, w, None), x, y)

  step = jax.jit(jax.vmap(step, axis_name="batch", out_axes=None))
  actual = step(xs, ys)
  expected = flat(jax.jit(jax.grad(perturbed_loss))(params))
  np.testing.assert_allclose(flat(actual), expected, atol=2e-6)


def test_random_direction_is_normal_and_of_length_rho():
  params = random_tree(5)
  tx = sam_jax.sharpness_aware(RHO, random_key=jax.random.key(0))

  def update(state, _):
    points = []

    def grad_fn(w, ascent_step):
      points.append(w)
      return optax.tree.scale(2.0, w)

    gradient, state = tx.update(params, state, params, grad_fn=grad_fn)
    return state, [ravel_pytree(tree)[0] for tree in (points[0], gradient)]

  many = jax.jit(lambda state: jax.lax.scan(update, state, length=400))
  points, gradients = jax.device_get(many(tx.init(params))[1])
  eps = points - flat(params)
  np.testing.assert_allclose(gradients[-1], 2 * (flat(params) + eps[-1]), 1e-5)
  np.testing.assert_allclose(np.linalg.norm(eps, axis=1), RHO, rtol=1e-4)
  # Uniform on the sphere: mean 0, and the same variance in each of 14 axes.
  standard_error = RHO / np.sqrt(14 * len(eps))
  assert np.abs(eps.mean(0)).max() < 4 * standard_error
  np.testing.assert_allclose((eps**2).mean(0), RHO**2 / 14, rtol=0.35)
  assert len(np.unique(eps, axis=0)) == len(eps)


def test_random_direction_is_shared_by_the_shards():
  tx = sam_jax.sharpness_aware(RHO, random_key=jax.random.key(1))

  def perturbed(gradient):
    grad_fn = lambda w, _: w  # noqa: E731
    return tx.update(gradient, tx.init(W), W, grad_fn=grad_fn)[0]

  shards = jax.jit(jax.vmap(perturbed, axis_name="batch"))(np.eye(3))
  alone = jax.jit(perturbed)(W)
  np.testing.assert_array_equal(shards, np.tile(alone, (3, 1)))


def test_second_order_leaves_a_flat_point_alone():
  gradient, _ = sam_gradient(np.zeros_like(W), second_order=True)
  np.testing.assert_array_equal(gradient, np.zeros_like(W))


def network_loss(params, x, y):
  hidden = jnp.tanh(x @ params["w1"] + params["b1"])
  return jnp.mean((hidden @ params["w2"] - y) ** 2)


def network_problem(examples=16):
  random = np.random.default_rng(3)
  params = {
    "w1": random.normal(size=(5, 8)),
    "b1": random.normal(size=(8,)),
    "w2": random.normal(size=(8, 2)),
  }
  x = random.normal(size=(examples, 5))
  y = random.normal(size=(examples, 2))
  as_float32 = functools.partial(np.asarray, dtype=np.float32)
  return jax.tree.map(as_float32, (params, x, y))


def test_equals_optax_contrib_sam_over_several_steps():
  params, x, y = network_problem()
  base = functools.partial(optax.sgd, 0.1, momentum=0.9, nesterov=True)
  adversary = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
  theirs = optax.contrib.sam(base(), adversary, opaque_mode=True)
  ours = sam_jax.sam(base(), RHO)

  def grad_fn(params, _):
    return jax.grad(network_loss)(params, x, y)

  def train(tx):
    @jax.jit
    def step(params, state):
      updates, state = tx.update(
        grad_fn(params, 0), state, params, grad_fn=grad_fn
      )
      return optax.apply_updates(params, updates), state

    state, now = tx.init(params), params
    for _ in range(6):
      now, state = step(now, state)
    return now

  difference = flat(train(ours)) - flat(train(theirs))
  assert np.abs(difference).max() < 2e-6
  assert np.abs(flat(train(ours)) - flat(params)).max() > 0.1


def reference_step(params, x, y, groups, shards):
  """g_SAM by the paper's equations, shard by shard in a Python loop."""
  xs, ys = np.split(x, shards), np.split(y, shards)
  grads = [jax.grad(network_loss)(params, *s) for s in zip(xs, ys, strict=True)]
  total = jax.tree.map(np.zeros_like, params)
  for group in groups:
    mean = jax.tree.map(lambda *g: sum(g) / len(g), *[grads[i] for i in group])
    scale = RHO / np.linalg.norm(flat(mean))
    perturbed = jax.tree.map(lambda w, g: w + scale * g, params, mean)  # noqa: B023
    for i in group:
      gradient = jax.grad(network_loss)(perturbed, xs[i], ys[i])
      total = jax.tree.map(lambda t, g: t + g / shards, total, gradient)
  return flat(total)


def device_step(sync, params, x, y):
  """The gradient that leaves sharpness_aware and mean_across on one shard."""
  tx = optax.chain(
    sam_jax.sharpness_aware(RHO, sync=sync), sam_jax.mean_across("batch")
  )

  def grad_fn(params, _):
    return jax.grad(network_loss)(params, x, y)

  updates, _ = tx.update(
    grad_fn(params, 0), tx.init(params), params, grad_fn=grad_fn
  )
  return updates


def run_mapped(how, sync, params, x, y, shards):
  step = functools.partial(device_step, sync)
  if how == "shard_map":
    mesh = Mesh(np.array(jax.devices()[:shards]), ("batch",))
    everywhere, split = PartitionSpec(), PartitionSpec("batch")
    mapped = jax.shard_map(
      step,
      mesh=mesh,
      in_specs=(everywhere, split, split),
      out_specs=everywhere,
      check_vma=False,
    )
    return flat(jax.jit(mapped)(params, x, y))
  xs, ys = (a.reshape(shards, -1, a.shape[-1]) for a in (x, y))
  axes = {"axis_name": "batch", "in_axes": (None, 0, 0), "out_axes": None}
  if how == "vmap":
    return flat(jax.jit(jax.vmap(step, **axes))(params, xs, ys))
  return flat(
    jax.pmap(step, devices=jax.devices()[:shards], **axes)(params, xs, ys)
  )


PER_SHARD = (None, [[0], [1], [2], [3]])
ALL = ("batch", [[0, 1, 2, 3]])
PAIRS = (("batch", [[0, 1], [2, 3]]), [[0, 1], [2, 3]])


@pytest.mark.parametrize(
  ("how", "sync", "groups"),
  [
    *[(how, *PER_SHARD) for how in ("pmap", "shard_map", "vmap")],
    *[(how, *ALL) for how in ("pmap", "shard_map", "vmap")],
    *[(how, *PAIRS) for how in ("pmap", "shard_map")],  # vmap has no groups
  ],
)
def test_every_mapping_equals_the_loop_over_shards(how, sync, groups):
  params, x, y = network_problem()
  expected = reference_step(params, x, y, groups, 4)
  actual = run_mapped(how, sync, params, x, y, 4)
  np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_jit_on_one_shard_equals_the_loop():
  params, x, y = network_problem()

  def grad_fn(params, _):
    return jax.grad(network_loss)(params, x, y)

  tx = sam_jax.sharpness_aware(RHO)
  updates, _ = jax.jit(functools.partial(tx.update, grad_fn=grad_fn))(
    grad_fn(params, 0), tx.init(params), params
  )
  expected = reference_step(params, x, y, [[0]], 1)
  np.testing.assert_allclose(flat(updates), expected, atol=1e-6)


def test_shards_and_full_batch_differ():
  """Else the two tests above could not tell m-sharpness from sharpness."""
  params, x, y = network_problem()
  per_shard = reference_step(params, x, y, [[0], [1], [2], [3]], 4)
  full = reference_step(params, x, y, [[0, 1, 2, 3]], 4)
  assert np.abs(per_shard - full).max() > 1e-3


def test_clipping_inside_the_base_optimizer_bites():
  clipped = optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(1.0))
  tx = sam_jax.sam(clipped, RHO)
  updates, _ = tx.update(
    quadratic_grad_fn(W, 0), tx.init(W), W, grad_fn=quadratic_grad_fn
  )
  assert np.linalg.norm(updates) == pytest.approx(0.01)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"rho": -0.1}, r"rho = -0\.1"),
    ({"rho": math.nan}, "rho = nan"),
    ({"rho": math.inf}, "rho = inf"),
    ({"rho": 0.1, "p": 0.5}, r"p = 0\.5"),
    ({"rho": 0.1, "p": math.nan}, "p = nan"),
    ({"rho": 0.1, "ascent_steps": 0}, "ascent_steps = 0"),
    ({"rho": 0.1, "every": 0}, "every = 0"),
    ({"rho": 0.1, "every": 1.5}, r"every = 1\.5"),
    ({"rho": 0.1, "adaptive": True, "eta": -1.0}, r"eta = -1\.0"),
    ({"rho": 0.1, "sync": 3}, "sync = 3"),
    ({"rho": 0.1, "sync": ("a", "b")}, r"sync = \('a', 'b'\)"),
    ({"rho": 0.1, "sync": ("a", [[0, 1], [2]])}, "groups of one size"),
    ({"rho": None}, "rho = None"),
    ({"rho": jnp.array(-1.0)}, r"rho = Array\(-1"),
    ({"rho": 0.1, "p": "2"}, "p = '2'"),
    ({"rho": 0.1, "ascent_steps": 2.0}, r"ascent_steps = 2\.0"),
    ({"rho": 0.1, "surrogate_gap": math.nan}, "surrogate_gap = nan"),
    ({"rho": 0.1, "second_order": True, "p": 1.0}, r"got p = 1\.0"),
    (
      {"rho": 0.1, "second_order": True, "random_key": jax.random.key(0)},
      "drop random_key",
    ),
    (
      {"rho": 0.1, "second_order": True, "ascent_steps": 2},
      "ascent_steps = 2",
    ),
  ],
)
def test_bad_arguments_are_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    sam_jax.sharpness_aware(**arguments)


@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_missing_grad_fn_or_params_is_named(rho):
  tx = sam_jax.sharpness_aware(rho)
  with pytest.raises(ValueError, match="grad_fn = None"):
    tx.update(W, tx.init(W), W)
  with pytest.raises(ValueError, match="params = None"):
    tx.update(W, tx.init(W), grad_fn=quadratic_grad_fn)


@pytest.mark.parametrize("has_value", [False, True])
def test_other_outputs_of_grad_fn_are_named(has_value):
  functions = (jax.value_and_grad(quadratic), jax.grad(quadratic))
  wrong = functions[has_value]
  with pytest.raises(ValueError, match=f"has_value = {has_value} the output"):
    sam_jax.sharpness_aware(RHO, has_value=has_value).update(
      W, sam_jax.sharpness_aware(RHO).init(W), W, grad_fn=lambda w, _: wrong(w)
    )


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, math.inf])
def test_empty_leaves_change_nothing(p):
  gradient = {"empty": jnp.zeros((0, 2)), "w": W}
  direction = dual_vector(gradient, p)
  np.testing.assert_array_equal(direction["w"], dual_vector(W, p))


def test_works_inside_inject_hyperparams():
  def gradient(**kwargs):
    tx = optax.inject_hyperparams(sam_jax.sharpness_aware, **kwargs)(rho=RHO)
    update = functools.partial(tx.update, grad_fn=quadratic_grad_fn)
    return jax.jit(update)(quadratic_grad_fn(W, 0), tx.init(W), W)[0]

  with pytest.raises(ValueError, match="static_args=") as error:
    gradient()
  names = re.findall(r"'(\w+)'", str(error.value))
  np.testing.assert_allclose(
    gradient(static_args=names), sam_gradient(W)[0], rtol=1e-6
  )
