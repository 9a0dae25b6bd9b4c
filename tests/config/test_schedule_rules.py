"""The fields of a schedule: those that it uses, and how they fit together."""

import pytest

from sam_jax.config import schema
from sam_jax.config.schema import ConfigError, default_config, validate_config

STEPS = {"schedule": "step", "step_at": (0.5,)}


def check(group, fields):
  """Validate the default config with some fields of a group."""
  config = default_config()
  schema.update(config, {f"{group}.{name}": x for name, x in fields.items()})
  validate_config(config, num_devices=1)


@pytest.mark.parametrize(
  ("group", "fields", "message"),
  [
    (
      "optimizer",
      {"step_factor": 0.2},
      "config.optimizer.step_factor = 0.2 has no effect with"
      " config.optimizer.schedule = 'cosine': set it to 0.1, its default, or"
      " the schedule to 'step'.",
    ),
    (
      "optimizer",
      {"schedule": "constant", "schedule_end": 0.5},
      "config.optimizer.schedule_end = 0.5 has no effect with"
      " config.optimizer.schedule = 'constant': set it to None, its default, or"
      " the schedule to 'cosine'.",
    ),
    (
      "optimizer",
      {"schedule": "linear", "step_at": [0.5]},  # as config.json has it
      "config.optimizer.step_at = (0.5,) has no effect with"
      " config.optimizer.schedule = 'linear': set it to (), its default, or the"
      " schedule to 'step'.",
    ),
    (
      "optimizer",
      {**STEPS, "learning_rate_min": 0.01},
      "config.optimizer.learning_rate_min = 0.01 has no effect with"
      " config.optimizer.schedule = 'step': set it to None, its default, or the"
      " schedule to 'cosine'.",
    ),
    (
      "sam",
      {"rho_min": 0.01},
      "config.sam.rho_min = 0.01 has no effect with config.sam.schedule ="
      " 'constant': set it to None, its default, or the schedule to"
      " 'learning_rate'.",
    ),
  ],
)
def test_a_field_that_the_schedule_ignores_is_refused(group, fields, message):
  with pytest.raises(ConfigError) as error:
    check(group, fields)
  assert str(error.value) == message


@pytest.mark.parametrize(
  ("group", "fields"),
  [
    ("optimizer", {**STEPS, "step_factor": 0.2, "schedule_end": 0.5}),
    ("optimizer", {"schedule": "constant", "warmup_epochs": 5.0}),
    ("optimizer", {"schedule": "linear", "learning_rate_min": 0.01}),
    ("optimizer", {**STEPS, "step_at": [0.3, 0.6]}),
    ("sam", {"schedule_start": 0.5, "schedule_end": 0.9}),
    ("sam", {"schedule": "learning_rate", "rho_min": 0.01}),
    # Plain descent, from any config of SAM.
    ("sam", {"rho": 0.0, "schedule": "learning_rate", "rho_min": 0.01}),
    ("sam", {"rho": 0.0, "schedule_start": 0.9, "warmup_epochs": 30.0}),
  ],
)
def test_a_field_that_the_schedule_uses_is_accepted(group, fields):
  check(group, fields)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"schedule_start": 0.5, "schedule_end": 0.5}, "start = 0.5 must be less"),
    (
      {"schedule_start": 0.9, "warmup_epochs": 30.0},
      "30.0 must be at most the 20 epochs between",
    ),
    ({"schedule": "exponential", "rho_min": 0.0}, "rho_min = 0 is no end of"),
    ({"schedule": "linear", "rho_min": 0.5}, "rho_min = 0.5 must be at most"),
    ({"schedule": "step"}, r"step_at = \(\) must hold .*such as \(0.5, 0.75"),
    ({"schedule": "step", "step_at": ("a",)}, "step_at: 'a' must be a number"),
    ({"schedule": "step", "step_at": (30,)}, r"step_at: 30 must be in \(0, 1"),
    (
      {"schedule": "step", "step_at": (0.6, 0.3)},
      r"sam.step_at = \(0.6, 0.3\) must ascend, as in \(0.3, 0.6\)\.",
    ),
    (
      {"schedule": "step", "step_at": (0.3, 0.3)},
      r"sam.step_at = \(0.3, 0.3\) must ascend, as in \(0.3,\)\.",
    ),
  ],
)
def test_fields_of_a_schedule_fit_together(fields, message):
  with pytest.raises(ConfigError, match=message):
    check("sam", fields)
