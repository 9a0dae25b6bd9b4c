"""The kinds of run that are killed: small, each with a state of its own."""

import dataclasses

# 6 steps an epoch, 18 in all; a checkpoint after every third.
_COMMON = (
  "--config=configs/digits.py:sam",
  "--config.model.name=cnn4",
  "--config.batch_size=32",
  "--config.num_epochs=3",
  "--config.log_every_steps=2",
  "--config.checkpoint_every_epochs=0.5",
  "--config.eval_on_train=True",
  "--config.dataset.label_noise.rate=0",
)


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of run.

  Attributes:
    flags: Flags of `sam_jax.train` that differ from those of plain runs.
    devices: Virtual CPU devices of each process.
    processes: Processes of the run; all are killed together.
    dataset: Name of its data set.
    in_bucket: True if its workdir is a gs:// path.
  """

  flags: tuple[str, ...] = ()
  devices: int = 1
  processes: int = 1
  dataset: str = "digits"
  in_bucket: bool = False

  @property
  def arguments(self) -> tuple[str, ...]:
    """Arguments of `sam_jax.train`, without those that name directories."""
    name = f"--config.dataset.name={self.dataset}"
    held_out = 1250 if self.dataset == "digits" else 0
    size = f"--config.dataset.validation_size={held_out}"
    return (*_COMMON, name, size, *self.flags)


KINDS = {
  "plain": Kind(),
  "ema_dropout": Kind(
    (
      "--config.model.name=wrn10_1",
      "--config.model.dropout_rate=0.2",
      "--config.ema.decay=0.9",
      "--config.ema.warmup_steps=4",
    )
  ),
  "microbatches": Kind(("--config.model.name=wrn10_1", "--config.sam.m=8")),
  "mixup_autoaugment": Kind(
    (
      "--config.augment.policy=autoaugment",
      "--config.augment.mixup_alpha=1.0",
      "--config.augment.cutout=image",
      "--config.augment.cutout_size=3",
      "--config.dataset.image_size=8",
    ),
    dataset="cifar10",
  ),
  "label_noise": Kind(
    (
      "--config.dataset.label_noise.rate=0.4",
      "--config.label_smoothing=0.1",
      "--config.keep_checkpoints_at_epochs=(1,)",
    )
  ),
  "method": Kind(
    (
      "--config.sam.every=2",
      "--config.sam.adaptive=True",
      "--config.sam.surrogate_gap=0.1",
      "--config.optimizer.name=rmsprop",
      "--config.optimizer.learning_rate=0.001",
    )
  ),
  "streamed": Kind(("--config.dataset.image_size=8",), dataset="fgvc_aircraft"),
  "bucket": Kind(in_bucket=True),
  "devices": Kind(("--config.augment.policy=basic",), devices=4),
  "processes": Kind(devices=2, processes=2),
}
