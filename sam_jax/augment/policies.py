"""AutoAugment and RandAugment: random sequences of operations on an image.

Choices, probabilities and strengths equal google-research/sam's
`autoaugment/autoaugment.py` and `autoaugment/policies.py`; the random numbers
do not.

References: AutoAugment, Cubuk et al., CVPR 2019,
https://arxiv.org/abs/1805.09501; RandAugment, Cubuk et al., NeurIPS 2020,
https://arxiv.org/abs/1909.13719.
"""

import difflib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sam_jax import target
from sam_jax.augment import ops
from sam_jax.augment.policy_tables import AUTOAUGMENT_POLICIES, Policy

Operation = Callable[[jax.Array, jax.Array, Sequence[jax.Array]], jax.Array]

# Official pixels of translation at level 10. 250 turns 32x32 images all gray
# from level 2 on.
AUTOAUGMENT_TRANSLATE = 250
RANDAUGMENT_TRANSLATE = 100

# Half the side of Cutout's square at level 10, in pixels.
_AUTOAUGMENT_CUTOUT = 100
_RANDAUGMENT_CUTOUT = 40

# Functions of the image, the argument, and the center of Cutout's square.
_OPERATIONS: dict[str, Operation] = {
  "AutoContrast": lambda image, _, __: ops.autocontrast(image),
  "Equalize": lambda image, _, __: ops.equalize(image),
  "Invert": lambda image, _, __: ops.invert(image),
  "Rotate": lambda image, degrees, _: ops.rotate(image, degrees),
  "Posterize": lambda image, bits, _: ops.posterize(image, _int(bits)),
  "Solarize": lambda image, level, _: ops.solarize(image, _int(level)),
  "SolarizeAdd": lambda image, by, _: ops.solarize_add(image, _int(by)),
  "Color": lambda image, factor, _: ops.color(image, factor),
  "Contrast": lambda image, factor, _: ops.contrast(image, factor),
  "Brightness": lambda image, factor, _: ops.brightness(image, factor),
  "Sharpness": lambda image, factor, _: ops.sharpness(image, factor),
  "ShearX": lambda image, slope, _: ops.shear_x(image, slope),
  "ShearY": lambda image, slope, _: ops.shear_y(image, slope),
  "TranslateX": lambda image, pixels, _: ops.translate_x(image, pixels),
  "TranslateY": lambda image, pixels, _: ops.translate_y(image, pixels),
  "Cutout": lambda image, pad, center: ops.cutout(image, _int(pad), *center),
}
# The arguments of these take either sign, with equal probability.
_SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


def autoaugment(
  images: jax.Array,
  keys: jax.Array,
  *,
  policy: str,
  translate_const: int = AUTOAUGMENT_TRANSLATE,
) -> jax.Array:
  """Apply to each image a random sub-policy of an AutoAugment policy.

  Args:
    images: uint8 [N, H, W, 3].
    keys: Typed random keys [N].
    policy: "cifar10", "svhn" or "imagenet".
    translate_const: Pixels of translation at level 10.

  Returns:
    uint8 [N, H, W, 3], the same bits on every backend.

  Raises:
    ValueError: The policy is unknown, or the images are not uint8 RGB.
  """
  if policy not in AUTOAUGMENT_POLICIES:
    raise ValueError(_unknown(policy))
  choices = AUTOAUGMENT_POLICIES[policy]
  # Compile only the operations of this policy.
  names = sorted({name for choice in choices for name, *_ in choice})
  table = _tabulate(choices, names, translate_const, _AUTOAUGMENT_CUTOUT)

  def choose(key: jax.Array) -> _Steps:
    choice = jax.random.randint(key, (), 0, len(choices))
    return jax.tree.map(lambda column: column[choice], table)

  return _apply(images, keys, names, choose)


def randaugment(
  images: jax.Array,
  keys: jax.Array,
  *,
  layers: int,
  magnitude: int,
  translate_const: int = RANDAUGMENT_TRANSLATE,
) -> jax.Array:
  """Apply to each image random operations of the same strength.

  All 16 operations are equally probable, and a chosen one is always applied,
  as in the official code.

  Args:
    images: uint8 [N, H, W, 3].
    keys: Typed random keys [N].
    layers: Number of operations, 0 or more.
    magnitude: Strength of the operations, 0 or more. Above 10 Posterize keeps
      more bits and Solarize's threshold wraps to uint8.
    translate_const: Pixels of translation at magnitude 10.

  Returns:
    uint8 [N, H, W, 3], the same bits on every backend.

  Raises:
    ValueError: `layers` or `magnitude` is negative, or the images are not
      uint8 RGB.
  """
  if layers < 0 or magnitude < 0:
    raise ValueError(
      f"layers = {layers} and magnitude = {magnitude} must be 0 or more."
    )
  names = list(_OPERATIONS)
  choices = [[(name, 1.0, magnitude)] for name in names]
  table = _tabulate(choices, names, translate_const, _RANDAUGMENT_CUTOUT)

  def choose(key: jax.Array) -> _Steps:
    choice = jax.random.randint(key, (layers,), 0, len(choices))
    return jax.tree.map(lambda column: column[choice, 0], table)

  return _apply(images, keys, names, choose)


class _Steps(NamedTuple):
  """Operations to choose from or to apply; arrays of one shape.

  Attributes:
    operation: int32, position among the names.
    probability: float32, probability of applying it.
    argument: float32; some operations ignore it.
    is_signed: bool, True if the argument is negated half the time.
  """

  operation: jax.Array
  probability: jax.Array
  argument: jax.Array
  is_signed: jax.Array


