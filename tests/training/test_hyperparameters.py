"""Numbers of a config are arguments of the step, and decide what they did."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from sam_jax.config import schema
from sam_jax.config.fields import FIELDS
from sam_jax.datasets.catalog import dataset_spec
from sam_jax.training import build, hyperparameters, parallel
from sam_jax.training.step import create_state, train_step
from tests import tiny

SPEC = dataset_spec("digits")
# Fields of two runs, and another value of every field that is an argument.
RUNS = {
  "sgd": {
    "optimizer.warmup_epochs": 1.0,
    "optimizer.learning_rate_min": 0.01,
    "sam.schedule": "learning_rate",
    "sam.rho_min": 0.01,
    "sam.warmup_epochs": 0.5,
    "sam.schedule_start": 0.1,
    "sam.schedule_end": 0.9,
  },
  "rmsprop": {
    "optimizer.name": "rmsprop",
    "optimizer.schedule": "step",
    "optimizer.step_at": (0.01, 0.5),
    "optimizer.schedule_start": 0.001,
    "optimizer.schedule_end": 0.9,
    "sam.schedule": "step",
    "sam.step_at": (0.5,),
    "optimizer.weight_decay_kind": "decoupled",
    "label_smoothing": 0.1,
    "bootstrap.kind": "soft",
    "bootstrap.beta": 0.9,
    "ema.decay": 0.9,
    "ema.warmup_steps": 2,
  },
}
CHANGES = {
  "sgd": {
    "seed": 3,
    "num_epochs": 7,
    "log_every_steps": 3,
    "sam.rho": 0.2,
    "sam.rho_min": 0.02,
    "sam.warmup_epochs": 2.0,
    "sam.schedule_start": 0.01,
    "sam.schedule_end": 0.8,
    "optimizer.learning_rate": 0.5,
    "optimizer.learning_rate_min": 0.02,
    "optimizer.warmup_epochs": 2.0,
    "optimizer.momentum": 0.8,
    "optimizer.weight_decay": 0.1,
    "optimizer.gradient_clipping": 1.0,
  },
  "rmsprop": {
    "optimizer.step_at": (0.02, 0.6),
    "optimizer.step_factor": 0.5,
    "optimizer.schedule_start": 0.002,
    "optimizer.schedule_end": 0.8,
    "sam.step_at": (0.01,),
    "sam.step_factor": 0.5,
    "label_smoothing": 0.2,
    "bootstrap.beta": 0.8,
    "optimizer.rmsprop_decay": 0.8,
    "optimizer.rmsprop_eps": 0.01,
    "ema.decay": 0.8,
    "ema.warmup_steps": 3,
  },
}


def make_config(**fields):
  config = tiny.create_config()
  config.batch_size = 8
  config.sam.rho = 0.05
  schema.update(config, fields)
  return build.validate(config, 1)


def make_parts(config):
  # Dropout makes the seed decide something.
  model = tiny.Perceptron(dropout_rate=0.1)
  return dataclasses.replace(build.parts(config, SPEC, 10, 1), model=model)


def map_step(config):
  def step(state, batch, numbers):
    parts = make_parts(hyperparameters.insert(config, numbers))
    return train_step(state, batch, parts)

  return parallel.map_train_step(step, jax.devices()[:1], constants=1)


def make_batch():
  random = np.random.default_rng(0)
  return {
    "image": random.normal(size=(1, 8, 8, 8, 1)).astype(np.float32),
    "target": np.eye(10, dtype=np.float32)[random.integers(10, size=(1, 8))],
  }


def program(config):
  """Return the text of the program of a step."""
  state = jax.eval_shape(lambda: create_state(make_parts(config), (8, 8, 1), 0))
  arguments = state, make_batch(), hyperparameters.extract(config)
  return map_step(config).lower(*arguments).as_text()


@functools.cache
def base_program(run):
  return program(make_config(**RUNS[run]))


def test_every_argument_is_tested():
  arguments = {name for name, field in FIELDS.items() if field.is_argument}
  assert arguments | {"seed"} == CHANGES["sgd"].keys() | CHANGES["rmsprop"]


@pytest.mark.parametrize("run", RUNS)
def test_runs_that_differ_in_numbers_share_a_program(run):
  config = make_config(**RUNS[run] | CHANGES[run])
  assert program(config) == base_program(run)


def test_zero_switches_a_part_off():
  """With rho = 0 the program has one gradient, not two."""
  fields = {"sam.rho": 0.0, "optimizer.warmup_epochs": 1.0}
  plain = program(make_config(**fields)).count("stablehlo.dot_general")
  sam = program(make_config()).count("stablehlo.dot_general")
  assert sam == 2 * plain


@pytest.mark.parametrize("run", RUNS)
def test_arguments_act_as_constants(run):
  """Two steps equal those of a program in which the numbers are constants."""
  config = make_config(**RUNS[run] | CHANGES[run])
  parts = make_parts(config)
  start = jax.device_get(create_state(parts, (8, 8, 1), config.seed))
  devices = jax.devices()[:1]
  constant = parallel.map_train_step(
    functools.partial(train_step, parts=parts), devices
  )
  results = []
  for step, arguments in (
    (constant, ()),
    (map_step(config), (hyperparameters.extract(config),)),
  ):
    state = parallel.replicate(start, devices)
    for _ in range(2):
      state, metrics = step(state, make_batch(), *arguments)
    results.append(jax.device_get((state, metrics)))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    *results,
  )
