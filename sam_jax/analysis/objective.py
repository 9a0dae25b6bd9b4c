"""The loss of fixed examples as a function of the parameters alone.

All analyses use it. The network is in evaluation mode: running averages of the
batch statistics, no augmentation, no dropout, no weight decay. All local
devices take part, and their number does not change the result, up to the order
of float32 sums.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from sam_jax.datasets.in_memory import InMemoryDataset
from sam_jax.training import losses, parallel

Params = Any
# (params, batch) -> loss of each example, float32 [n]. Arrays of a `Partial`
# are arguments of a compiled program; those in other functions are constants.
ExampleLosses = Callable[[Params, dict[str, jax.Array]], jax.Array]
# XLA's default on CPUs transposes all kernels in advance, for concurrency. That
# takes two more copies of the parameters, and WRN-28-10 is not faster.
_LITTLE_MEMORY_ON_CPU = {
  "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
}


def network_losses(
  model: Any,
  preprocess: Callable[[jax.Array], jax.Array],
  loss: losses.Loss = losses.cross_entropy,
  *,
  normalize_logits: bool = False,
) -> ExampleLosses:
  """Return the losses of a network in evaluation mode.

  Args:
    model: The network, as in `build.model`.
    preprocess: uint8 images [n, h, w, C] -> float images [n, H, W, C].
    loss: (logits, targets) -> loss of each example.
    normalize_logits: Subtract the mean of the logits of an example, and scale
      them to length 1, as in Andriushchenko et al. (ICML 2023): the loss does
      not change with the scale of the logits.

  Returns:
    A function of variables, {"params", "batch_stats"}, and a batch of `image`
    uint8 [n, h, w, C] and `label` int [n]. Its derivatives treat the batch
    statistics as constants. It computes in float32, with products of the
    highest precision, whatever the network trains in: differences of losses are
    small, and so are perturbations.
  """
  network_logits = _network_logits(model, preprocess)

  def example_losses(variables, batch):
    logits = network_logits(variables, batch)
    if normalize_logits:
      logits = _normalize(logits)
    targets = jax.nn.one_hot(batch["label"], logits.shape[-1])
    return loss(logits, targets)

  return example_losses


def network_errors(
  model: Any, preprocess: Callable[[jax.Array], jax.Array]
) -> ExampleLosses:
  """Return 1 for each example that a network gets wrong, and 0 otherwise.

  Arguments and precision are those of `network_losses`.
  """
  network_logits = _network_logits(model, preprocess)

  def example_errors(variables, batch):
    return losses.top_k_error(
      network_logits(variables, batch), batch["label"], 1
    )

  return example_errors


def _network_logits(
  model: Any, preprocess: Callable[[jax.Array], jax.Array]
) -> Callable[..., jax.Array]:
  """Return (variables, batch) -> logits in evaluation mode and float32."""
  settings = dataclasses.replace(
    model.settings, dtype=jnp.float32, precision="highest"
  )
  model = model.clone(settings=settings)

  def network_logits(variables, batch):
    statistics = jax.lax.stop_gradient(variables["batch_stats"])
    return model.apply(
      {"params": variables["params"], "batch_stats": statistics},
      preprocess(batch["image"]),
      train=False,
    )

  return network_logits


def _normalize(logits: jax.Array) -> jax.Array:
  """Center logits [n, classes], and scale them to length 1; zero stays zero."""
  logits = logits - logits.mean(axis=-1, keepdims=True)
  square = jnp.sum(logits**2, axis=-1, keepdims=True)
  return logits * jnp.where(square > 0, square, 1) ** -0.5


def first_examples(
  dataset: Any, split: str, limit: int | None = None
) -> dict[str, np.ndarray]:
  """Return the first examples of a split.

  Args:
    dataset: The data set of a run.
    split: "test", or "train". The labels of "train" are those of training if
      the images are in memory, and clean ones if they are streamed.
    limit: Maximum number of examples; None for all.

  Returns:
    `image` uint8 [N, H, W, C] and `label` int32 [N]. All processes get the
    same training images from memory. Each process gets its own part of test
    sets and of streamed images.
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


