"""A batch on its device: augment, normalise, cut out, mix; keyed by the step.

Every example has its own random key, folded from its position in the *global*
batch: the same step augments it alike on any number of devices and hosts.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from sam_jax.augment import policies

POLICIES = ("none", "basic", "autoaugment", "aa-only", "randaugment")
CUTOUTS = ("none", "batch", "image")


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Static description of the part of the input pipeline on the device.

  Attributes:
    num_classes: Number of classes.
    mean: Per channel, of pixel values in [0, 1].
    std: Standard deviation, likewise.
    policy: "none"; "basic", a random flip and crop; "autoaugment", the policy
      and then basic; "aa-only", the policy alone; "randaugment", likewise with
      its own operations and then a flip.
    autoaugment_policy: "cifar10", "svhn" or "imagenet".
    flip: Whether basic flips left and right.
    crop_padding: Pixels that basic pads, by reflection, before it crops.
    randaugment_layers: Operations on each image.
    randaugment_magnitude: Their strength, 0 to 10.
    translate_const: Pixels of translation at level 10; None for the official
      values, 250 of AutoAugment and 100 of RandAugment. 250 moves CIFAR images
      out of sight from level 2 on.
    cutout: "none"; "batch", one place for the whole batch, as in
      google-research/sam; "image", one for each, as in the Cutout paper.
    cutout_size: Side of the patch in pixels.
    mixup_alpha: Parameter of mixup's Beta distribution; 0 is off.
  """

  num_classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  policy: str = "basic"
  autoaugment_policy: str = "cifar10"
  flip: bool = True
  crop_padding: int = 4
  randaugment_layers: int = 2
  randaugment_magnitude: int = 9
  translate_const: int | None = None
  cutout: str = "none"
  cutout_size: int = 16
  mixup_alpha: float = 0.0

  def __post_init__(self):
    """Raises ValueError on unknown choices."""
    for name, known in (("policy", POLICIES), ("cutout", CUTOUTS)):
      value = getattr(self, name)
      if value not in known:
        raise ValueError(f"{name} = {value!r} is unknown; known: {known}.")

  @property
  def full_translation(self) -> int:
    """Pixels of translation at level 10."""
    if self.translate_const is not None:
      return self.translate_const
    if self.policy == "randaugment":
      return policies.RANDAUGMENT_TRANSLATE
    return policies.AUTOAUGMENT_TRANSLATE


