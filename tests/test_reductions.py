"""Norms and products of trees, and the kernels that they compile to."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sam_jax import reductions, target
from sam_jax.sam import sam
from sam_jax.training.optimizer import clip_by_global_norm


def leaves(dtype=jnp.float32):
  generator = np.random.default_rng(0)
  shapes = [(3, 4), (5,), (), (2, 2, 2), (0,), (7,)]
  return [jnp.asarray(generator.normal(size=s), dtype) for s in shapes]


def flat(tree):
  return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in tree])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("p", [1, 2, 3, np.inf])
def test_norm_is_that_of_one_long_vector(p, dtype):
  tree = leaves(dtype)
  expected = np.linalg.norm(flat(tree), p)
  assert reductions.norm(tree, p) == pytest.approx(expected, rel=1e-6)


def test_product_and_difference_pair_the_same_leaves():
  a = leaves()
  b = [x + i for i, x in enumerate(leaves())]
  assert reductions.vdot(a, b) == pytest.approx(flat(a) @ flat(b), rel=1e-6)
  found = reductions.vdot_of_difference(b, a, a)
  expected = (flat(b) - flat(a)) @ flat(a)
  assert found == pytest.approx(expected, rel=1e-5)
  distance = reductions.norm(reductions.difference(b, a))
  expected = np.linalg.norm(flat(b) - flat(a))
  assert distance == pytest.approx(expected, rel=1e-6)


def test_vectors_are_joined_on_cpus_alone():
  def shapes():
    return [x.shape for x in reductions.join_vectors(leaves())[0]]

  assert shapes() == [(3, 4), (), (2, 2, 2), (12,)]
  with target.compiling_for("tpu"):
    assert shapes() == [x.shape for x in leaves()]
  assert shapes()[-1] == (12,)


def test_norm_of_nothing_is_zero_and_has_a_slope_of_zero():
  assert reductions.norm([]) == reductions.norm([jnp.zeros(0)]) == 0
  gradient = jax.grad(reductions.norm)([jnp.zeros(3), jnp.zeros((2, 2))])
  assert not np.any(flat(gradient))


@pytest.mark.parametrize("type_of_axis", ["Auto", "Explicit"])
def test_vectors_may_be_sharded_in_different_ways(type_of_axis):
  mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType[type_of_axis],))
  leaves = [
    jax.device_put(jnp.arange(1.0, 1 + size), NamedSharding(mesh, spec))
    for size, spec in ((4, P("x")), (6, P("x")), (3, P()), (5, P()))
  ]

  @jax.jit
  def reduce(a, b):
    return (
      *(reductions.norm(a, p) for p in (2, 3, np.inf)),
      reductions.norm(reductions.difference(a, b)),
      reductions.vdot(a, b),
      reductions.vdot_of_difference(a, b, b),
    )

  replicated = jax.device_put(leaves, NamedSharding(mesh, P()))
  with jax.set_mesh(mesh):
    for b in (leaves, replicated):
      found = reduce(leaves, [2 * x for x in b])
      one = flat(leaves)
      norms = [np.linalg.norm(one, p) for p in (2, 3, np.inf, 2)]
      expected = [*norms, 2 * one @ one, -2 * one @ one]
      np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("limit", [0.1, 100.0])
@pytest.mark.parametrize("value", [1.0, 0.0, np.nan, np.inf])
def test_clipping_is_that_of_optax(limit, value):
  updates = [leaves()[0] * value, leaves()[1]]
  ours, theirs = (
    clip(limit).update(updates, optax.EmptyState())[0]
    for clip in (clip_by_global_norm, optax.clip_by_global_norm)
  )
  np.testing.assert_allclose(flat(ours), flat(theirs), rtol=1e-6)


def kernels_and_operations(num_layers):
  """Count what XLA generates code for in a SAM step of a made-up network.

  Returns:
    The number of kernels and of operations in them, for a network of so many
    layers with a matrix and two vectors.
  """
  transformation = sam(
    optax.chain(clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))
  )

  def step(grads, state, params):
    def grad_fn(params, _):
      return jax.tree.map(jnp.sin, params)

    updates, state = transformation.update(
      grads, state, params, grad_fn=grad_fn
    )
    return optax.apply_updates(params, updates), state

  # Different shapes, as in PyramidNet: equal ones might share a kernel.
  params = [
    [
      jax.ShapeDtypeStruct(shape, jnp.float32)
      for shape in ((128, 128 + i), (2048 + i,), (3072 + i,))
    ]
    for i in range(num_layers)
  ]
  state = jax.eval_shape(transformation.init, params)
  text = jax.jit(step).lower(params, state, params).compile().as_text()
  return len(re.findall("kind=kLoop", text)), text.count(" = ")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="counts for CPUs")
def test_a_leaf_costs_few_kernels_in_a_program_that_grows_linearly():
  (few, short), (many, long), (_, longest) = map(
    kernels_and_operations, (6, 12, 18)
  )
  # Four for each leaf; 41 for each layer if leaves are summed one by one.
  assert (many - few) / 6 <= 12
  assert longest - long <= 1.1 * (long - short)
