"""The registry: model names and the options each family takes."""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from sam_jax.models import efficientnet, resnet
from sam_jax.models.layers import AxisGroups, LayerSettings
from sam_jax.models.plain_cnn import PlainCNN
from sam_jax.models.pyramidnet import PyramidNet
from sam_jax.models.shake_shake import ShakeShake
from sam_jax.models.wide_resnet import WideResnet


class Family(NamedTuple):
  """A group of models that are built alike.

  Attributes:
    pattern: regular expression that matches the whole name.
    build: `(match, num_classes, settings, **options) -> module`.
    names: the names to list; the pattern may match more.
    options: keyword arguments of `create_model` that only some families have.
    image_size: native side of the images; None: the configuration knows.
    synchronised: officially, batch statistics are those of all devices.
  """

  pattern: str
  build: Callable[..., nn.Module]
  names: tuple[str, ...]
  options: frozenset[str] = frozenset()
  image_size: int | None = 32
  synchronised: bool = False


def _wide_resnet(
  match: re.Match,
  num_classes: int,
  settings: LayerSettings,
  *,
  dropout_rate: float = 0.0,
  additional_skips: bool = False,
) -> nn.Module:
  depth, width = int(match[1]), int(match[2])
  if (depth - 4) % 6 or depth < 10 or width < 1:
    raise ValueError(
      f"No {match[0]}: a wide ResNet's depth is 6n + 4 (10, 16, 22, 28, 34, "
      "40, ...) and its width at least 1, as in wrn28_10."
    )
  return WideResnet(
    num_classes,
    blocks_per_group=(depth - 4) // 6,
    width=width,
    additional_skips=additional_skips,
    dropout_rate=dropout_rate,
    settings=settings,
  )


def _shake_shake(
  match: re.Match, num_classes: int, settings: LayerSettings
) -> nn.Module:
  blocks, width = {"26_2x96d": (4, 6), "mini": (2, 1)}[match[1]]
  return ShakeShake(num_classes, blocks, width, settings)


def _pyramidnet(
  match: re.Match, num_classes: int, settings: LayerSettings
) -> nn.Module:
  depth = int(match[1])
  if (depth - 2) % 9 or depth < 11:
    raise ValueError(
      f"No {match[0]}: a bottleneck PyramidNet's depth is 9n + 2 (11, 110, "
      "164, 272, ...), as in pyramidnet272."
    )
  shake_drop = match[2] is not None
  return PyramidNet(
    num_classes, depth, shake_drop=shake_drop, settings=settings
  )


def _resnet(
  match: re.Match, num_classes: int, settings: LayerSettings
) -> nn.Module:
  return resnet.ResNet(num_classes, int(match[1]), settings)


def _cifar_resnet(
  match: re.Match, num_classes: int, settings: LayerSettings
) -> nn.Module:
  blocks = (int(match[1]) - 2) // 6
  shortcuts = match[2] is None
  return resnet.CifarResNet(num_classes, blocks, shortcuts, settings)


def _plain_cnn(
  match: re.Match, num_classes: int, settings: LayerSettings
) -> nn.Module:
  depth = int(match[1])
  if depth < 4:
    raise ValueError(f"No {match[0]}: the depth must be at least 4.")
  return PlainCNN(num_classes, depth, settings)


def _efficientnet(
  match: re.Match,
  num_classes: int,
  settings: LayerSettings,
  *,
  dropout_rate: float | None = None,
  stochastic_depth_rate: float = 0.2,
) -> nn.Module:
  config = efficientnet.CONFIGS[match[0]]
  return efficientnet.EfficientNet(
    num_classes,
    config,
    config.dropout_rate if dropout_rate is None else dropout_rate,
    stochastic_depth_rate,
    settings,
  )


_FAMILIES = (
  Family(
    r"wrn(\d+)_(\d+)",
    _wide_resnet,
    ("wrn10_2", "wrn16_8", "wrn28_10", "wrn40_2", "wrn40_10"),
    frozenset({"dropout_rate", "additional_skips", "normalisation"}),
  ),
  Family(
    r"shake_shake_(26_2x96d|mini)",
    _shake_shake,
    ("shake_shake_26_2x96d", "shake_shake_mini"),
  ),
  Family(
    r"pyramidnet(\d+)(_shakedrop)?",
    _pyramidnet,
    ("pyramidnet110", "pyramidnet272", "pyramidnet272_shakedrop"),
  ),
  Family(
    r"resnet(20|32|44|56|110)(_noshort)?",
    _cifar_resnet,
    ("resnet20", "resnet32", "resnet56", "resnet56_noshort"),
  ),
  Family(
    f"resnet({'|'.join(map(str, resnet.RESNETS))})",
    _resnet,
    tuple(f"resnet{depth}" for depth in resnet.RESNETS),
    image_size=224,
  ),
  Family(r"cnn(\d+)", _plain_cnn, ("cnn36", "cnn39")),
  Family(
    "|".join(efficientnet.CONFIGS),
    _efficientnet,
    tuple(efficientnet.CONFIGS),
    frozenset({"dropout_rate", "stochastic_depth_rate"}),
    image_size=None,
    synchronised=True,
  ),
)

