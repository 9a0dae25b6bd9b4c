"""Masks of parameters by what they are: bias, normalization, kernel.

Each is a function from `params` to a tree of bools, as `mask` of
`sharpness_aware` and of optax takes it.
"""

from typing import Any

import jax
import optax

from sam_jax.arguments import names

# Parameters that are added to activations: biases, and the embeddings of
# positions and of the additional token in Vision Transformers.
_ADDED = ("bias", "cls", "pos_embedding")


def everything(params: optax.Params) -> Any:
  """Return the mask of all leaves."""
  return jax.tree.map(lambda _: True, params)


def weights(params: optax.Params) -> Any:
  """Return the mask of all leaves but biases and embeddings of ViTs.

  ASAM's authors scale these leaves: in PyTorch, names that contain "weight".
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: not _is_added(path), params
  )


def normalization(params: optax.Params) -> Any:
  """Return the mask of normalization layers: modules that have a `scale`."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  paths = [names(path) for path, _ in leaves]
  modules = {path[:-1] for path in paths if path[-1:] == ("scale",)}
  return jax.tree_util.tree_map_with_path(
    lambda path, _: names(path)[:-1] in modules, params
  )


def kernels(params: optax.Params) -> Any:
  """Return the mask of kernels: no normalization, biases, embeddings of ViTs.

  Equal to the rule of google-research/sam, more than one dimension, for its
  networks, and to that of big_vision, named "kernel", for ViTs and Mixers;
  biases of attention heads have two dimensions.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, w, is_norm: w.ndim > 1 and not is_norm and not _is_added(path),
    params,
    normalization(params),
  )


def _is_added(path: tuple[Any, ...]) -> bool:
  return any(name in _ADDED for name in names(path)[-1:])


# Names of the parameters that ASAM scales, see `config.sam.adaptive_mask`.
SCALED_BY_ASAM = {"weights": weights, "kernels": kernels, "all": everything}
