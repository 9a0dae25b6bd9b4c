"""Checks of networks, methods and optimizers that a config names.

They are programs of anybody: each is traced once, before any data work, and
what goes wrong becomes one line that names the field.
"""

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from sam_jax import models
from sam_jax.arguments import names
from sam_jax.config.hints import closest
from sam_jax.config.schema import ConfigError
from sam_jax.datasets.catalog import DatasetSpec
from sam_jax.one_gradient import gradient_point
from sam_jax.training import hyperparameters


@contextlib.contextmanager
def errors_of(field: str, value: Any) -> Iterator[None]:
  """Convert errors of a user's choice to one that names the field.

  Args:
    field: Dotted name of the field.
    value: Its value.

  Raises:
    ConfigError: Any exception was raised inside the context.
  """
  try:
    yield
  except ConfigError:  # names its field
    raise
  except Exception as error:  # methods and networks are programs
    cause = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, jax.errors.TracerBoolConversionError):
      cause = (
        "it branches on a traced value, such as rho: use jnp.where, not `if`."
      )
    elif not isinstance(error, ValueError):
      cause = f"{type(error).__name__}: {cause}"
    raise ConfigError(f"config.{field} = {value!r}: {cause}") from error


def check_network(config: ConfigDict, spec: DatasetSpec, network: Any) -> None:
  """Check that a network from a user's file maps images to logits.

  Args:
    config: The config that names it.
    spec: Its data set.
    network: The network.

  Raises:
    ConfigError: It fails, or returns something else.
  """

  def forward(key):
    images = jnp.zeros((2, *spec.image_shape))
    variables = network.init({"params": key}, images, train=False)
    return network.apply(variables, images, train=False)

  with errors_of("model.name", config.model.name):
    logits = jax.eval_shape(forward, jax.random.key(0))
    if getattr(logits, "shape", None) != (2, spec.num_classes):
      raise ValueError(
        f"it must return logits of the shape [N, {spec.num_classes}], got"
        f" {logits} for N = 2."
      )


def check_decisions(
  config: ConfigDict, batch_norm_scope: str, num_devices: int
) -> None:
  """Check that devices that compute statistics together take the same steps.

  Args:
    config: The config, with `sam.m` set.
    batch_norm_scope: The devices that share batch statistics.
    num_devices: Devices of the run, over all hosts.

  Raises:
    ConfigError: They would wait for each other.
  """
  is_shared = batch_norm_scope == "all"
  is_alone = config.sam.m < config.batch_size and num_devices > 1
  if config.sam.method == "ae_sam" and is_shared and is_alone:
    raise ConfigError(
      "config.sam.method = 'ae_sam' lets every shard choose its steps of SAM,"
      " and config.model.batch_norm = 'all' needs all devices in each of them:"
      f" set config.sam.m = {config.batch_size}, or batch_norm = 'm'."
    )


def check_transformation(
  config: ConfigDict,
  field: str,
  build: Callable[[ConfigDict, optax.Schedule], optax.GradientTransformation],
) -> None:
  """Trace one update of a method or of an optimizer on a few parameters.

  The numbers of the config are traced, too, as in a training step.

  Args:
    config: The config that names it.
    field: The field of the name, such as "sam.method".
    build: (config, learning rate by step) -> the transformation.

  Raises:
    ConfigError: It fails, or changes the type of its updates or of its state.
  """
  layer = {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}
  params = {"dense": layer, "norm": {"scale": layer["bias"], **layer}}

  def update(numbers, params):
    traced = hyperparameters.insert(config, numbers)
    rate = optax.constant_schedule(traced.optimizer.learning_rate)
    transformation = optax.with_extra_args_support(build(traced, rate))
    state = transformation.init(params)
    point = gradient_point(transformation, state, params)
    updates, new_state = transformation.update(
      point, state, params, grad_fn=lambda w, _: (jnp.zeros(()), w)
    )
    as_arrays = functools.partial(jax.tree.map, jnp.asarray)
    return as_arrays((params, state)), as_arrays((updates, new_state))

  group, _, name = field.partition(".")
  with errors_of(field, config[group][name]):
    numbers = hyperparameters.extract(config)
    before, after = jax.eval_shape(update, numbers, params)
    for name, source, wanted, found in zip(
      ("updates", "a state"), ("params", "init's"), before, after, strict=True
    ):
      if difference := _difference(wanted, found):
        raise ValueError(
          f"update must return {name} like {source}, but {difference}."
        )


