"""Augmentation of a batch on its device: policy, normalization, mixup, cutout.

Every example has its own random key, folded from its position in the *global*
batch: a step augments it in the same way on any number of devices and hosts.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax.augment import policies

POLICIES = ("none", "basic", "autoaugment", "aa-only", "randaugment")
CUTOUTS = ("none", "batch", "image")


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Static description of the augmentation of a data set.

  Attributes:
    num_classes: Number of classes.
    mean: Mean of each channel, of pixel values in [0, 1].
    std: Standard deviation of each channel, of pixel values in [0, 1].
    policy: "none"; "basic", a random flip and crop; "autoaugment", AutoAugment
      and then basic; "aa-only", AutoAugment alone; "randaugment", RandAugment
      and then a flip.
    autoaugment_policy: "cifar10", "svhn" or "imagenet".
    flip: Let basic flip left and right.
    crop_padding: Pixels that basic pads, by reflection, before it crops.
    randaugment_layers: Number of operations on each image.
    randaugment_magnitude: Strength of the operations, 0 to 10.
    translate_const: Pixels of translation at level 10; None for the official
      values, 250 of AutoAugment and 100 of RandAugment. 250 moves CIFAR images
      out of sight from level 2 on.
    cutout: "none"; "batch", one place for the whole batch, as in
      google-research/sam; "image", one for each image, as in the Cutout paper.
    cutout_size: Side of the patch in pixels.
    mixup_alpha: Parameter of mixup's Beta distribution; 0 disables mixup.
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

  def __post_init__(self) -> None:
    """Raise ValueError on unknown choices."""
    for name, known in (("policy", POLICIES), ("cutout", CUTOUTS)):
      value = getattr(self, name)
      if value not in known:
        raise ValueError(f"{name} = {value!r} is unknown; known: {known}.")

  @property
  def full_translation(self) -> int:
    """Return the pixels of translation at level 10."""
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
  """Augment the part of a batch on this device.

  Args:
    images: uint8 [N, H, W, C].
    labels: int [N], or target distributions float [N, num_classes].
    key: Typed random key of the step, the same on every device.
    first_example: Position of the first image in the global batch.
    augmentation: Description of the augmentation.
    axis_name: Axis of the devices that hold the global batch, for mixup; None
      if one device holds it.

  Returns:
    Normalized images, float32 [N, H, W, C], and targets, float32
    [N, num_classes].
  """
  per_image, per_batch = jax.random.split(key)
  positions = first_example + jnp.arange(images.shape[0])
  keys = jax.vmap(jax.random.fold_in, (None, 0))(per_image, positions)
  keys = jax.vmap(lambda k: jax.random.split(k, 3))(keys)
  policy_keys, basic_keys, cutout_keys = keys[:, 0], keys[:, 1], keys[:, 2]

  images = _apply_policy(images, policy_keys, augmentation)
  images = _apply_basic(images, basic_keys, augmentation)
  images = normalize(images, augmentation.mean, augmentation.std)
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


def denormalize(
  images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]
) -> np.ndarray:
  """Undo `normalize` on the host: float [N, H, W, C] -> uint8 [N, H, W, C]."""
  pixels = (images * np.array(std) + np.array(mean)) * 255
  return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def normalize(
  images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]
) -> jax.Array:
  """Subtract the mean of each channel, and divide by its deviation.

  Args:
    images: uint8 [..., C].
    mean: Mean of each channel, of pixel values in [0, 1].
    std: Standard deviation of each channel, of pixel values in [0, 1].

  Returns:
    float32 [..., C].
  """
  scaled = images.astype(jnp.float32) / 255
  return (scaled - jnp.array(mean)) / jnp.array(std)


def _apply_policy(
  images: jax.Array, keys: jax.Array, augmentation: Augmentation
) -> jax.Array:
  """Apply AutoAugment or RandAugment to uint8 images [N, H, W, C]."""
  if augmentation.policy in ("none", "basic"):
    return images
  if augmentation.policy == "randaugment":
    return policies.randaugment(
      images,
      keys,
      layers=augmentation.randaugment_layers,
      magnitude=augmentation.randaugment_magnitude,
      translate_const=augmentation.full_translation,
    )
  return policies.autoaugment(
    images,
    keys,
    policy=augmentation.autoaugment_policy,
    translate_const=augmentation.full_translation,
  )


def _apply_basic(
  images: jax.Array, keys: jax.Array, augmentation: Augmentation
) -> jax.Array:
  """Apply the policy's flip and crop to uint8 images [N, H, W, C]."""
  flip, padding = augmentation.flip, augmentation.crop_padding
  if augmentation.policy == "randaugment":
    padding = 0
  elif augmentation.policy not in ("basic", "autoaugment"):
    return images
  return jax.vmap(lambda x, k: _flip_and_crop(x, k, flip, padding))(
    images, keys
  )


