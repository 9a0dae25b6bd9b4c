"""Programs that libtpu compiles for slices, where it is installed."""

import dataclasses

import pytest

from sam_jax.config import cli
from sam_jax.plan import chips, compiler
from sam_jax.plan.costs import Collective
from sam_jax.training import build

needs_libtpu = pytest.mark.skipif(
  compiler.libtpu_version() is None, reason="needs libtpu: sam-jax[plan]"
)
V5E = chips.parse_topology("v5e:2x4")


def compile_step(directory, *arguments):
  config = cli.read_config(["--config=configs/cifar.py", *arguments])
  config = build.validate(config, V5E.num_devices)
  return compiler.compile_program("sam", config, V5E, directory)


@needs_libtpu
def test_a_step_on_tpus(tmp_path):
  """Hold what makes it fast: one all-reduce, a rolled loop, donated memory.

  Tracing for TPUs brings no form that only CPUs need.
  """
  step = compile_step(
    tmp_path,
    "--config.model.name=wrn10_1",
    "--config.sam.m=8",
    "--config.optimizer.gradient_clipping=1.0",
  )
  costs = step.costs
  (collective,) = costs.collectives.items()
  kind, (number, size) = collective
  assert (kind, number) == (Collective("all-reduce", 8, False), 1)
  # The gradient of 75,290 parameters, 480 batch statistics, and a few scalars.
  assert 0 <= size - 4 * (75_290 + 480) < 100
  assert costs.loops == [4]  # microbatches of 8 of 32 images
  assert costs.conditionals == 0
  # All but the metrics of the step and a few counters.
  assert costs.aliases >= costs.results - 20 > 40
  text = next(tmp_path.glob("*.after_optimizations.txt")).read_text()
  # CPUs alone join the vectors of a tree, and swap features and images.
  assert " concatenate(" not in text and " transpose(" not in text


@needs_libtpu
def test_a_step_that_needs_more_memory_than_there_is(tmp_path):
  step = compile_step(
    tmp_path,
    "--config.model.name=cnn4",
    "--config.batch_size=524288",
    "--config.sam.m=65536",
  )
  assert step.total_bytes > V5E.chip.usable_bytes


@needs_libtpu
def test_failures_of_the_compiler_are_one_line(tmp_path):
  config = cli.read_config(["--config=configs/cifar.py"])
  unknown = dataclasses.replace(V5E, name="v9:2x4")
  with pytest.raises(compiler.CompileError, match=r"exit code 1 and .*v9:2x4"):
    compiler.compile_program("augment", config, unknown, tmp_path)