def augment(
  images: jax.Array,
  labels: jax.Array,
  key: jax.Array,
  first_example: jax.Array,
  *,
  augmentation: Augmentation,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Augments this device's part of a batch.

  Args:
    images: uint8 [N, H, W, C].
    labels: int [N], or target distributions float [N, classes].
    key: Typed random key of the step, the same on every device.
    first_example: Position of the first image in the global batch.
    augmentation: What to do.
    axis_name: Axis of the devices that hold the global batch, for mixup.

  Returns:
    Normalised images, float32 [N, H, W, C], and targets, float32 [N, classes].
  """
  per_image, per_batch = jax.random.split(key)
  positions = first_example + jnp.arange(images.shape[0])
  keys = jax.vmap(jax.random.fold_in, (None, 0))(per_image, positions)
  keys = jax.vmap(lambda k: jax.random.split(k, 3))(keys)
  policy_keys, basic_keys, cutout_keys = keys[:, 0], keys[:, 1], keys[:, 2]

  images = _apply_policy(images, policy_keys, augmentation)
  images = _apply_basic(images, basic_keys, augmentation)
  images = normalise(images, augmentation.mean, augmentation.std)
  targets = labels
  if labels.ndim == 1:
    targets = jax.nn.one_hot(labels, augmentation.num_classes)

  # Mixup comes before cutout, as in google-research/sam's "mixcut".
  cutout_key, mixup_key = jax.random.split(per_batch)
  if augmentation.mixup_alpha > 0:
    weight = _mixup_weight(mixup_key, augmentation.mixup_alpha)
    images, targets = mix_with_partners(
      (images, targets), weight, axis_name=axis_name
    )
  images = _apply_cutout(images, cutout_key, cutout_keys, augmentation)
  return images, targets


def normalise(
  images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]
) -> jax.Array:
  """Brings images to zero mean and unit variance per channel.

  Args:
    images: uint8 [..., C].
    mean: Per channel, of pixel values in [0, 1].
    std: Standard deviation, likewise.

  Returns:
    float32 [..., C].
  """
  scaled = images.astype(jnp.float32) / 255
  return (scaled - jnp.array(mean)) / jnp.array(std)


def _apply_policy(images, keys, augmentation):
  """AutoAugment or RandAugment, uint8 to uint8."""
  if augmentation.policy in ("none", "basic"):
    return images
  if augmentation.policy == "randaugment":
    operate = functools.partial(
      policies.randaugment,
      layers=augmentation.randaugment_layers,
      magnitude=augmentation.randaugment_magnitude,
      translate_const=augmentation.full_translation,
    )
  else:
    operate = functools.partial(
      policies.autoaugment,
      policy=augmentation.autoaugment_policy,
      translate_const=augmentation.full_translation,
    )
  return policies.map_images(operate, images, keys)


def _apply_basic(images, keys, augmentation):
  """The flip and the crop that go with the policy."""
  flip, padding = augmentation.flip, augmentation.crop_padding
  if augmentation.policy == "randaugment":
    padding = 0
  elif augmentation.policy not in ("basic", "autoaugment"):
    return images
  return jax.vmap(lambda x, k: _flip_and_crop(x, k, flip, padding))(
    images, keys
  )


def _apply_cutout(images, batch_key, keys, augmentation):
  """One patch for the batch, one for each image, or none."""
  size = augmentation.cutout_size
  if augmentation.cutout == "batch":
    return cut_out(images, batch_key, size)
  if augmentation.cutout == "image":
    return jax.vmap(lambda x, k: cut_out(x, k, size))(images, keys)
  return images


def _flip_and_crop(image, key, flip, padding):
  """Flips with probability 1/2, then crops from the reflect-padded image."""
  flip_key, crop_key = jax.random.split(key)
  if flip:
    is_flipped = jax.random.bernoulli(flip_key)
    image = jnp.where(is_flipped, image[:, ::-1], image)
  if not padding:
    return image
  around = ((padding, padding), (padding, padding), (0, 0))
  padded = jnp.pad(image, around, mode="reflect")
  row, column = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1)
  return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)


def cut_out(images: jax.Array, key: jax.Array, size: int) -> jax.Array:
  """Zeroes one square patch, clipped at the border (DeVries & Taylor, 2017).

  The patch is centred on a random pixel and covers the `size` pixels from
  `centre - size // 2` on, along both axes.

  Args:
    images: Normalised float [..., H, W, C]; all share the patch.
    key: Random key.
    size: Side of the patch.

  Returns:
    Like `images`.
  """
  height, width = images.shape[-3:-1]
  row_key, column_key = jax.random.split(key)
  row = jax.random.randint(row_key, (), 0, height)
  column = jax.random.randint(column_key, (), 0, width)
  return jnp.where(patch(row, column, height, width, size), 0, images)


def patch(
  row: jax.Array | int,
  column: jax.Array | int,
  height: int,
  width: int,
  size: int,
) -> jax.Array:
  """Returns bool [H, W, 1]: the square patch around a pixel."""
  from_row = jnp.arange(height) - row + size // 2
  from_column = jnp.arange(width) - column + size // 2
  in_rows = (from_row >= 0) & (from_row < size)
  in_columns = (from_column >= 0) & (from_column < size)
  return (in_rows[:, None] & in_columns)[..., None]


def _mixup_weight(key: jax.Array, alpha: float) -> jax.Array:
  """Weight of the nearer example of a whole batch, in [1/2, 1]."""
  weight = jax.random.beta(key, alpha, alpha)
  return jnp.maximum(weight, 1 - weight)


def mix_with_partners(
  batch: tuple[jax.Array, jax.Array],
  weight: jax.Array,
  *,
  axis_name: str | None,
) -> tuple[jax.Array, jax.Array]:
  """Mixup (Zhang et al., ICLR 2018): mixes examples of the global batch.

  The partner of an example is its mirror image in the order of the global
  batch, as in google-research/sam: it lives on the mirrored device.

  Args:
    batch: Arrays whose first axis is this device's part of the global batch.
    weight: Weight of an example itself; its partner has the rest.
    axis_name: Axis of the devices that hold the global batch, if several do.

  Returns:
    Arrays like those of `batch`.
  """

  def mix(mine):
    partners = mine[::-1]
    if axis_name is not None:
      count = jax.lax.axis_size(axis_name)
      mirrored = [(i, count - 1 - i) for i in range(count)]
      partners = jax.lax.ppermute(partners, axis_name, mirrored)
    return weight * mine + (1 - weight) * partners

  return jax.tree.map(mix, batch)
