"""Measures what a training step costs.

python scripts/benchmark.py compile --model=pyramidnet272_shakedrop

Sub-commands:
  compile  Time to trace and to compile the SAM step and the SGD step without
           a cache, their FLOPs, and temporary memory in parameter copies.
"""

import functools
import json
import sys
import time
from typing import Any

import jax
from absl import app, flags
from absl import logging as absl_logging

from sam_jax.datasets.catalog import dataset_spec
from sam_jax.training import step as step_lib
from sam_jax.training.config import (
  ConfigError,
  default_config,
  validate_config,
)
from sam_jax.training.recipe import create_recipe

_MODEL = flags.DEFINE_string("model", "wrn28_10", "Name of the network.")
_DATASET = flags.DEFINE_string("dataset", "cifar10", "Gives shape and classes.")
_BATCH = flags.DEFINE_integer("batch", 8, "Examples on each device.")
_REMAT = flags.DEFINE_bool("remat", False, "Recompute activations.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Of the activations.")
_JSON = flags.DEFINE_bool("json", False, "Print JSON instead of a table.")


def main(argv: list[str]) -> None:
  """Runs the sub-command."""
  absl_logging.set_verbosity(absl_logging.WARNING)
  if argv[1:] != ["compile"]:
    print("error: name the sub-command: compile", file=sys.stderr)
    sys.exit(2)
  jax.config.update("jax_enable_compilation_cache", False)
  try:
    rows = {name: measure_compilation(rho) for name, rho in STEPS.items()}
  except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  if _JSON.value:
    print(json.dumps(rows))
  else:
    print_table(rows)


STEPS = {"sgd": 0.0, "sam": 0.05}


def measure_compilation(rho: float) -> dict[str, float]:
  """Compiles a training step for all local devices, without running it.

  Args:
    rho: Radius of SAM's neighbourhood; 0 is SGD.

  Returns:
    Seconds to trace and to compile, FLOPs of a device as XLA counts them, and
    temporary memory of the program in copies of the parameters.
  """
  config = default_config()
  config.dataset.name, config.model.name = _DATASET.value, _MODEL.value
  config.model.remat, config.model.dtype = _REMAT.value, _DTYPE.value
  config.batch_size = _BATCH.value * jax.device_count()
  config.sam.rho = rho
  validate_config(config, jax.device_count())
  spec = dataset_spec(_DATASET.value)
  recipe = create_recipe(config, spec, 100, jax.device_count())
  state = jax.eval_shape(
    lambda: step_lib.create_state(recipe, spec.image_shape)
  )
  started = time.perf_counter()
  lowered = _mapped_step(recipe).lower(state, _batch_shapes(spec))
  traced = time.perf_counter()
  compiled = lowered.compile()
  done = time.perf_counter()
  parameters = sum(4 * w.size for w in jax.tree.leaves(state.params))
  memory = compiled.memory_analysis().temp_size_in_bytes
  return {
    "trace_seconds": traced - started,
    "compile_seconds": done - traced,
    "gflops": compiled.cost_analysis()["flops"] / 1e9,
    "temporary_parameter_copies": memory / parameters,
  }


def _mapped_step(recipe: step_lib.Recipe) -> Any:
  return jax.pmap(
    functools.partial(step_lib.train_step, recipe=recipe),
    axis_name=step_lib.AXIS,
    in_axes=(None, 0),
    out_axes=(None, None),
    donate_argnums=0,
  )


def _batch_shapes(spec: Any) -> dict[str, jax.ShapeDtypeStruct]:
  leading = (jax.local_device_count(), _BATCH.value)
  shapes = {"image": spec.image_shape, "target": (spec.num_classes,)}
  return {
    name: jax.ShapeDtypeStruct((*leading, *shape), "float32")
    for name, shape in shapes.items()
  }


def print_table(rows: dict[str, dict[str, float]]) -> None:
  """Prints a line for each measure, with the ratio of SAM to SGD."""
  print(
    f"{_MODEL.value}, {_DATASET.value}, {_BATCH.value} examples on each of"
    f" {jax.device_count()} {jax.default_backend()} device(s)"
  )
  print(f"| {'':28} | {'SGD':>10} | {'SAM':>10} | {'SAM / SGD':>9} |")
  print(f"| {'-' * 28} | {'-' * 10} | {'-' * 10} | {'-' * 9} |")
  for name in rows["sgd"]:
    sgd, sam = rows["sgd"][name], rows["sam"][name]
    label = name.replace("_", " ")
    print(f"| {label:28} | {sgd:10.2f} | {sam:10.2f} | {sam / sgd:9.2f} |")


if __name__ == "__main__":
  app.run(main)
