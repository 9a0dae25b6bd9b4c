"""The loss of fixed examples as a function of the parameters alone.

What the analyses share. A network is looked at as it is evaluated: with its
running batch statistics, without augmentation, dropout or weight decay. All
local devices take part, and the result does not depend on their number, up to
the order of float32 sums.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sam_jax.datasets.in_memory import InMemoryDataset
from sam_jax.training import losses

AXIS = "batch"
Params = Any
# (params, batch) -> loss of each example, float32 [n]
ExampleLosses = Callable[[Params, dict[str, jax.Array]], jax.Array]
# XLA's default on CPUs transposes all kernels in advance, for concurrency: two
# more copies of the parameters, and WRN-28-10 is no faster for it.
_LITTLE_MEMORY_ON_CPU = {
  "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
}


def network_losses(
  model: Any, normalise: Callable[[jax.Array], jax.Array]
) -> ExampleLosses:
  """Cross-entropy of a network in evaluation mode.

  Args:
    model: From `create_model`.
    normalise: uint8 images -> float images.

  Returns:
    A function of variables, {"params", "batch_stats"}, and a batch of `image`
    uint8 [n, H, W, C] and `label` int [n]. It is constant in the batch
    statistics, as far as derivatives can tell, and computes in float32 even if
    the network trains in bfloat16: differences of losses are small.
  """
  settings = dataclasses.replace(model.settings, dtype=jnp.float32)
  model = model.clone(settings=settings)

  def example_losses(variables, batch):
    statistics = jax.lax.stop_gradient(variables["batch_stats"])
    logits = model.apply(
      {"params": variables["params"], "batch_stats": statistics},
      normalise(batch["image"]),
      train=False,
    )
    targets = jax.nn.one_hot(batch["label"], logits.shape[-1])
    return losses.cross_entropy(logits, targets)

  return example_losses


def first_examples(
  dataset: Any, split: str, limit: int | None = None
) -> dict[str, np.ndarray]:
  """The first examples of a split.

  Args:
    dataset: As training uses it.
    split: "train", with the labels of training where the images are in memory
      and clean ones where they are streamed; or "test".
    limit: How many at most; None for all.

  Returns:
    `image` uint8 [N, H, W, C] and `label` int32 [N]. Of several processes each
    has the same, except of test sets and streamed images: there each has its
    own part.
  """
  if split == "train" and isinstance(dataset, InMemoryDataset):
    images, labels = dataset.training_arrays()
    return {"image": images[:limit], "label": labels[:limit]}
  batches, count = [], 0
  for batch in dataset.eval_batches(split):
    is_real = batch["mask"] > 0
    batches.append({k: batch[k][is_real] for k in ("image", "label")})
    count += is_real.sum()
    if limit is not None and count >= limit:
      break
  return {
    name: np.concatenate([b[name] for b in batches])[:limit]
    for name in ("image", "label")
  }


class Objective:
  """Mean loss over fixed examples, with gradient and Hessian products.

  Batches go over the devices one after the other: memory is that of one batch
  and of a few copies of the parameters.
  """

  def __init__(
    self,
    example_losses: ExampleLosses,
    examples: dict[str, np.ndarray],
    batch_size: int,
    devices: list[Any] | None = None,
  ):
    """Puts the examples on the devices.

    Args:
      example_losses: (params, batch) -> loss of each example [n].
      examples: Arrays with one entry for each of the N examples.
      batch_size: Examples of a pass, over all devices.
      devices: Default: all of this host.

    Raises:
      ValueError: There are no examples, or the batch does not divide by the
        devices.
    """
    devices = devices or jax.local_devices()
    self.num_examples = len(next(iter(examples.values())))
    if not self.num_examples:
      raise ValueError("An objective needs at least one example.")
    if batch_size < 1 or batch_size % len(devices):
      raise ValueError(
        f"batch_size = {batch_size} does not divide by {len(devices)} devices."
      )
    mesh = Mesh(np.array(devices), (AXIS,))
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    self._replicated = NamedSharding(mesh, PartitionSpec())
    self._batches = [
      jax.device_put(batch, sharding)
      for batch in _padded_batches(examples, batch_size, len(devices))
    ]

    def mapped(fn, num_trees):
      # Each device keeps its own sum until the end. It is donated, and so
      # added to in place.
      return jax.pmap(
        lambda total, *args: jax.tree.map(jnp.add, total, fn(*args)),
        in_axes=(0, *[None] * num_trees, 0),
        devices=devices,
        donate_argnums=0,
      )

    def mean(totals):
      return jax.tree.map(lambda x: x.sum(axis=0) / self.num_examples, totals)

    self._zeros = jax.jit(
      lambda tree: jax.tree.map(
        lambda x: jnp.zeros((len(devices), *x.shape), x.dtype), tree
      ),
      out_shardings=sharding,
    )
    self._mean_of_totals = jax.jit(mean, out_shardings=self._replicated)
    self._options = (
      _LITTLE_MEMORY_ON_CPU if devices[0].platform == "cpu" else None
    )
    self._programs = {}  # compiled, by the functions below
    loss_sum, hessian_product = _sums_over_batch(example_losses)
    self._loss_sum = mapped(loss_sum, 1)
    self._loss_and_gradient_sum = mapped(jax.value_and_grad(loss_sum), 1)
    self._hessian_product_sum = mapped(hessian_product, 2)

  def put(self, tree: Any) -> Any:
    """Puts a copy of a tree on every device, unless it is there already."""
    return jax.device_put(tree, self._replicated)

  def value(self, params: Params) -> jax.Array:
    """Mean loss, float32 ()."""
    return self._mean(self._loss_sum, np.float32(0), params)

  def value_and_grad(self, params: Params) -> tuple[jax.Array, Params]:
    """Mean loss and its gradient, a tree like the parameters."""
    return self._mean(
      self._loss_and_gradient_sum, (np.float32(0), params), params
    )

  def hessian_product(self, params: Params, vector: Params) -> Params:
    """Hessian of the mean loss times a tree like the parameters.

    Reverse over forward differentiation: the cost of about two gradients. It
    takes as much memory as forward over reverse, less with few images: 4.33
    instead of 4.40 copies of WRN-28-10's parameters with one, and 12.7 instead
    of 12.5 of WRN-16-4's with eight, as XLA compiles it for a CPU.
    Memory of a device: the parameters, the vector, the sum of the products, at
    most one more copy of the parameters, and twice what a gradient of a batch
    needs beside the parameters and their gradient.
    """
    return self._mean(self._hessian_product_sum, params, params, vector)

  def gradient_program(self, params: Params) -> jax.stages.Compiled:
    """The compiled pass of `value_and_grad`, to look at; params or shapes."""
    like = (jax.ShapeDtypeStruct((), jnp.float32), params)
    return self._program(self._loss_and_gradient_sum, like, params)

  def hessian_program(self, params: Params) -> jax.stages.Compiled:
    """The compiled pass of `hessian_product`, to look at; params or shapes."""
    return self._program(self._hessian_product_sum, params, params, params)

  def _program(self, add_sum, like, *trees):
    """The compiled pass over a batch; `like` has its result's shapes."""
    if add_sum not in self._programs:
      totals = jax.eval_shape(self._zeros, like)
      lowered = add_sum.lower(totals, *trees, self._batches[0])
      self._programs[add_sum] = lowered.compile(compiler_options=self._options)
    return self._programs[add_sum]

  def _mean(self, add_sum, like, *trees):
    """Adds up a function over the batches; `like` has its result's shapes."""
    program = self._program(add_sum, like, *trees)
    totals, trees = self._zeros(like), self.put(trees)
    for batch in self._batches:
      totals = program(totals, *trees, batch)
    # On virtual CPU devices, which share threads, later programs must not get
    # in the way of this one's all-reduce: it would wait for ever.
    return jax.block_until_ready(self._mean_of_totals(totals))


def _sums_over_batch(example_losses: ExampleLosses):
  """Of losses, (params, batch), and products, (params, vector, batch)."""

  def loss_sum(params, batch):
    values = example_losses(params, batch["examples"])
    return jnp.sum(values * batch["mask"])

  def hessian_product(params, vector, batch):
    def slope(params):  # of the loss, along the vector
      loss = functools.partial(loss_sum, batch=batch)
      return jax.jvp(loss, (params,), (vector,))[1]

    return jax.grad(slope)(params)

  return loss_sum, hessian_product


def _padded_batches(examples, batch_size, num_devices):
  """Yields {"examples", "mask"} with leaves [devices, n, ...]."""
  count = len(next(iter(examples.values())))
  for start in range(0, count, batch_size):
    indices = np.arange(start, start + batch_size)
    mask = (indices < count).astype(np.float32)
    indices = np.minimum(indices, count - 1)
    batch = {
      "examples": {name: value[indices] for name, value in examples.items()},
      "mask": mask,
    }
    yield jax.tree.map(
      lambda x: x.reshape(num_devices, -1, *x.shape[1:]), batch
    )
