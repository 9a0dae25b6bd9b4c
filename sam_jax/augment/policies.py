"""AutoAugment and RandAugment: which operations an image goes through.

AutoAugment: Cubuk et al., CVPR 2019; RandAugment: Cubuk et al., NeurIPS 2020.
Choices, probabilities and strengths equal google-research/sam's
`autoaugment/autoaugment.py` and `autoaugment/policies.py`; the random numbers
do not.
"""

import difflib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sam_jax.augment import ops

# A policy is a choice of sub-policies; each consists of two operations, done
# one after the other: (name, probability, level from 0 to 10).
_POLICIES = {
  "cifar10": (
    (("Invert", 0.1, 7), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 8), ("Equalize", 0.9, 2)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 3)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 2), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 8), ("Invert", 0.1, 3)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 1)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.0, 2)),
    (("TranslateY", 0.7, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.4, 3)),
    (("Equalize", 0.7, 5), ("Invert", 0.1, 3)),
    (("TranslateY", 0.7, 9), ("TranslateY", 0.7, 9)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 1)),
    (("TranslateY", 0.8, 9), ("TranslateY", 0.9, 9)),
    (("AutoContrast", 0.8, 0), ("TranslateY", 0.7, 9)),
    (("TranslateY", 0.2, 7), ("Color", 0.9, 6)),
    (("Equalize", 0.7, 6), ("Color", 0.4, 9)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 5), ("Equalize", 0.5, 1)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Brightness", 0.3, 7), ("AutoContrast", 0.5, 8)),
    (("AutoContrast", 0.9, 4), ("AutoContrast", 0.5, 6)),
    (("Solarize", 0.3, 5), ("Equalize", 0.6, 5)),
    (("TranslateY", 0.2, 4), ("Sharpness", 0.3, 3)),
    (("Brightness", 0.0, 8), ("Color", 0.8, 8)),
    (("Solarize", 0.2, 6), ("Color", 0.8, 6)),
    (("Solarize", 0.2, 6), ("AutoContrast", 0.8, 1)),
    (("Solarize", 0.4, 1), ("Equalize", 0.6, 5)),
    (("Brightness", 0.0, 0), ("Solarize", 0.5, 2)),
    (("AutoContrast", 0.9, 5), ("Brightness", 0.5, 3)),
    (("Contrast", 0.7, 5), ("Brightness", 0.0, 2)),
    (("Solarize", 0.2, 8), ("Solarize", 0.1, 5)),
    (("Contrast", 0.5, 1), ("TranslateY", 0.2, 9)),
    (("AutoContrast", 0.6, 5), ("TranslateY", 0.0, 9)),
    (("AutoContrast", 0.9, 4), ("Equalize", 0.8, 4)),
    (("Brightness", 0.0, 7), ("Equalize", 0.4, 7)),
    (("Solarize", 0.2, 5), ("Equalize", 0.7, 5)),
    (("Equalize", 0.6, 8), ("Color", 0.6, 2)),
    (("Color", 0.3, 7), ("Color", 0.2, 4)),
    (("AutoContrast", 0.5, 2), ("Solarize", 0.7, 2)),
    (("AutoContrast", 0.2, 0), ("Equalize", 0.1, 0)),
    (("ShearY", 0.6, 5), ("Equalize", 0.6, 5)),
    (("Brightness", 0.9, 3), ("AutoContrast", 0.4, 1)),
    (("Equalize", 0.8, 8), ("Equalize", 0.7, 7)),
    (("Equalize", 0.7, 7), ("Solarize", 0.5, 0)),
    (("Equalize", 0.8, 4), ("TranslateY", 0.8, 9)),
    (("TranslateY", 0.8, 9), ("TranslateY", 0.6, 9)),
    (("TranslateY", 0.9, 0), ("TranslateY", 0.5, 9)),
    (("AutoContrast", 0.5, 3), ("Solarize", 0.3, 4)),
    (("Solarize", 0.5, 3), ("Equalize", 0.4, 4)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 7), ("AutoContrast", 0.4, 8)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 3)),
    (("AutoContrast", 0.1, 5), ("Brightness", 0.0, 0)),
    (("Cutout", 0.2, 4), ("Equalize", 0.1, 1)),
    (("Equalize", 0.7, 7), ("AutoContrast", 0.6, 4)),
    (("Color", 0.1, 8), ("ShearY", 0.2, 3)),
    (("ShearY", 0.4, 2), ("Rotate", 0.7, 0)),
    (("ShearY", 0.1, 3), ("AutoContrast", 0.9, 5)),
    (("TranslateY", 0.3, 6), ("Cutout", 0.3, 3)),
    (("Equalize", 0.5, 0), ("Solarize", 0.6, 6)),
    (("AutoContrast", 0.3, 5), ("Rotate", 0.2, 7)),
    (("Equalize", 0.8, 2), ("Invert", 0.4, 0)),
    (("Equalize", 0.9, 5), ("Color", 0.7, 0)),
    (("Equalize", 0.1, 1), ("ShearY", 0.1, 3)),
    (("AutoContrast", 0.7, 3), ("Equalize", 0.7, 0)),
    (("Brightness", 0.5, 1), ("Contrast", 0.1, 7)),
    (("Contrast", 0.1, 4), ("Solarize", 0.6, 5)),
    (("Solarize", 0.2, 3), ("ShearX", 0.0, 0)),
    (("TranslateX", 0.3, 0), ("TranslateX", 0.6, 0)),
    (("Equalize", 0.5, 9), ("TranslateY", 0.6, 7)),
    (("ShearX", 0.1, 0), ("Sharpness", 0.5, 1)),
    (("Equalize", 0.8, 6), ("Invert", 0.3, 6)),
    (("AutoContrast", 0.3, 9), ("Cutout", 0.5, 3)),
    (("ShearX", 0.4, 4), ("AutoContrast", 0.9, 2)),
    (("ShearX", 0.0, 3), ("Posterize", 0.0, 3)),
    (("Solarize", 0.4, 3), ("Color", 0.2, 4)),
    (("Equalize", 0.1, 4), ("Equalize", 0.7, 6)),
    (("Equalize", 0.3, 8), ("AutoContrast", 0.4, 3)),
    (("Solarize", 0.6, 4), ("AutoContrast", 0.7, 6)),
    (("AutoContrast", 0.2, 9), ("Brightness", 0.4, 8)),
    (("Equalize", 0.1, 0), ("Equalize", 0.0, 6)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 4)),
    (("Equalize", 0.5, 5), ("AutoContrast", 0.1, 2)),
    (("Solarize", 0.5, 5), ("AutoContrast", 0.9, 5)),
    (("AutoContrast", 0.6, 1), ("AutoContrast", 0.7, 8)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.1, 2)),
    (("Equalize", 0.6, 9), ("Equalize", 0.4, 4)),
  ),
  "svhn": (
    (("ShearX", 0.9, 4), ("Invert", 0.2, 3)),
    (("ShearY", 0.9, 8), ("Invert", 0.7, 5)),
    (("Equalize", 0.6, 5), ("Solarize", 0.6, 6)),
    (("Invert", 0.9, 3), ("Equalize", 0.6, 3)),
    (("Equalize", 0.6, 1), ("Rotate", 0.9, 3)),
    (("ShearX", 0.9, 4), ("AutoContrast", 0.8, 3)),
    (("ShearY", 0.9, 8), ("Invert", 0.4, 5)),
    (("ShearY", 0.9, 5), ("Solarize", 0.2, 6)),
    (("Invert", 0.9, 6), ("AutoContrast", 0.8, 1)),
    (("Equalize", 0.6, 3), ("Rotate", 0.9, 3)),
    (("ShearX", 0.9, 4), ("Solarize", 0.3, 3)),
    (("ShearY", 0.8, 8), ("Invert", 0.7, 4)),
    (("Equalize", 0.9, 5), ("TranslateY", 0.6, 6)),
    (("Invert", 0.9, 4), ("Equalize", 0.6, 7)),
    (("Contrast", 0.3, 3), ("Rotate", 0.8, 4)),
    (("Invert", 0.8, 5), ("TranslateY", 0.0, 2)),
    (("ShearY", 0.7, 6), ("Solarize", 0.4, 8)),
    (("Invert", 0.6, 4), ("Rotate", 0.8, 4)),
    (("ShearY", 0.3, 7), ("TranslateX", 0.9, 3)),
    (("ShearX", 0.1, 6), ("Invert", 0.6, 5)),
    (("Solarize", 0.7, 2), ("TranslateY", 0.6, 7)),
    (("ShearY", 0.8, 4), ("Invert", 0.8, 8)),
    (("ShearX", 0.7, 9), ("TranslateY", 0.8, 3)),
    (("ShearY", 0.8, 5), ("AutoContrast", 0.7, 3)),
    (("ShearX", 0.7, 2), ("Invert", 0.1, 5)),
  ),
  "imagenet": (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateY", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
  ),
}