def _difference(wanted: Any, found: Any) -> str:
  """Return the first difference between two trees of arrays, "" if none."""
  trees = [
    {
      "/".join(names(path)) or "it": f"{x.dtype}{list(x.shape)}"
      for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
    for tree in (wanted, found)
  ]
  for leaf in trees[0] | trees[1]:
    old, new = (tree.get(leaf) for tree in trees)
    if new is None:
      return f"{leaf} ({old}) is missing: return it, too"
    if old is None:
      return f"{leaf} ({new}) is new: drop it, or let init return it, too"
    if new != old:
      return f"{leaf} is {new}, not {old}: convert it"
  structures: list[Any] = [jax.tree.structure(t) for t in (wanted, found)]
  if structures[0] == structures[1]:
    return ""
  return "its leaves are in containers of other types: use the same ones"


def call_method(
  method: Callable[..., Any],
  rho: optax.ScalarOrSchedule,
  given: dict[str, Any],
  fields: ConfigDict,
) -> Any:
  """Call a method with the arguments that a config has for it.

  Args:
    method: The function.
    rho: Its first argument.
    given: The others.
    fields: `config.sam`.

  Raises:
    ValueError: It does not take an argument, or lacks one; the message names
      the field.
  """
  _, *parameters = inspect.signature(method).parameters.values()
  own = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
  if len(own) == len(parameters):
    for name in given:
      if name not in own:
        raise ValueError(_no_use(name, own, given, fields))
  for parameter in parameters:
    name, is_variable = parameter.name, parameter.kind is parameter.VAR_KEYWORD
    if name in given or is_variable or parameter.default is not parameter.empty:
      continue
    if name in fields:
      raise ValueError(
        f"set config.sam.{name}, to another value than {fields[name]!r}."
      )
    raise ValueError(f"set config.sam.options.{name}.")
  try:
    return method(rho, **given)
  except TypeError as error:
    # Of a function that gets the keywords of the method.
    match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if match is None or match[1] not in given:
      raise
    raise ValueError(_no_use(match[1], own, given, fields)) from error


def _no_use(
  name: str, own: list[str], given: dict[str, Any], fields: ConfigDict
) -> str:
  """Return a message about an argument that a method does not take.

  Args:
    name: Name of the argument.
    own: Arguments that the method names.
    given: Arguments that it gets.
    fields: `config.sam`.
  """
  known = [n for n in own if n in fields or n not in given]
  field = f"sam.{name}" if name in fields else f"sam.options.{name}"
  hint = f" Did you mean {close!r}?" if (close := closest(name, known)) else ""
  return (
    f"it has no use for config.{field}; it takes"
    f" {', '.join(known) or 'no option'}.{hint}"
  )


def check_patches(config: ConfigDict, spec: DatasetSpec) -> None:
  """Check that images consist of whole patches.

  Raises:
    ConfigError: The network would not see the pixels at their edge.
  """
  patch = models.patch_size(config.model.name)
  height, width, _ = spec.image_shape
  if height % patch or width % patch:
    raise ConfigError(
      f"config.model.name = {config.model.name!r} cuts images into patches of"
      f" {patch}x{patch} pixels, which {height}x{width} is no multiple of."
      f" Choose a smaller patch, or set config.dataset.image_size, to"
      f" {max(1, round(height / patch)) * patch} for example."
    )
