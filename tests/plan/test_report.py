"""The plan of programs that are made up, without libtpu."""

import dataclasses
import re

import pytest

from sam_jax.config import cli
from sam_jax.plan import chips, programs, report
from sam_jax.plan.chips import GIB
from sam_jax.plan.compiler import Compiled
from sam_jax.plan.costs import Collective, Costs
from sam_jax.plan.estimates import Plan
from sam_jax.training import build

COSTS = Costs(
  flops=1.97e12,
  pass_flops=1.97e12,  # 10 ms on v5e
  hbm_bytes=16_380_000_000,  # 20 ms
  element_bytes=8_000_000_000,
  collectives={Collective("all-reduce", 8, False): (2, 400_000_000)},  # 3.5 ms
  copies=12,
  copied_bytes=3_000_000_000,
  gathered=5_000,
  loops=[4, 4, None],
  conditionals=0,
  aliases=88,
  results=105,
)
SAM = Compiled(
  COSTS,
  {"parameters": GIB // 2, "optimizer": GIB // 2, "batch": GIB // 4},
  total_bytes=3 * GIB,
  seconds=41.0,
)
SGD = dataclasses.replace(
  SAM,
  costs=dataclasses.replace(
    COSTS, flops=0.985e12, pass_flops=0.985e12, hbm_bytes=8_190_000_000
  ),
  total_bytes=5 * GIB // 2,
)
AUGMENT = Compiled(
  dataclasses.replace(
    COSTS,
    flops=0.0,
    pass_flops=0.0,
    hbm_bytes=819_000_000,
    collectives={},
    loops=[],
  ),
  {"batch": GIB // 4},
  total_bytes=GIB,
  seconds=5.0,
)


def plan(*arguments, topology="v5e:2x4", sam=SAM):
  tpu = chips.parse_topology(topology)
  config = cli.read_config(["--config=configs/cifar.py", *arguments])
  config = build.validate(config, tpu.num_devices)
  return Plan(config, tpu, {"sam": sam, "sgd": SGD, "augment": AUGMENT})


def row(text, name):
  """Return the cells of a row of a table."""
  (line,) = re.findall(rf"^{re.escape(name)}  +(.*)$", text, re.MULTILINE)
  return line.split()


def test_a_plan_that_fits():
  text = report.report(plan())
  first, *_ = text.splitlines()
  assert first == (
    "wrn28_10 (float32) on cifar10, v5e:2x4: 8 devices, 1 host; batch 256 ="
    " 32 a device, m = 32: 1 microbatch"
  )
  # The program and two batches that wait.
  assert "Fits: needs 3.50 of 15.75 GiB (compiled)." in text
  assert row(text, "MiB of a device") == ["sam", "sgd", "augment"]
  assert row(text, "parameters") == ["512.0", "512.0", "compiled"]
  assert row(text, "activations, gradients, results") == [
    *("1,792.0", "1,280.0", "768.0", "compiled")
  ]
  assert row(text, "GFLOP") == ["1,970", "985", "0", "compiled"]
  assert row(text, "ms at 197 TFLOP/s") == [*("10.0", "5.00", "0", "estimated")]
  assert row(text, "ms at 819 GB/s") == ["20.0", "10.0", "1.00", "estimated"]
  assert row(text, "ms of links, waiting")[0] == "3.50"
  assert row(text, "ms, at least") == ["23.5", "13.5", "1.00", "estimated"]
  assert row(text, "results in donated memory")[0] == "88/105"
  assert row(text, "gathered, one by one")[0] == "5,000"
  assert row(text, "loops (trips)")[:4] == ["2", "x", "4,", "?"]
  assert (
    "sam: 2 blocking all-reduce, 400 MB in all, over 8 of 8 devices (compiled)"
  ) in text
  assert "SAM over SGD: 2.00 of FLOPs (compiled), 1.74 of time" in text
  assert "+512.0 MiB; the parameters have 512.0" in text


def test_images_and_hours():
  text = report.report(plan())
  # 256 images in 23.5 ms and 1 ms of augmentation.
  assert "At most 10,449 images/s, 24.5 ms a step (estimated)" in text
  hours = 200 * 195 * 0.0245 / 3600
  assert f"200 epochs of 195 steps take at least {hours:.3f} hours" in text
  assert "Each of 1 host sends 10,449 images/s, 32 MB/s" in text
  assert "decodes" not in text  # images in memory


def test_hosts_read_and_decode_streamed_images():
  text = report.report(
    plan(
      "--config.dataset.name=imagenet2012",
      "--config.model.name=resnet50",
      "--config.batch_size=512",
      topology="v5e:4x4",
    )
  )
  assert "Each of 4 hosts sends 5,224 images/s, 786 MB/s" in text
  assert "reads 603 MB/s and decodes on 20 CPU cores" in text


def test_a_device_that_is_half_a_chip_has_half_its_peaks():
  text = report.report(plan("--config.batch_size=512", topology="v3:2x4"))
  assert row(text, "ms at 61.5 TFLOP/s")[0] == "32.0"
  assert row(text, "ms at 450 GB/s")[0] == "36.4"


def test_a_step_that_does_not_fit_comes_with_remedies():
  large = dataclasses.replace(SAM, total_bytes=20 * GIB)
  found = plan(sam=large)
  text = report.report(found)
  assert not found.fits
  assert "Does not fit: needs 20.50 of 15.75 GiB (compiled). Try:" in text
  for remedy in (
    "model.remat",
    "model.dtype=bfloat16",
    "sam.m",
    "more devices",
  ):
    assert remedy in text
  small = report.report(
    plan("--config.model.remat", "--config.model.dtype=bfloat16", sam=large)
  )
  assert "model.remat" not in small and "model.dtype" not in small


def test_the_augmentation_runs_next_to_the_state():
  tiny = dataclasses.replace(SAM, total_bytes=3 * GIB // 2)
  # The state of 1 GiB, an augmentation of 1 GiB, and two batches.
  assert plan(sam=tiny).needed_bytes == 5 * GIB // 2


def test_sgd_is_the_same_config_without_sam():
  config = plan("--config.sam.every=2", "--config.sam.ascent_steps=3").config
  plain = programs.without_sam(config)
  assert (plain.sam.rho, plain.sam.every, plain.sam.ascent_steps) == (0, 1, 1)
  assert plain.sam.m == config.sam.m == 32  # the same batch statistics
  assert programs.programs_of(config) == ["sam", "sgd", "augment"]
  assert programs.programs_of(plain) == ["sgd", "augment"]


@pytest.mark.parametrize(
  ("arguments", "shape"),
  [
    ([], (8, 32, 32, 32, 3)),
    # The device resizes images in memory; the host those that it decodes.
    (["--config.dataset.image_size=64"], (8, 32, 32, 32, 3)),
    (
      ["--config.dataset.name=food101", "--config.model.name=resnet50"],
      (8, 32, 224, 224, 3),
    ),
  ],
)
def test_batches_come_from_the_host_in_their_own_size(arguments, shape):
  found = plan(*arguments)
  batch = programs.raw_batch(found.config, found.spec, 8)
  assert batch["image"].shape == shape
  assert set(batch) == {"image", "label"}


def test_noisy_labels_come_with_the_clean_ones():
  found = plan("--config.dataset.label_noise.rate=0.4")
  assert "clean_label" in programs.raw_batch(found.config, found.spec, 8)