AUTOAUGMENT_POLICIES = tuple(_POLICIES)

# Pixels of translation at level 10, officially. 250 turns 32x32 images all grey
# from level 2 on.
AUTOAUGMENT_TRANSLATE = 250
RANDAUGMENT_TRANSLATE = 100

# Half the side of Cutout's square at level 10, in pixels.
_AUTOAUGMENT_CUTOUT = 100
_RANDAUGMENT_CUTOUT = 40

# Each as a function of the image, the argument, and the centre of Cutout.
_OPERATIONS = {
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
  "Cutout": lambda image, pad, centre: ops.cutout(image, _int(pad), *centre),
}
# The argument of these takes either sign, with equal probability.
_SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


def autoaugment(
  image: jax.Array,
  key: jax.Array,
  *,
  policy: str,
  translate_const: int = AUTOAUGMENT_TRANSLATE,
) -> jax.Array:
  """Applies a random sub-policy of an AutoAugment policy.

  Args:
    image: uint8 [H, W, 3].
    key: Typed random key.
    policy: One of AUTOAUGMENT_POLICIES.
    translate_const: Pixels of translation at level 10.

  Returns:
    Like `image`.

  Raises:
    ValueError: If the policy is unknown or the image not RGB.
  """
  if policy not in _POLICIES:
    raise ValueError(_unknown(policy))
  choices = _POLICIES[policy]
  # Operations that the policy lacks are not even compiled.
  names = sorted({name for choice in choices for name, *_ in choice})
  steps = _tabulate(choices, names, translate_const, _AUTOAUGMENT_CUTOUT)
  choice_key, key = jax.random.split(key)
  choice = jax.random.randint(choice_key, (), 0, len(choices))
  steps = jax.tree.map(lambda column: column[choice], steps)
  return _apply(image, key, names, steps)


