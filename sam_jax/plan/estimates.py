"""Needs of compiled programs on a slice: memory, time, and images."""

import dataclasses
import functools

from ml_collections import ConfigDict

from sam_jax.datasets.catalog import STREAM, DatasetSpec
from sam_jax.plan import programs
from sam_jax.plan.chips import Slice
from sam_jax.plan.compiler import Compiled
from sam_jax.training import build
from sam_jax.training.input_pipeline import PREPARED_AHEAD

# ILSVRC2012_img_train.tar has 147,897,477,120 bytes and 1,281,167 images. Other
# streamed data sets are estimated with the same size of a file.
BYTES_PER_FILE = 147_897_477_120 / 1_281_167
# Measured on a CPU: docs/performance.md.
DECODED_PER_CPU_SECOND = 263


@dataclasses.dataclass(frozen=True)
class Times:
  """Shortest times of a program on a device, in seconds.

  Attributes:
    compute: FLOPs at the peak of the chip.
    memory: Bytes at the bandwidth of the memory.
    links: Collectives that the program waits for.
    hidden_links: Collectives during which it computes.
  """

  compute: float
  memory: float
  links: float
  hidden_links: float

  @property
  def total(self) -> float:
    """Return the time of the program: the slowest, and what is not hidden."""
    return max(self.compute, self.memory, self.hidden_links) + self.links


@dataclasses.dataclass(frozen=True)
class Plan:
  """A config on a slice.

  Attributes:
    config: A valid config.
    tpu: The slice.
    compiled: The programs by name, the step of the config first.
  """

  config: ConfigDict
  tpu: Slice
  compiled: dict[str, Compiled]

  @functools.cached_property
  def spec(self) -> DatasetSpec:
    """Return the data set."""
    return build.dataset_spec(self.config)

  @property
  def step(self) -> Compiled:
    """Return the training step of the config."""
    return next(iter(self.compiled.values()))

  @property
  def prepared_bytes(self) -> int:
    """Return the bytes of batches that wait on a device."""
    return PREPARED_AHEAD * self.step.bytes_by_kind["batch"]

  @property
  def needed_bytes(self) -> int:
    """Return the memory of a device that training needs.

    The augmentation runs between two steps, next to the state.
    """
    kinds = self.step.bytes_by_kind
    needed = self.step.total_bytes
    if programs.AUGMENT in self.compiled:
      state = sum(kinds.values()) - kinds["batch"]
      augment = self.compiled[programs.AUGMENT].total_bytes
      needed = max(needed, state + augment)
    return needed + self.prepared_bytes

  @property
  def fits(self) -> bool:
    """Return True if a device has the memory."""
    return self.needed_bytes <= self.tpu.chip.usable_bytes

  def times(self, program: str) -> Times:
    """Return the shortest times of a program."""
    chip, costs = self.tpu.chip, self.compiled[program].costs
    share = 1 / chip.devices_per_chip  # of the chip, for each device
    return Times(
      costs.pass_flops / (chip.flops * share),
      costs.hbm_bytes / (chip.hbm_bandwidth * share),
      costs.link_bytes(is_async=False) / (chip.link_bandwidth * share),
      costs.link_bytes(is_async=True) / (chip.link_bandwidth * share),
    )

  @property
  def step_seconds(self) -> float:
    """Return the shortest time of a training step with its augmentation."""
    step, *others = self.compiled
    run = [step, *(name for name in others if name == programs.AUGMENT)]
    return sum(self.times(name).total for name in run)

  @property
  def images_per_second(self) -> float:
    """Return the most images of all devices in a second."""
    return self.config.batch_size / self.step_seconds

  @property
  def steps(self) -> int | None:
    """Return the steps of an epoch; None if the data set was not counted."""
    return programs.steps_in_epoch(self.config, self.spec)

  @property
  def is_streamed(self) -> bool:
    """Return True if hosts read and decode images in every epoch."""
    return self.spec.storage == STREAM

  @property
  def image_bytes(self) -> int:
    """Return the bytes of an image as it goes to a device."""
    shapes = programs.raw_batch(self.config, self.spec, self.tpu.num_devices)
    height, width, channels = shapes["image"].shape[2:]
    return height * width * channels

  def remedies(self) -> list[str]:
    """Return what to try with a step that does not fit."""
    model, layout = (
      self.config.model,
      build.layout(self.config, self.tpu.num_devices),
    )
    found = []
    if not model.remat:
      found.append(
        "--config.model.remat computes activations again in the backward pass"
      )
    if model.dtype == "float32":
      found.append("--config.model.dtype=bfloat16 halves the activations")
    if layout.m > 1:
      found.append(
        f"--config.sam.m below {layout.m} makes smaller microbatches, and"
        " another method"
      )
    if layout.microbatches == 1 and layout.devices_per_shard == 1:
      found.append("more devices have fewer images each")
    found.append("a chip with more memory")
    return found
