"""Runs of a sweep that one program trains: which, and by which command."""

import shlex
import sys

import pytest
from etils import epath

from sam_jax.config import schema
from sam_jax.config.schema import ConfigError, default_config
from sam_jax.runs import groups
from sam_jax.runs.sweep import PlannedRun


def make_config(**fields):
  config = default_config()
  config.dataset.name = "digits"
  schema.update(config, fields)
  return config


NUMBERS = {
  "seed": 1,
  "label_smoothing": 0.2,
  "sam.rho": 0.2,
  "optimizer.learning_rate": 0.2,
  "optimizer.momentum": 0.5,
  "optimizer.weight_decay": 0.2,
  "optimizer.gradient_clipping": 2.0,
}
OTHERS = {
  "num_epochs": 7,
  "log_every_steps": 7,
  "batch_size": 7,
  "sam.m": 7,
  "sam.p": 3.0,
  "sam.every": 2,
  "optimizer.name": "adamw",
  "model.name": "wrn10_1",
  "eval_every_epochs": 3,
  **dict.fromkeys(
    ["sam.rho", "optimizer.weight_decay", "label_smoothing"], 0.0
  ),
}


def test_runs_that_differ_in_numbers_have_one_program():
  base = {"label_smoothing": 0.1, "optimizer.gradient_clipping": 1.0}
  program = groups.program_of(make_config(**base))
  texts = {"notes": "x", "variant": "digits:sam"}
  same = make_config(**base | NUMBERS | texts)
  assert groups.program_of(same) == program
  for field, value in OTHERS.items():
    other = make_config(**base | {field: value})
    assert groups.program_of(other) != program, field


def test_parts_of_the_data_share_a_program_unless_they_are_evaluated():
  fields = {"dataset.parts": 4, "dataset.label_noise.rate": 0.5}
  other = {"dataset.part": 1, "dataset.label_noise.seed": 1}
  other = fields | other | {"dataset.label_noise.rate": 0.2}
  program = groups.program_of(make_config(**fields))
  assert groups.program_of(make_config(**other)) == program
  fields, other = ({**x, "eval_on_train": True} for x in (fields, other))
  program = groups.program_of(make_config(**fields))
  assert groups.program_of(make_config(**other)) != program


def plan(name, *flags, **fields):
  workdir = epath.Path("/runs") / name
  command = [sys.executable, "-m", "sam_jax.train", f"--workdir={workdir}"]
  command += ["--config=configs/digits.py", *flags]
  return PlannedRun(name, workdir, None, command, make_config(**fields))


def test_a_group_is_ready_once_it_is_full():
  asked = []

  def runs():
    for name, fields in (
      ("a", {}),
      ("sgd", {"sam.rho": 0.0}),
      ("b", {"seed": 1}),
      ("c", {"sam.rho": 0.5}),
      ("sgd2", {"sam.rho": 0.0, "seed": 1}),
      ("d", {"seed": 3}),
    ):
      asked.append(name)
      yield plan(name, **fields)

  found = groups.in_groups(runs(), 2)
  assert [run.name for run in next(found)] == ["a", "b"]
  assert asked == ["a", "sgd", "b"]
  rest = [[run.name for run in group] for group in found]
  assert rest == [["sgd", "sgd2"], ["c", "d"]]
  assert [len(group) for group in groups.in_groups(runs(), 1)] == [1] * 6
  assert [len(group) for group in groups.in_groups(runs(), 9)] == [4, 2]


def test_as_many_steps_of_a_schedule_share_a_program():
  programs = [
    groups.program_of(
      make_config(**{"sam.schedule": "step", "sam.step_at": step_at})
    )
    for step_at in ((0.5, 0.75), (0.3, 0.6), (0.5,))
  ]
  assert programs[0] == programs[1] != programs[2]


def test_command_of_a_group_has_the_flags_of_each_run():
  a = plan("a b", "--config.seed=1", "--verbosity=1")
  b = plan("c", "--config.notes=it's", "--verbosity=1")
  assert groups.command_of([a]) == a.command
  python, *module, verbosity, first, second = groups.command_of([a, b])
  assert [python, *module] == [sys.executable, "-m", "sam_jax.train_together"]
  assert verbosity == "--verbosity=1"
  assert shlex.split(first.removeprefix("--run=")) == [
    *("--workdir=/runs/a b", "--config=configs/digits.py", "--config.seed=1")
  ]
  assert shlex.split(second.removeprefix("--run="))[2] == "--config.notes=it's"


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"profile": "1:2"}, "config.profile = '1:2' traces one run"),
    ({"dataset.name": "imagenet2012"}, "config.dataset.name = 'imagenet2012'"),
  ],
)
def test_what_cannot_train_together_is_one_line(fields, message):
  with pytest.raises(ConfigError, match=message) as error:
    groups.check(make_config(**fields))
  assert "\n" not in str(error.value)
  groups.check(make_config())