def _apply_cutout(
  images: jax.Array,
  batch_key: jax.Array,
  keys: jax.Array,
  augmentation: Augmentation,
) -> jax.Array:
  """Zero one patch of the batch [N, H, W, C], one of each image, or none."""
  size = augmentation.cutout_size
  if augmentation.cutout == "batch":
    return cut_out(images, batch_key, size)
  if augmentation.cutout == "image":
    return jax.vmap(lambda x, k: cut_out(x, k, size))(images, keys)
  return images


def _flip_and_crop(
  image: jax.Array, key: jax.Array, flip: bool, padding: int
) -> jax.Array:
  """Flip with probability 1/2, then crop from the reflect-padded image."""
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
  """Zero one square patch, clipped at the border.

  The center of the patch is a random pixel. The patch covers the `size` pixels
  that start at `center - size // 2`, along both axes.

  Args:
    images: Normalized float images [..., H, W, C]; all share the patch.
    key: Random key.
    size: Side of the patch.

  Returns:
    Images of the shape and dtype of `images`.

  Reference: DeVries & Taylor (2017), https://arxiv.org/abs/1708.04552.
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
  """Return bool [H, W, 1], True in the square patch around a pixel."""
  from_row = jnp.arange(height) - row + size // 2
  from_column = jnp.arange(width) - column + size // 2
  in_rows = (from_row >= 0) & (from_row < size)
  in_columns = (from_column >= 0) & (from_column < size)
  return (in_rows[:, None] & in_columns)[..., None]


def _mixup_weight(key: jax.Array, alpha: float) -> jax.Array:
  """Draw the larger of the two weights of a batch, float32 in [1/2, 1]."""
  weight = jax.random.beta(key, alpha, alpha)
  return jnp.maximum(weight, 1 - weight)


def mix_with_partners(
  batch: tuple[jax.Array, jax.Array],
  weight: jax.Array,
  *,
  axis_name: str | None,
) -> tuple[jax.Array, jax.Array]:
  """Mix each example with a partner of the global batch.

  The partner of an example is its mirror image in the order of the global
  batch, as in google-research/sam: it is on the mirrored device.

  Args:
    batch: Float arrays whose first axis is this device's part of the batch.
    weight: Weight of an example; its partner has weight `1 - weight`.
    axis_name: Axis of the devices that hold the global batch; None if one
      device holds it.

  Returns:
    Arrays of the shapes and dtypes of `batch`.

  Reference: mixup, Zhang et al., ICLR 2018, https://arxiv.org/abs/1710.09412.
  """

  def mix(mine: jax.Array) -> jax.Array:
    partners = mine[::-1]
    if axis_name is not None:
      count = jax.lax.axis_size(axis_name)
      mirrored = [(i, count - 1 - i) for i in range(count)]
      partners = jax.lax.ppermute(partners, axis_name, mirrored)
    return weight * mine + (1 - weight) * partners

  return jax.tree.map(mix, batch)
