"""Schedules against the official release, optax, and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sam_jax.config import schema
from sam_jax.config.schema import ConfigError, default_config
from sam_jax.training import schedules

STEPS_PER_EPOCH, EPOCHS = 390, 200
TOTAL = STEPS_PER_EPOCH * EPOCHS
STEPS = np.arange(0, TOTAL, 97)


def schedule(**fields):
  config = default_config().optimizer
  config.update(fields)
  return schedules.learning_rate_schedule(config, STEPS_PER_EPOCH, EPOCHS)


def rho(**fields):
  """Return the radius of the steps in `STEPS` of a run with these fields."""
  config = default_config()
  config.sam.rho = 0.5
  schema.update(config, {f"sam.{name}": x for name, x in fields.items()})
  rate = schedules.learning_rate_schedule(
    config.optimizer, STEPS_PER_EPOCH, EPOCHS
  )
  radius = schedules.rho_schedule(config, rate, STEPS_PER_EPOCH)
  assert callable(radius)
  return jax.vmap(radius)(STEPS)


def test_cosine_equals_the_official_release(golden):
  recorded = golden("lr_schedules.npz")
  rates = jax.vmap(schedule())(recorded["steps"])
  # cos rounds at 1e-7 of 1, which is all there is at the last step.
  np.testing.assert_allclose(rates, recorded["cosine_traced_int32"], atol=1e-8)


def test_exponential_equals_the_official_release_but_for_its_nan(golden):
  recorded = golden("lr_schedules.npz")
  rates = jax.vmap(schedule(schedule="exponential"))(recorded["steps"])
  expected = recorded["exponential_traced_int32"]
  assert np.isnan(expected[0])  # theirs divides 0 by 0
  assert rates[0] == pytest.approx(0.1)
  np.testing.assert_allclose(rates[1:], expected[1:], rtol=1e-6)


def test_warmup_equals_the_official_release(golden):
  recorded = golden("lr_schedules.npz")
  warm = schedule(schedule="exponential", warmup_epochs=5.0)
  np.testing.assert_allclose(
    jax.vmap(warm)(recorded["steps"]),
    recorded["exponential_warmup5_traced_int32"],
    rtol=1e-6,
  )


def test_constant_schedule():
  rates = jax.vmap(schedule(schedule="constant"))(jnp.arange(3))
  np.testing.assert_allclose(rates, 0.1)


# Closed forms of optax, by the fields of the same schedule with a peak of 0.1.
PEERS = [
  ({"schedule": "cosine"}, optax.cosine_decay_schedule(0.1, TOTAL)),
  (
    {"schedule": "cosine", "learning_rate_min": 0.02},
    optax.cosine_decay_schedule(0.1, TOTAL, alpha=0.2),
  ),
  ({"schedule": "linear"}, optax.linear_schedule(0.1, 0.0, TOTAL)),
  (
    {
      "schedule": "linear",
      "learning_rate_min": 0.03,
      "schedule_start": 0.5,
      "schedule_end": 0.9,
    },
    optax.linear_schedule(
      0.1, 0.03, round(0.4 * TOTAL), transition_begin=TOTAL // 2
    ),
  ),
  (
    {"schedule": "exponential", "learning_rate_min": 0.001},
    optax.exponential_decay(0.1, TOTAL, 0.01),
  ),
  (
    {"schedule": "step", "step_at": (0.3, 0.6, 0.8), "step_factor": 0.2},
    optax.piecewise_constant_schedule(
      0.1, {round(f * TOTAL): 0.2 for f in (0.3, 0.6, 0.8)}
    ),
  ),
]


@pytest.mark.parametrize(("fields", "peer"), PEERS)
def test_schedule_equals_that_of_optax(fields, peer):
  np.testing.assert_allclose(
    jax.vmap(schedule(**fields))(STEPS),
    jax.vmap(peer)(STEPS),
    rtol=1e-5,
    atol=1e-7,
  )


@pytest.mark.parametrize(("fields", "peer"), PEERS)
def test_rho_has_the_schedules_of_the_learning_rate(fields, peer):
  names = {"learning_rate_min": "rho_min"}
  fields = {names.get(name, name): x for name, x in fields.items()}
  if "rho_min" in fields:
    fields["rho_min"] *= 5  # the peak is 0.5, not 0.1
  expected = 5 * jax.vmap(peer)(STEPS)
  start = fields.get("schedule_start", 0) * TOTAL
  end = fields.get("schedule_end", 1) * TOTAL
  expected = np.where((start <= STEPS) & (end > STEPS), expected, 0)
  np.testing.assert_allclose(rho(**fields), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["constant", "linear"])
def test_a_warm_up_multiplies_the_schedule(kind):
  plain = jax.vmap(schedule(schedule=kind))(STEPS)
  warm = jax.vmap(schedule(schedule=kind, warmup_epochs=20.0))(STEPS)
  factor = np.minimum(STEPS / (20 * STEPS_PER_EPOCH), 1)
  np.testing.assert_allclose(warm, factor * plain, rtol=1e-5)


def test_sam_in_the_last_part_of_the_run():
  found = rho(schedule_start=0.7)
  np.testing.assert_array_equal(found[STEPS < 0.7 * TOTAL], 0)
  np.testing.assert_array_equal(found[STEPS >= 0.7 * TOTAL], np.float32(0.5))


def test_sam_in_the_first_part_of_the_run():
  found = rho(schedule_end=0.25)
  np.testing.assert_array_equal(found > 0, STEPS < 0.25 * TOTAL)


def test_rho_warms_up_from_its_start_on():
  found = rho(schedule_start=0.5, warmup_epochs=50.0)
  x = np.clip((STEPS - TOTAL / 2) / (50 * STEPS_PER_EPOCH), 0, 1)
  np.testing.assert_allclose(found, 0.5 * x, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
  ("start", "end", "fits"),
  [
    (None, None, True),
    (0.75, None, True),
    (0.76, None, False),
    (0.25, 0.3, True),
    (0.26, 0.49, False),
    (None, 0.01, True),
  ],
)
def test_the_window_of_rho_has_a_step_in_it(start, end, fits):
  config = default_config()
  config.num_epochs = 1
  config.sam.update({"schedule_start": start, "schedule_end": end})
  if fits:
    schedules.check_window(config, steps_per_epoch=4)  # at 0, .25, .5, .75
    return
  with pytest.raises(ConfigError, match=f"= {start} .* none of the 4 steps"):
    schedules.check_window(config, steps_per_epoch=4)
  config.sam.rho = 0.0  # has no schedule
  schedules.check_window(config, steps_per_epoch=4)


# Fields of a learning rate with a peak of 0.1, and where it ends.
FALLING = [
  ({}, 0.0),
  ({"learning_rate_min": 0.02}, 0.02),
  ({"schedule": "linear", "learning_rate_min": 0.001}, 0.001),
  ({"schedule": "linear", "schedule_start": 0.2, "schedule_end": 0.6}, 0.0),
  ({"schedule": "exponential"}, 0.0012),
  ({"schedule": "exponential", "learning_rate_min": 0.01}, 0.01),
  ({"schedule": "step", "step_at": (0.3, 0.6)}, 0.001),
  (
    {"schedule": "linear", "learning_rate_min": 0.03, "warmup_epochs": 9.0},
    0.03,
  ),
]


@pytest.mark.parametrize(("fields", "last"), FALLING)
@pytest.mark.parametrize("rho_min", [None, 0.2])
def test_rho_follows_the_learning_rate_as_in_gsam(fields, last, rho_min):
  """Zhuang et al.: from rho_max at lr_max to rho_min at lr_min."""
  config = default_config()
  config.optimizer.update(fields)
  config.sam.update(
    {"rho": 0.6, "rho_min": rho_min, "schedule": "learning_rate"}
  )
  rate = schedules.learning_rate_schedule(
    config.optimizer, STEPS_PER_EPOCH, EPOCHS
  )
  radius = jax.vmap(schedules.rho_schedule(config, rate, STEPS_PER_EPOCH))
  low, steps = rho_min or 0.0, np.append(STEPS, TOTAL)
  share = (np.float64(jax.vmap(rate)(steps)) - last) / (0.1 - last)
  expected = np.maximum(low + (0.6 - low) * share, 0)
  np.testing.assert_allclose(radius(steps), expected, rtol=1e-5, atol=1e-6)
  assert radius(steps)[-1] == pytest.approx(low, abs=1e-6)


@pytest.mark.parametrize(
  "fields",
  [
    {"schedule": "constant"},
    {"schedule": "constant", "warmup_epochs": 200.0},
    {"schedule": "linear", "learning_rate_min": 0.1},
    {"schedule": "step", "step_at": (0.5,), "step_factor": 2.0},
    {"learning_rate": 0.0},
  ],
)
def test_rho_of_a_learning_rate_that_does_not_fall_is_constant(fields):
  config = default_config()
  config.optimizer.update(fields)
  config.sam.update({"rho": 0.6, "rho_min": 0.2, "schedule": "learning_rate"})
  rate = schedules.learning_rate_schedule(config.optimizer, 10, EPOCHS)
  radius = schedules.rho_schedule(config, rate, 10)
  for step in (0, 500, 1000, 2000):
    assert (radius(step) if callable(radius) else radius) == np.float32(0.6)


def test_rho_is_proportional_to_the_learning_rate():
  found = rho(schedule="learning_rate")
  np.testing.assert_allclose(
    found, 5 * jax.vmap(schedule())(STEPS), rtol=1e-5, atol=1e-7
  )


@pytest.mark.parametrize("fields", [{}, {"rho": 0.0, "schedule": "cosine"}])
def test_constant_rho_stays_a_number(fields):
  config = default_config()
  config.sam.update(fields)
  radius = schedules.rho_schedule(config, schedule(), STEPS_PER_EPOCH)
  assert radius == fields.get("rho", 0.05)
