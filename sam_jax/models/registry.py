"""Names of networks: `register` adds a family, `create_model` builds one.

Every file of this folder registers its own families: a new network is one new
file. Networks outside of this package are named "package.module:function".
"""

import dataclasses
import difflib
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax.numpy as jnp

from sam_jax.models.classifier import AxisGroups, Classifier, LayerSettings

Build = Callable[..., Classifier]
_Build = TypeVar("_Build", bound=Build)


@dataclasses.dataclass(frozen=True)
class Family:
  """Networks that one function builds.

  Attributes:
    pattern: Regular expression that matches the whole name of a network.
    build: Function `(num_classes, settings, *groups, **options)`, where groups
      are those of the match, as int if they consist of digits. Its parameters
      after the groups are the options of the family, with their defaults.
    names: Names to list; the pattern may match more.
    general_name: Form of all names that match, to list next to `names`.
    aliases: Other names of the same networks.
    image_size: Side in pixels of the images that the networks were designed
      for, or a function of the name that returns it; None if unknown.
    synchronized: Officially, batch statistics are averaged over all devices.
    patch_group: Number of the group that is the side of a patch in pixels;
      None for networks that take images of any size.
  """

  pattern: str
  build: Build
  names: tuple[str, ...]
  general_name: str = ""
  aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
  image_size: int | Callable[[str], int] | None = 32
  synchronized: bool = False
  patch_group: int | None = None

  def options(self) -> list[str] | None:
    """Return the names of the options; None if `build` takes any name."""
    parameters = list(inspect.signature(self.build).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
      return None
    num_positional = 2 + re.compile(self.pattern).groups
    names = [p.name for p in parameters[num_positional:]]
    # Linen adds these two to every class.
    return sorted(set(names) - {"parent", "name"})


# By pattern, so that a file that runs twice replaces its own families.
_FAMILIES: dict[str, Family] = {}


def register(pattern: str, **attributes: Any) -> Callable[[_Build], _Build]:
  r"""Return a decorator that makes networks known to `create_model`.

  >>> @register(r"mlp_(\d+)", names=("mlp_2",))
  ... class Perceptron(Classifier):
  ...   depth: int
  ...   width: int = 128
  ...   @nn.compact
  ...   def logits(self, x, settings):
  ...     x = x.reshape(len(x), -1)
  ...     for _ in range(self.depth):
  ...       x = nn.relu(nn.Dense(self.width, dtype=settings.dtype)(x))
  ...     return nn.Dense(self.num_classes)(x)
  >>> model = create_model("mlp_3", num_classes=10, width=64)
  >>> model.depth, model.width
  (3, 64)

  Args:
    pattern: Regular expression that matches the whole name of a network. Its
      groups are arguments of the function or class.
    **attributes: Other attributes of `Family`; `names` is the pattern itself
      unless given.

  Returns:
    A decorator of a function that builds networks or of a `Classifier` class.
  """

  def decorate(build: _Build) -> _Build:
    attributes.setdefault("names", (pattern,))
    _FAMILIES[pattern] = Family(pattern, build, **attributes)
    return build

  return decorate


def known_models() -> list[str]:
  """Return the names that error messages list, sorted.

  Some families have more members, such as any `wrn{depth}_{width}`.
  """
  names = {name for f in families() for name in (*f.names, *f.aliases)}
  return sorted(name for name in names if "-" not in name)


def image_size(name: str) -> int | None:
  """Return the side in pixels of the images that a network was designed for.

  Every network accepts other sizes too. None if the size is unknown, as it is
  of networks outside of this package.

  Raises:
    ValueError: The name is unknown.
  """
  family, match = _lookup(name)
  size = family.image_size
  return size(match[0]) if callable(size) else size


def options(name: str) -> list[str] | None:
  """Return the options that a network takes; None if it takes any.

  Raises:
    ValueError: The name is unknown.
  """
  return _lookup(name)[0].options()


def synchronizes_batch_norm(name: str) -> bool:
  """Return True if the official network averages statistics over all devices.

  Raises:
    ValueError: The name is unknown.
  """
  return _lookup(name)[0].synchronized


def patch_size(name: str) -> int:
  """Return the side in pixels that divides the sides of a network's images.

  It is 1 for networks that do not cut images into patches.

  Raises:
    ValueError: The name is unknown.
  """
  family, match = _lookup(name)
  return 1 if family.patch_group is None else int(match[family.patch_group])


def create_model(
  name: str,
  num_classes: int,
  *,
  dtype: Any = jnp.float32,
  precision: str | None = None,
  batch_norm_axis: str | None = None,
  batch_norm_groups: Sequence[Sequence[int]] | None = None,
  freeze_batch_norm: bool = False,
  remat: bool = False,
  **options: Any,
) -> Classifier:
  """Build a network by name.

  Args:
    name: One of `known_models()`; another member of a family, such as
      `wrn{depth}_{width}`; or "package.module:function" for a network outside
      of this package, built by a function `(num_classes, settings, **options)`
      that returns a `Classifier`, or by a `Classifier` class.
    num_classes: Number of logits.
    dtype: Type of activations, for example `jnp.bfloat16`.
    precision: "high" or "highest" precision of float32 convolutions and matrix
      products; None for JAX's choice.
    batch_norm_axis: Name of the mapped axis over which batch statistics are
      averaged in train mode; None keeps them local to each device.
    batch_norm_groups: Replica groups of that average, as in `lax.pmean`.
    freeze_batch_norm: Normalize by running averages in train mode too, and
      leave them unchanged (fine-tuning).
    remat: Recompute activations block by block in the backward pass.
    **options: Options of the family, such as `dropout_rate` of wide ResNets
      and EfficientNets. None is the family's default.

  Returns:
    A Linen module; see `Classifier` for its call.

  Raises:
    ValueError: The name is unknown, or the family lacks an option.
  """
  if num_classes < 1:
    raise ValueError(f"num_classes must be at least 1, not {num_classes}.")
  if batch_norm_groups is not None and batch_norm_axis is None:
    raise ValueError("batch_norm_groups needs batch_norm_axis.")
  family, match = _lookup(name)
  settings = LayerSettings(
    dtype=dtype,
    precision=precision,
    batch_norm_axis=batch_norm_axis,
    batch_norm_groups=_as_tuples(batch_norm_groups),
    freeze_batch_norm=freeze_batch_norm,
    remat=remat,
  )
  groups = (int(g) if g and g.isdigit() else g for g in match.groups())
  arguments = (num_classes, settings, *groups)
  given = {key: value for key, value in options.items() if value is not None}
  _check_arguments(name, family, arguments, given)
  model = family.build(*arguments, **given)
  if not isinstance(model, Classifier):
    raise ValueError(
      f"{name!r} must be a sam_jax.models.Classifier, not a "
      f"{type(model).__name__}: derive it from that class."
    )
  return model


@functools.cache
def _import_families() -> None:
  """Import the files of this folder, which register their families."""
  package = importlib.import_module("sam_jax.models")
  for module in pkgutil.iter_modules(package.__path__):
    if module.name == "__main__":  # a command
      continue
    importlib.import_module(f"sam_jax.models.{module.name}")


def families() -> list[Family]:
  """Return all families, those of a file together."""
  _import_families()
  # By file: other files may have imported some of them before.
  return sorted(_FAMILIES.values(), key=lambda f: f.build.__module__)


def _lookup(name: str) -> tuple[Family, re.Match[str]]:
  """Return the family of a name, and the match of its pattern.

  Raises:
    ValueError: The name is unknown.
  """
  known_families = [_imported_family(name)] if ":" in name else families()
  for family in known_families:
    match = re.fullmatch(family.pattern, family.aliases.get(name, name))
    if match:
      return family, match
  known = known_models()
  aliases = [alias for family in known_families for alias in family.aliases]
  near = difflib.get_close_matches(name, [*known, *aliases], n=1, cutoff=0.4)
  hint = f" Did you mean {near[0]!r}?" if near else ""
  general = sorted(f.general_name for f in known_families if f.general_name)
  raise ValueError(
    f"Unknown model {name!r}.{hint} Known: {', '.join(known)}; also any "
    f"{', '.join(general)}, and package.module:function."
  )


def _imported_family(name: str) -> Family:
  """Return the family of one network, outside of this package.

  Args:
    name: "package.module:function"; the function may be a class.

  Raises:
    ValueError: There is no such function.
  """
  module_name, _, function_name = name.partition(":")
  try:
    module = importlib.import_module(module_name)
  except (ImportError, TypeError, ValueError) as error:
    raise ValueError(
      f"Unknown model {name!r}: can't import {module_name!r} ({error}). Add "
      "its directory to PYTHONPATH, or correct the name."
    ) from error
  build = getattr(module, function_name, None)
  if not callable(build):
    raise ValueError(
      f"Unknown model {name!r}: {module_name} has no function or class "
      f"{function_name!r}."
    )
  return Family(re.escape(name), build, (name,), image_size=None)


def _check_arguments(
  name: str, family: Family, arguments: tuple, options: Mapping[str, Any]
) -> None:
  """Check the arguments of `family.build`.

  Raises:
    ValueError: The family lacks an option, a rate is out of range, or the
      function takes other arguments.
  """
  known = family.options()
  for option, value in options.items():
    if known is not None and option not in known:
      raise ValueError(
        f"{name!r} has no option {option!r}; it takes "
        f"{', '.join(known) or 'none'}."
      )
    is_rate = option.endswith("_rate")
    if is_rate and (isinstance(value, str) or not 0 <= value < 1):
      raise ValueError(f"{option} must be in [0, 1), not {value!r}.")
  try:
    inspect.signature(family.build).bind(*arguments, **options)
  except TypeError as error:
    raise ValueError(
      f"{name!r} must take (num_classes, settings, **options): {error}."
    ) from error


def _as_tuples(groups: Sequence[Sequence[int]] | None) -> AxisGroups | None:
  # Linen hashes the settings, and lists are not hashable.
  if groups is None:
    return None
  return tuple(tuple(int(i) for i in group) for group in groups)