def randaugment(
  image: jax.Array,
  key: jax.Array,
  *,
  layers: int,
  magnitude: int,
  translate_const: int = RANDAUGMENT_TRANSLATE,
) -> jax.Array:
  """Applies random operations of one strength, each time another.

  All 16 operations are equally probable, and a chosen one is always done, as
  in the official code.

  Args:
    image: uint8 [H, W, 3].
    key: Typed random key.
    layers: Number of operations.
    magnitude: Their strength, from 0. Above 10 Posterize keeps more bits and
      Solarize's threshold wraps to uint8.
    translate_const: Pixels of translation at magnitude 10.

  Returns:
    Like `image`.

  Raises:
    ValueError: If layers or magnitude is negative, or the image not RGB.
  """
  if layers < 0 or magnitude < 0:
    raise ValueError(
      f"layers = {layers} and magnitude = {magnitude} must be 0 or more."
    )
  names = list(_OPERATIONS)
  choices = [[(name, 1.0, magnitude)] for name in names]
  steps = _tabulate(choices, names, translate_const, _RANDAUGMENT_CUTOUT)
  choice_key, key = jax.random.split(key)
  choice = jax.random.randint(choice_key, (layers,), 0, len(choices))
  steps = jax.tree.map(lambda column: column[choice, 0], steps)
  return _apply(image, key, names, steps)


def map_images(
  fn: Callable[[jax.Array, jax.Array], jax.Array],
  images: jax.Array,
  keys: jax.Array,
) -> jax.Array:
  """Maps a function of one image and one key over a batch.

  Args:
    fn: Like `autoaugment`, with its keyword arguments bound.
    images: uint8 [N, H, W, 3].
    keys: Typed random keys [N].

  Returns:
    Like `images`; the same bits on either path.
  """
  # CPUs take images one by one: vmap would run every operation on every image
  # and select, which only pays where the whole batch runs at once.
  if jax.default_backend() == "cpu":
    return jax.lax.map(lambda pair: fn(*pair), (images, keys))
  return jax.vmap(fn)(images, keys)


class _Steps(NamedTuple):
  """Operations to choose from or to do; arrays of one shape."""

  operation: jax.Array  # int32, position among the names.
  probability: jax.Array  # float32, of doing it at all.
  argument: jax.Array  # float32; unused by some.
  is_signed: jax.Array  # bool, whether the argument is negated half the time.


def _tabulate(choices, names, translate_const, cutout_const):
  """Turns sub-policies into _Steps [choices, operations per sub-policy]."""

  def tabulate(name, probability, level):
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
  """Returns the argument that an operation gets at a level, before its sign.

  Args:
    name: Name of an operation, as in the policies.
    level: Usually from 0 to 10, the strongest.
    translate_const: Pixels of translation at level 10.
    cutout_const: Half the side of Cutout's square at level 10, in pixels.

  Returns:
    Degrees, slope, pixels, factor, bits, threshold or addition; 0 for
    operations without argument.
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


def _apply(image, key, names, steps):
  """Does _Steps [S] one after the other, each with its probability."""
  if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != jnp.uint8:
    raise ValueError(
      f"The image must be uint8 [H, W, 3], not {image.dtype} {image.shape}."
    )
  do_key, sign_key, row_key, column_key = jax.random.split(key, 4)
  count = steps.operation.shape
  is_done = jax.random.bernoulli(do_key, steps.probability)
  is_negative = jax.random.bernoulli(sign_key, shape=count) & steps.is_signed
  rows = jax.random.randint(row_key, count, 0, image.shape[0])
  columns = jax.random.randint(column_key, count, 0, image.shape[1])
  branches = [_OPERATIONS[name] for name in names]
  branches.append(lambda image, _, __: image)
  branch = jnp.where(is_done, steps.operation, len(names))
  argument = jnp.where(is_negative, -steps.argument, steps.argument)

  # A loop compiles every operation once, however many steps there are.
  def step(image, inputs):
    branch, argument, centre = inputs
    return jax.lax.switch(branch, branches, image, argument, centre), None

  return jax.lax.scan(step, image, (branch, argument, (rows, columns)))[0]


def _int(argument):
  """Whole number, from the float32 that all arguments travel as."""
  return argument.astype(jnp.int32)


def _unknown(policy):
  """Message about an unknown policy."""
  nearest = difflib.get_close_matches(str(policy), _POLICIES, n=1, cutoff=0)
  return (
    f"policy = {policy!r} is unknown; did you mean {nearest[0]!r}? Known: "
    f"{', '.join(_POLICIES)}."
  )