def as_partial(example_losses: ExampleLosses) -> Partial:
  """Return the same function as an argument for compiled programs."""
  if isinstance(example_losses, Partial):
    return example_losses
  return Partial(example_losses)


def replicated_sharding(
  devices: Sequence[jax.Device] | None = None,
) -> jax.sharding.Sharding:
  """Return the sharding that puts a copy of an array on every device.

  `jax.device_put` with this sharding skips arrays that already have it.
  `parallel.replicate` always copies, so its results may be donated.

  Args:
    devices: Devices to use; None for all of this host.
  """
  return parallel.replicate(np.float32(0), devices).sharding


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
    devices: list[jax.Device] | None = None,
  ):
    """Put the examples on the devices.

    Args:
      example_losses: (params, batch) -> loss of each example [n].
      examples: Arrays [N, ...], an entry for each of the N examples.
      batch_size: Examples of a pass, over all devices.
      devices: Devices to use; None for all of this host.

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
    self._batches = [
      parallel.shard(batch, devices)
      for batch in _padded_batches(examples, batch_size)
    ]
    self._replicated = replicated_sharding(devices)

    def mean(totals):
      return jax.tree.map(lambda x: x.sum(axis=0) / self.num_examples, totals)

    self._zeros = jax.jit(
      lambda tree: jax.tree.map(
        lambda x: jnp.zeros((len(devices), *x.shape), x.dtype), tree
      ),
      out_shardings=self._batches[0]["mask"].sharding,
    )
    self._mean_of_totals = jax.jit(mean, out_shardings=self._replicated)
    self._options = (
      _LITTLE_MEMORY_ON_CPU if devices[0].platform == "cpu" else None
    )
    self._losses = self.put(as_partial(example_losses))
    self._passes = {
      "loss": _add_to_total(_loss_sum, 1, devices),
      "gradient": _add_to_total(jax.value_and_grad(_loss_sum), 1, devices),
      "gradient_norms": _add_to_total(_sum_of_gradient_norms, 1, devices),
      "hessian_product": _add_to_total(_hessian_product, 2, devices),
    }
    self._programs: dict[str, jax.stages.Compiled] = {}  # by name of the pass

  def put(self, tree: Any) -> Any:
    """Put a copy of a tree on every device, unless it is there already."""
    return jax.device_put(tree, self._replicated)

  def value(self, params: Params) -> jax.Array:
    """Return the mean loss, float32 ()."""
    return self._mean("loss", params)

  def value_and_grad(self, params: Params) -> tuple[jax.Array, Params]:
    """Return the mean loss and its gradient, a tree like the parameters."""
    return self._mean("gradient", params)

  def mean_squared_gradient(self, params: Params) -> jax.Array:
    """Return the mean squared norm of the gradients of examples, float32 ().

    Each device takes one example at a time: memory is that of one gradient.
    """
    return self._mean("gradient_norms", params)

  def hessian_product(self, params: Params, vector: Params) -> Params:
    """Multiply the Hessian of the mean loss by a tree like the parameters.

    Reverse over forward differentiation: the cost of about two gradients. It
    takes as much memory as forward over reverse, and less with few images: 4.33
    instead of 4.40 copies of WRN-28-10's parameters with one, and 12.7 instead
    of 12.5 of WRN-16-4's with eight, as XLA compiles it for a CPU.

    Each product computes the gradient again. Keep nothing between products:
    with the residuals of `jax.linearize`, a Lanczos run of WRN-16-4 on sixteen
    32x32 images took 0.77 of the CPU time, but needs a second program and 25
    copies of the parameters for each such batch. One of ResNet-18 on digits
    took as long as without.

    Memory of a device: the parameters, the vector, the sum of the products, at
    most one more copy of the parameters, and twice what a gradient of a batch
    needs in addition to the parameters and their gradient.
    """
    return self._mean("hessian_product", params, vector)

  def program(self, name: str, params: Params) -> jax.stages.Compiled:
    """Return the compiled pass over a batch, for example to see its memory.

    Args:
      name: "loss", "gradient" (with the loss), "gradient_norms", or
        "hessian_product".
      params: The parameters, or their shapes.
    """
    if name not in self._programs:
      totals = jax.eval_shape(self._zeros, _result_like(name, params))
      vectors = [params] if name == "hessian_product" else []
      lowered = self._passes[name].lower(
        totals, params, *vectors, self._losses, self._batches[0]
      )
      self._programs[name] = lowered.compile(compiler_options=self._options)
    return self._programs[name]

  def _mean(self, name: str, params: Params, *vectors: Params) -> Any:
    """Add up a pass over all batches, and divide by the number of examples."""
    program = self.program(name, params)
    totals = self._zeros(_result_like(name, params))
    trees = self.put((params, *vectors))
    for batch in self._batches:
      totals = program(totals, *trees, self._losses, batch)
    # Virtual CPU devices share threads: a later program that took them would
    # block the all-reduce of this one forever.
    return jax.block_until_ready(self._mean_of_totals(totals))


def _add_to_total(
  fn: Callable[..., Any], num_trees: int, devices: Sequence[jax.Device]
) -> Any:
  """Compile (total, *trees, example_losses, batch) -> total + fn(...).

  Each device keeps its own sum until the end. It is donated: the addition needs
  no second copy.
  """
  return parallel.map_over_devices(
    lambda total, *args: jax.tree.map(jnp.add, total, fn(*args)),
    in_axes=(0, *[None] * num_trees, None, 0),
    out_axes=0,
    donate_argnums=0,
    devices=devices,
  )


def _result_like(name: str, params: Params) -> Any:
  """Return a tree with the shapes and dtypes of the result of a pass."""
  loss = np.float32(0)
  return {
    "loss": loss,
    "gradient": (loss, params),
    "gradient_norms": loss,
    "hessian_product": params,
  }[name]


def _loss_sum(
  params: Params, example_losses: ExampleLosses, batch: dict[str, Any]
) -> jax.Array:
  """Return the sum of the losses of a batch, float32 ()."""
  values = example_losses(params, batch["examples"])
  return jnp.sum(values * batch["mask"])


def _hessian_product(
  params: Params,
  vector: Params,
  example_losses: ExampleLosses,
  batch: dict[str, Any],
) -> Params:
  """Multiply the Hessian of the sum of the losses by a vector."""

  def slope(params):  # of the loss, along the vector
    return jax.jvp(
      lambda w: _loss_sum(w, example_losses, batch), (params,), (vector,)
    )[1]

  return jax.grad(slope)(params)


def _sum_of_gradient_norms(
  params: Params, example_losses: ExampleLosses, batch: dict[str, Any]
) -> jax.Array:
  """Return the sum of the squared norms of the gradients, float32 ()."""

  def squared_norm(example):
    one = jax.tree.map(lambda x: x[None], example)
    gradient = jax.grad(lambda w: example_losses(w, one).sum())(params)
    return optax.tree.norm(gradient, squared=True)

  return jnp.sum(jax.lax.map(squared_norm, batch["examples"]) * batch["mask"])


def _padded_batches(
  examples: dict[str, np.ndarray], batch_size: int
) -> Iterator[dict[str, Any]]:
  """Yield {"examples", "mask"} with leaves [batch_size, ...].

  The last example fills up the last batch, with a mask of 0.
  """
  count = len(next(iter(examples.values())))
  for start in range(0, count, batch_size):
    indices = np.arange(start, start + batch_size)
    mask = (indices < count).astype(np.float32)
    indices = np.minimum(indices, count - 1)
    yield {
      "examples": {name: value[indices] for name, value in examples.items()},
      "mask": mask,
    }
