"""Paths between two trained networks: a line, or a curve of low loss.

Along a path, batch statistics are measured again at each point: those of the
ends, or means of them, belong to other parameters, and would show a barrier
that is not there.

References: Garipov et al. (NeurIPS 2018), https://arxiv.org/abs/1802.10026,
for curves; Frankle et al. (ICML 2020), https://arxiv.org/abs/1912.05671, for
the barrier of the line.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sam_jax.analysis.objective import Params
from sam_jax.training import losses

Batch = dict[str, Any]


def point_on_curve(
  start: Params, middle: Params, end: Params, at: jax.typing.ArrayLike
) -> Params:
  """Return a point of the quadratic Bezier curve of three points.

  Args:
    start: Point at 0.
    middle: Control point.
    end: Point at 1.
    at: Position in [0, 1].
  """
  return jax.tree.map(
    lambda a, b, c: (1 - at) ** 2 * a + 2 * at * (1 - at) * b + at**2 * c,
    start,
    middle,
    end,
  )


def midpoint(start: Params, end: Params) -> Params:
  """Return the point half-way: with it, the curve is the line of the ends."""
  return jax.tree.map(lambda a, b: (a + b) / 2, start, end)


def barrier(values: np.ndarray) -> float:
  """Return the largest rise of values above the line between their ends.

  Args:
    values: Losses or errors [points] at equal distances along a path.
  """
  chord = np.linspace(values[0], values[-1], len(values))
  return float(np.max(values - chord))


class TrainModePass:
  """A network in train mode on one device, whose batch statistics are its own.

  Layers normalize by the statistics of the batch that they are given, as in
  training with `batch_norm="device"`, whatever the run used. Nothing depends on
  the number of devices.
  """

  def __init__(
    self,
    model: Any,
    preprocess: Callable[[jax.Array], jax.Array],
    seed: int,
    loss: losses.Loss = losses.cross_entropy,
  ):
    """Prepare a network.

    Args:
      model: The network, as in `build.model`.
      preprocess: uint8 images [n, h, w, C] -> float images [n, H, W, C].
      seed: Seed of dropout and of other random layers.
      loss: (logits, targets) -> loss of each example.
    """
    settings = dataclasses.replace(
      model.settings,
      dtype=jnp.float32,
      precision="highest",
      batch_norm_axis=None,
      batch_norm_groups=None,
      momentum=0.0,  # the new average is the statistic of the batch
    )
    self._model = model.clone(settings=settings)
    self._preprocess, self._seed, self._loss = preprocess, seed, loss
    self._statistics_of_batch = jax.jit(lambda *args: self._apply(*args)[1])

  def _apply(
    self, variables: dict[str, Any], batch: Batch
  ) -> tuple[jax.Array, Any]:
    """Return the logits of a batch, and its statistics."""
    logits, updated = self._model.apply(
      variables,
      self._preprocess(batch["image"]),
      train=True,
      rngs={"dropout": jax.random.key(self._seed)},
      mutable=["batch_stats"],
    )
    return logits, updated.get("batch_stats", {})

  def loss(self, variables: dict[str, Any], batch: Batch) -> jax.Array:
    """Return the mean loss of a batch, float32 ()."""
    logits, _ = self._apply(variables, batch)
    targets = jax.nn.one_hot(batch["label"], logits.shape[-1])
    return self._loss(logits, targets).mean()

  def statistics(
    self, variables: dict[str, Any], examples: Batch, batch_size: int
  ) -> Any:
    """Return batch statistics of parameters, the mean over batches of examples.

    Args:
      variables: `params` to measure; `batch_stats` of any values.
      examples: `image` uint8 [N, h, w, C] and `label` int [N].
      batch_size: Examples that share statistics. A last batch of fewer is left
        out.
    """
    if not variables["batch_stats"]:
      return variables["batch_stats"]
    found = [
      jax.device_get(self._statistics_of_batch(variables, batch))
      for batch in _batches(examples, batch_size)
    ]
    return jax.tree.map(lambda *x: np.mean(x, axis=0), *found)


def find_curve(
  network: TrainModePass,
  start: dict[str, Any],
  end: dict[str, Any],
  examples: Batch,
  batch_size: int,
  *,
  steps: int,
  learning_rate: float = 0.01,
  seed: int = 0,
  on_step: Callable[[int], Any] = lambda done: None,
) -> Params:
  """Train the control point of a curve of low loss between two networks.

  SGD with momentum 0.9 on the loss at random positions, in train mode on one
  device; the learning rate falls linearly to 0.

  Args:
    network: The network of both.
    start: Variables of the network at 0.
    end: Variables of the network at 1.
    examples: Training examples, `image` and `label`.
    batch_size: Examples of a step.
    steps: Number of steps.
    learning_rate: Learning rate at the start.
    seed: Seed of positions and batches.
    on_step: Called with 1 after each step.

  Returns:
    The control point, a tree of NumPy arrays like the parameters.
  """
  optimizer = optax.sgd(
    optax.linear_schedule(learning_rate, 0.0, steps), momentum=0.9
  )

  @jax.jit
  def step(middle, state, start, end, batch, at):
    def loss(middle):
      params = point_on_curve(start["params"], middle, end["params"], at)
      return network.loss({**start, "params": params}, batch)

    updates, state = optimizer.update(jax.grad(loss)(middle), state, middle)
    return optax.apply_updates(middle, updates), state

  start, end = jax.device_put((start, end))  # once, and not at every step
  middle = midpoint(start["params"], end["params"])
  state = optimizer.init(middle)
  random = np.random.default_rng(seed)
  count = len(examples["label"])
  for _ in range(steps):
    chosen = random.choice(count, min(batch_size, count), replace=False)
    batch = {name: x[chosen] for name, x in examples.items()}
    at = np.float32(random.random())
    middle, state = step(middle, state, start, end, batch, at)
    on_step(1)
  return jax.device_get(middle)


def _batches(examples: Batch, batch_size: int) -> list[Batch]:
  """Return batches of equal size; all examples if they are fewer."""
  count = len(examples["label"])
  size = min(batch_size, count)
  return [
    {name: x[i : i + size] for name, x in examples.items()}
    for i in range(0, count - size + 1, size)
  ]