# Other names of the same models, most of them the official release's.
_ALIASES = {
  "wrn_mini": "wrn16_1",
  "pyramidnet_mini": "pyramidnet11",
  "pyramidnet_mini_shakedrop": "pyramidnet11_shakedrop",
  "WideResnet_mini": "wrn16_1",
  "WideResnet28x10": "wrn28_10",
  "WideResnet_ShakeShake_mini": "shake_shake_mini",
  "WideResnet28x6_ShakeShake": "shake_shake_26_2x96d",
  "Pyramid_ShakeDrop_mini": "pyramidnet11_shakedrop",
  "Pyramid_ShakeDrop": "pyramidnet272_shakedrop",
  "CNN36": "cnn36",
  "CNN39": "cnn39",
  **{f"Resnet{depth}": f"resnet{depth}" for depth in resnet.RESNETS},
  **{name.replace("_", "-"): name for name in efficientnet.CONFIGS},
}


def known_models() -> list[str]:
  """The names that `create_model` lists, sorted.

  `wrn{depth}_{width}` and `cnn{depth}` also work with other numbers, and
  EfficientNets with hyphens.
  """
  names = {name for family in _FAMILIES for name in family.names} | {*_ALIASES}
  return sorted(name for name in names if "-" not in name)


def image_size(name: str) -> int:
  """Side in pixels of the images that a model was designed for.

  Every model accepts other sizes too.

  Raises:
    ValueError: if the name is unknown.
  """
  family, match = _lookup(name)
  return family.image_size or efficientnet.CONFIGS[match[0]].resolution


def synchronises_batch_norm(name: str) -> bool:
  """Whether the official model takes batch statistics over all devices.

  Raises:
    ValueError: if the name is unknown.
  """
  return _lookup(name)[0].synchronised


def create_model(
  name: str,
  num_classes: int,
  *,
  dtype: Any = jnp.float32,
  batch_norm_axis: str | None = None,
  batch_norm_groups: Sequence[Sequence[int]] | None = None,
  freeze_batch_norm: bool = False,
  normalisation: bool | None = None,
  remat: bool = False,
  dropout_rate: float | None = None,
  stochastic_depth_rate: float | None = None,
  additional_skips: bool | None = None,
) -> nn.Module:
  """Builds a model by name.

  The module's call is `(x, *, train, true_gradient=False)`: float images
  `[N,H,W,C]` to float32 logits `[N,num_classes]`, with the variable
  collections `params` and `batch_stats` (both float32) and, if `train`, the
  rng collection `dropout`.

  Args:
    name: one of `known_models()`, or `wrn{depth}_{width}`, `cnn{depth}`.
    num_classes: number of logits.
    dtype: of activations, for example `jnp.bfloat16`.
    batch_norm_axis: name of the mapped axis over which batch statistics are
      averaged in train mode; None keeps them local to each device.
    batch_norm_groups: replica groups of that average, as in `lax.pmean`.
    freeze_batch_norm: normalise by running averages in train mode too, and
      leave them unchanged (fine-tuning).
    normalisation: False builds the network without batch normalisation (wide
      ResNets only; see `WideResnet` for the learning rate that this needs).
    remat: recompute activations block by block in the backward pass.
    dropout_rate: of the head (EfficientNet) or inside blocks (wide ResNet);
      None is the family's default.
    stochastic_depth_rate: of the last block (EfficientNet); None is 0.2.
    additional_skips: shortcuts around groups (wide ResNet).

  Returns:
    A Linen module.

  Raises:
    ValueError: on an unknown name, or an option the family does not have.
  """
  if num_classes < 1:
    raise ValueError(f"num_classes must be at least 1, not {num_classes}.")
  if batch_norm_groups is not None and batch_norm_axis is None:
    raise ValueError("batch_norm_groups needs batch_norm_axis.")
  family, match = _lookup(name)
  options = _supported(
    name,
    family,
    normalisation=normalisation,
    dropout_rate=dropout_rate,
    stochastic_depth_rate=stochastic_depth_rate,
    additional_skips=additional_skips,
  )
  settings = LayerSettings(
    dtype=dtype,
    batch_norm_axis=batch_norm_axis,
    batch_norm_groups=_as_tuples(batch_norm_groups),
    freeze_batch_norm=freeze_batch_norm,
    normalise=options.pop("normalisation", True),
    remat=remat,
  )
  return family.build(match, num_classes, settings, **options)


def _lookup(name: str) -> tuple[Family, re.Match]:
  canonical = _ALIASES.get(name, name)
  for family in _FAMILIES:
    match = re.fullmatch(family.pattern, canonical)
    if match:
      return family, match
  known = known_models()
  near = difflib.get_close_matches(name, [*known, *_ALIASES], n=1, cutoff=0.4)
  hint = f" Did you mean {near[0]!r}?" if near else ""
  raise ValueError(
    f"Unknown model {name!r}.{hint} Known: {', '.join(known)}; also any "
    "wrn{depth}_{width} and cnn{depth}."
  )


def _supported(name: str, family: Family, **options) -> dict[str, Any]:
  """The options that were given, checked against those of the family."""
  given = {k: v for k, v in options.items() if v is not None}
  for option, value in given.items():
    if option not in family.options:
      raise ValueError(
        f"{name!r} has no option {option!r}; "
        f"it takes {sorted(family.options) or 'none of the kind'}."
      )
    if option.endswith("_rate") and not 0 <= value < 1:
      raise ValueError(f"{option} must be in [0, 1), not {value}.")
  return given


def _as_tuples(groups: Sequence[Sequence[int]] | None) -> AxisGroups | None:
  # Linen modules are hashed, lists are not hashable.
  return groups and tuple(tuple(int(i) for i in group) for group in groups)
