"""The shared check of checkpoints: names and shapes are those of a network."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from sam_jax import wording
from sam_jax.models.classifier import Classifier
from sam_jax.models.registry import create_model
from sam_jax.pretrained import position_embeddings
from sam_jax.pretrained.checkpoint import (
  Checkpoint,
  CheckpointError,
  FlatArrays,
  Variables,
  first_of,
  is_head,
)


def load_pretrained(
  checkpoint: Checkpoint, variables: Variables
) -> tuple[dict[str, Any], str]:
  """Replace freshly initialized variables by those of a checkpoint.

  The final linear layer stays as initialized if the numbers of classes differ,
  and if the checkpoint has none. Position embeddings are resized to the network
  for another size of images. All other names and shapes must be the same in
  both.

  Args:
    checkpoint: Weights of any source.
    variables: `{"params", "batch_stats"}` of the network to fill, arrays or
      `jax.ShapeDtypeStruct`s.

  Returns:
    The filled variables (NumPy arrays, float32) and a line that reports what
    was loaded.

  Raises:
    CheckpointError: It is of another architecture.
  """
  fresh = traverse_util.flatten_dict(dict(variables["params"]), sep="/")
  fresh_stats = traverse_util.flatten_dict(
    dict(variables.get("batch_stats", {})), sep="/"
  )
  new_head = _new_head(fresh, checkpoint.params)
  params = position_embeddings.fit(checkpoint.params, fresh)
  loaded = {k: v for k, v in params.items() if k not in new_head}
  expected = {k: v for k, v in fresh.items() if k not in new_head}
  found_stats = checkpoint.batch_stats
  _check_match(checkpoint, "parameter", expected, loaded)
  _check_match(checkpoint, "batch statistic", fresh_stats, found_stats)
  filled = {k: loaded.get(k, v) for k, v in fresh.items()}
  result = {
    **variables,
    "params": traverse_util.unflatten_dict(filled, sep="/"),
  }
  if fresh_stats:
    stats = traverse_util.unflatten_dict(found_stats, sep="/")
    result["batch_stats"] = stats
  return result, _report(checkpoint, loaded, new_head)


def load_network(
  name: str, checkpoint: Checkpoint
) -> tuple[Classifier, dict[str, Any], str]:
  """Build the network of a checkpoint, with as many classes as it has.

  Args:
    name: Name of the network, see `create_model`.
    checkpoint: Its weights.

  Returns:
    The network, its variables and a line that reports what was loaded.

  Raises:
    ValueError: The name is unknown, or the checkpoint is not one of it
      (`CheckpointError`).
  """
  classes = checkpoint.num_classes()
  model = create_model(name, classes or 1)
  fixed_shape = position_embeddings.image_shape(checkpoint.params)
  shape = fixed_shape or checkpoint.image_shape
  image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  keys = {"params": jax.random.key(0)}
  shapes = jax.eval_shape(lambda x: model.init(keys, x, train=False), image)
  variables, report = load_pretrained(checkpoint, shapes)
  if classes is None:
    raise CheckpointError(
      f"{checkpoint.path} ({checkpoint.kind}) has no linear layer. Start a run"
      " from it with config.pretrained, or give a file with that layer."
    )
  return model, variables, report


def _new_head(fresh: Mapping[str, Any], loaded: FlatArrays) -> dict[str, Any]:
  """Return the parameters of the linear layer that stay as initialized.

  These are all of it if only its outputs differ, or if the file has no linear
  layer at all.
  """
  head = {name: value for name, value in fresh.items() if is_head(name)}
  if not any(is_head(name) for name in loaded):
    return head
  resized = [
    name
    for name, value in head.items()
    if name in loaded
    and value.shape[:-1] == loaded[name].shape[:-1]
    and value.shape != loaded[name].shape
  ]
  layers = {name.rpartition("/")[0] for name in resized}
  return {n: v for n, v in fresh.items() if n.rpartition("/")[0] in layers}


def _check_match(
  checkpoint: Checkpoint,
  what: str,
  expected: Mapping[str, Any],
  found: FlatArrays,
) -> None:
  """Compare names and shapes of arrays.

  Raises:
    CheckpointError: They differ; the message has the first differences.
  """

  def in_file(name: str) -> str:
    source = checkpoint.sources.get(name)
    return f"{name!r} ({source} in the file)" if source else repr(name)

  missing = sorted(set(expected) - set(found))
  surplus = sorted(set(found) - set(expected))
  different = [
    f"{in_file(name)} has shape {found[name].shape}, not"
    f" {tuple(expected[name].shape)}"
    for name in sorted(set(expected) & set(found))
    if tuple(expected[name].shape) != found[name].shape
  ]
  problems = []
  if missing:
    problems.append(
      f"lacks {len(missing)} of the network's"
      f" {wording.count(len(expected), f'{what} array')}"
      f" ({first_of(map(repr, missing))})"
    )
  if surplus:
    problems.append(
      f"has {wording.count(len(surplus), f'{what} array')} that the network"
      " lacks"
      f" ({first_of(map(in_file, surplus))})"
    )
  if different:
    problems.append(
      f"has {wording.count(len(different), f'{what} array')} of another shape"
      f" ({first_of(different)})"
    )
  if problems:
    raise CheckpointError(
      f"{checkpoint.path} ({checkpoint.kind}) {' and '.join(problems)}. Use the"
      " network that it was made from, or another checkpoint."
    )


def _report(
  checkpoint: Checkpoint, loaded: FlatArrays, new_head: Mapping[str, Any]
) -> str:
  values = sum(value.size for value in loaded.values())
  line = (
    f"Loaded {wording.count(len(loaded), 'parameter array')}"
    f" ({values:,} values) and {len(checkpoint.batch_stats)} batch statistics"
    f" from {checkpoint.path} ({checkpoint.kind})"
  )
  classes = checkpoint.num_classes()
  if new_head:
    name, new = next(iter(new_head.items()))
    old = checkpoint.params.get(name)
    instead = "as the file has no head"
    if old is not None:
      instead = f"instead of {old.shape[-1]}"
    line += (
      f"; {', '.join(sorted(new_head))} newly initialized for"
      f" {new.shape[-1]} classes {instead}."
    )
  elif classes:
    line += f", the head of {classes} classes included."
  else:
    line += "."
  resized = position_embeddings.report(checkpoint.params, loaded)
  return " ".join(filter(None, (line, resized, checkpoint.preprocessing)))