def _tabulate(
  choices: Policy, names: list[str], translate_const: int, cutout_const: int
) -> _Steps:
  """Turn sub-policies into _Steps [choices, operations per sub-policy]."""

  def tabulate(
    name: str, probability: float, level: int
  ) -> tuple[int, float, float, bool]:
    argument = level_to_argument(
      name,
      level,
      translate_const=translate_const,
      cutout_const=cutout_const,
    )
    return names.index(name), probability, argument, name in _SIGNED

  rows = [[tabulate(*step) for step in choice] for choice in choices]
  columns = (
    [[step[i] for step in row] for row in rows] for i in range(len(rows[0][0]))
  )
  types = (jnp.int32, jnp.float32, jnp.float32, jnp.bool_)
  return _Steps(*map(jnp.array, columns, types))


def level_to_argument(
  name: str, level: float, *, translate_const: int, cutout_const: int
) -> float:
  """Return the argument of an operation at a level, before its sign.

  Args:
    name: Name of an operation in the policies.
    level: Strength, usually from 0 to 10 (the strongest).
    translate_const: Pixels of translation at level 10.
    cutout_const: Half the side of Cutout's square at level 10, in pixels.

  Returns:
    Degrees, slope, pixels, factor, bits, threshold or addition; 0 for
    operations without an argument.
  """
  strength = level / 10
  if name in ("Color", "Contrast", "Brightness", "Sharpness"):
    return strength * 1.8 + 0.1
  if name in ("Posterize", "Solarize", "SolarizeAdd", "Cutout"):
    full = {"Posterize": 4, "Solarize": 256, "SolarizeAdd": 110}
    return float(int(strength * full.get(name, cutout_const)))
  if name in ("TranslateX", "TranslateY"):
    return strength * translate_const
  return strength * {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3}.get(name, 0)


def _apply(
  images: jax.Array,
  keys: jax.Array,
  names: list[str],
  choose: Callable[[jax.Array], _Steps],
) -> jax.Array:
  """Apply operations that `choose` draws for every image.

  Args:
    images: uint8 [N, H, W, 3].
    keys: Typed random keys [N].
    names: Names of the operations.
    choose: Maps a key to the _Steps [S] of an image, applied one after the
      other, each with its probability.

  Returns:
    uint8 [N, H, W, 3].
  """
  if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != jnp.uint8:
    raise ValueError(
      "The images must be uint8 [N, H, W, 3], not"
      f" {images.dtype} {images.shape}."
    )
  height, width = images.shape[1:3]

  # Draw for the whole batch at once: small draws in a loop cost as much as the
  # operations.
  @jax.vmap
  def draw(key: jax.Array) -> tuple[jax.Array, ...]:
    choice_key, key = jax.random.split(key)
    steps = choose(choice_key)
    do_key, sign_key, row_key, column_key = jax.random.split(key, 4)
    count = steps.operation.shape
    is_done = jax.random.bernoulli(do_key, steps.probability)
    is_negative = jax.random.bernoulli(sign_key, shape=count) & steps.is_signed
    branch = jnp.where(is_done, steps.operation, len(names))
    argument = jnp.where(is_negative, -steps.argument, steps.argument)
    rows = jax.random.randint(row_key, count, 0, height)
    columns = jax.random.randint(column_key, count, 0, width)
    return branch, argument, rows, columns

  platform = target.platform()
  branches = [_OPERATIONS[name] for name in names]
  if platform == "tpu":
    branches = [_on_planes(operation) for operation in branches]
  branches.append(lambda image, _, __: image)

  def step(image: jax.Array, drawn: tuple) -> tuple[jax.Array, None]:
    branch, argument, *center = drawn
    return jax.lax.switch(branch, branches, image, argument, center), None

  def augment(image: jax.Array, drawn: tuple) -> jax.Array:
    # A loop compiles every operation once, however many steps there are.
    return jax.lax.scan(step, image, drawn)[0]

  drawn = draw(keys)
  if platform not in ("cpu", "tpu"):
    return jax.vmap(augment)(images, drawn)
  # Take images one by one: vmap would run every operation on every image and
  # select, which only pays where many small kernels cost more than large ones.
  if platform == "tpu":
    images = jnp.moveaxis(images, -1, 1).reshape(-1, 3 * height, width)
  images = jax.lax.map(lambda pair: augment(*pair), (images, drawn))
  if platform == "tpu":
    images = jnp.moveaxis(images.reshape(-1, 3, height, width), 1, -1)
  return images


def _on_planes(operation: Operation) -> Operation:
  """Let an operation on [H, W, 3] take and return [3 * H, W].

  A TPU pads the last axis of an array to 128. With two axes, the compiler does
  not put the channels there.
  """

  def apply(
    planes: jax.Array, argument: jax.Array, center: Sequence[jax.Array]
  ) -> jax.Array:
    image = jnp.moveaxis(planes.reshape(3, -1, planes.shape[-1]), 0, -1)
    image = operation(image, argument, center)
    return jnp.moveaxis(image, -1, 0).reshape(planes.shape)

  return apply


def _int(argument: jax.Array) -> jax.Array:
  """Return the int32 that a float32 argument stands for."""
  return argument.astype(jnp.int32)


def _unknown(policy: str) -> str:
  """Return the message about an unknown policy."""
  nearest = difflib.get_close_matches(
    str(policy), AUTOAUGMENT_POLICIES, n=1, cutoff=0
  )
  return (
    f"policy = {policy!r} is unknown; did you mean {nearest[0]!r}? Known: "
    f"{', '.join(AUTOAUGMENT_POLICIES)}."
  )
