"""Every rule of a config gives one clear message."""

import pytest

from sam_jax.config.schema import (
  ConfigError,
  check_pretrained,
  default_config,
  validate_config,
)

BAD_FIELDS = [
  ("num_epochs", 0, "config.num_epochs = 0 must be >= 1"),
  ("batch_size", 250, "config.batch_size = 250 does not divide by the 8"),
  ("batch_size", 0, "config.batch_size = 0 must be >= 1"),
  ("eval_batch_size", 9, "config.eval_batch_size = 9 .* 8 would"),
  ("label_smoothing", 1.5, r"config.label_smoothing = 1.5 must be in \[0, 1\]"),
  ("model.name", "wrn28_11_2", "config.model.name: .*wrn28_10"),
  ("model.name", "wrn27_10", "config.model: .*6n"),
  ("model.dtype", "float64", "config.model.dtype = 'float64' .*float32"),
  ("model.batch_norm", "n", "config.model.batch_norm = 'n' is unknown"),
  ("dataset.name", "cifar1", "config.dataset.name = 'cifar1' .*'cifar10'"),
  ("dataset.label_noise.rate", 1.2, "config.dataset.label_noise.rate = 1.2"),
  ("dataset.label_noise.kind", "symetric", "Did you mean 'symmetric'"),
  ("augment.policy", "autoagument", "Did you mean 'autoaugment'"),
  ("augment.cutout", "batches", "Did you mean 'batch'"),
  ("sam.rho", -0.1, "config.sam.rho = -0.1 must be >= 0"),
  ("sam.rho", float("nan"), "config.sam.rho = nan must be >= 0"),
  ("sam.rho", float("inf"), "config.sam.rho = inf must be"),
  ("sam.rho_min", 0.5, "config.sam.rho_min = 0.5 must be at most"),
  ("sam.rho", None, r"config.sam.rho = None must have a value, such as 0\.05"),
  ("seed", -1, "config.seed = -1 must be >= 0"),
  ("model.dropout_rate", 1.0, "config.model: dropout_rate must be"),
  ("keep_checkpoints_at_epochs", ("a",), "'a' is not an epoch"),
  ("sam.p", 0.5, "config.sam.p = 0.5 must be >= 1"),
  ("sam.m", 24, "config.sam.m: m = 24 .* can be 1, 2, 4, 8, 16, 32, 64, 128"),
  ("sam.m", 0, "config.sam.m = 0 must be >= 1"),
  ("sam.every", 0, "config.sam.every = 0"),
  ("sam.ascent_steps", 0, "config.sam.ascent_steps = 0"),
  ("sam.mask", "bn", "config.sam.mask = 'bn' is unknown"),
  ("optimizer.name", "sdg", "Did you mean 'sgd'"),
  ("optimizer.name", "adamw", "weight_decay_kind = 'decoupled'"),
  ("optimizer.schedule", "cosin", "Did you mean 'cosine'"),
  ("optimizer.learning_rate", -1.0, "config.optimizer.learning_rate = -1.0"),
  ("ema.decay", 2.0, "config.ema.decay = 2.0"),
  ("analysis.every_epochs", -1, "config.analysis.every_epochs = -1 must"),
  ("analysis.m", 1024, "config.analysis.m = 1024 must be at most"),
  ("keep_checkpoints_at_epochs", (300,), "300 is not an epoch of this run"),
]


def test_defaults_are_valid():
  validate_config(default_config(), num_devices=8)


@pytest.mark.parametrize(("field", "value", "message"), BAD_FIELDS)
def test_bad_field_is_named_with_its_value_and_a_remedy(field, value, message):
  config = default_config()
  with config.unlocked():
    config.update_from_flattened_dict({field: value})
  with pytest.raises(ConfigError, match=message) as error:
    validate_config(config, num_devices=8)
  assert "\n" not in str(error.value)


def test_a_missing_checkpoint_to_start_from_is_named():
  config = default_config()
  config.pretrained = "/no/file"
  with pytest.raises(ConfigError, match=r"pretrained = '/no/file'.*no such"):
    check_pretrained(config)
  validate_config(config, num_devices=8)  # it may have done its work


@pytest.mark.parametrize(("field", "value"), [("p", 1.0), ("ascent_steps", 2)])
def test_second_order_needs_a_smooth_perturbation(field, value):
  config = default_config()
  config.sam.second_order = True
  config.sam[field] = value
  with pytest.raises(ConfigError, match=f"second_order .*sam.{field} ="):
    validate_config(config, num_devices=8)


@pytest.mark.parametrize("field", ["sam.p"])
def test_infinite_norm_is_allowed(field):
  config = default_config()
  config.sam.p = float("inf")
  validate_config(config, num_devices=8)


def test_colour_operations_need_colour_images():
  config = default_config()
  config.dataset.name, config.augment.policy = "digits", "autoaugment"
  with pytest.raises(ConfigError, match="digits have 1 channel"):
    validate_config(config, num_devices=8)
