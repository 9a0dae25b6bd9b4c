"""The schema: each row is used, and every rule gives one clear message."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from sam_jax.augment import pipeline
from sam_jax.config import schema
from sam_jax.config.field_type import Field
from sam_jax.config.schema import (
  FIELDS,
  ConfigError,
  check_fields,
  default_config,
  flatten,
  validate_config,
)
from sam_jax.datasets import labels
from sam_jax.training import losses

BAD_FIELDS = [
  ("num_epochs", 0, "config.num_epochs = 0 must be >= 1"),
  ("num_epochs", 1.5, "config.num_epochs = 1.5 must be an integer"),
  ("num_epochs", True, "config.num_epochs = True must be an integer"),
  ("batch_size", 250, "config.batch_size = 250 does not divide by the 8"),
  ("batch_size", 0, "config.batch_size = 0 must be >= 1"),
  ("eval_batch_size", 9, "config.eval_batch_size = 9 .* 8 would"),
  ("label_smoothing", 1.5, r"config.label_smoothing = 1.5 must be in \[0, 1\]"),
  ("model.name", "wrn28_11_2", "config.model.name: .*wrn28_10"),
  ("model.name", 7, "config.model.name = 7 must be a string"),
  ("model.dtype", "float64", "config.model.dtype = 'float64' .*float32"),
  ("model.batch_norm", "n", "config.model.batch_norm = 'n' is unknown"),
  (
    "model.options.patch",
    object(),
    "config.model.options.patch = .* must be a",
  ),
  ("model.additional_skips", 1, "must be true or false, or None"),
  ("dataset.name", "cifar1", "config.dataset.name = 'cifar1' .*'cifar10'"),
  ("dataset.label_noise.rate", 1.2, "config.dataset.label_noise.rate = 1.2"),
  ("dataset.label_noise.kind", "symetric", "Did you mean 'symmetric'"),
  ("augment.policy", "autoagument", "Did you mean 'autoaugment'"),
  ("augment.cutout", "batches", "Did you mean 'batch'"),
  ("sam.rho", -0.1, "config.sam.rho = -0.1 must be >= 0"),
  ("sam.rho", float("nan"), "config.sam.rho = nan must be >= 0"),
  ("sam.rho", float("inf"), "config.sam.rho = inf must be >= 0 and finite"),
  ("sam.step_at", (0.5,), r"step_at = \(0.5,\) has no .*schedule = 'constant'"),
  ("sam.warmup_epochs", 201.0, "rho would never reach its peak"),
  ("sam.schedule_start", 1.0, r"schedule_start = 1.0 must be in \[0, 1\)"),
  ("optimizer.schedule", "step", r"step_at = \(\) must .*such as \(0.5, 0.75"),
  ("optimizer.learning_rate_min", 0.2, "learning_rate_min = 0.2 must be at"),
  ("sam.rho", None, r"config.sam.rho = None must be a number, such as 0\.05"),
  ("sam.method", 3, "config.sam.method = 3 must be a string"),
  ("sam.adaptive_mask", "biases", "config.sam.adaptive_mask = 'biases' is unk"),
  ("seed", -1, r"config.seed = -1 must be in \[0, 4294967296\)"),
  ("model.dropout_rate", 1.0, r"dropout_rate = 1.0 must be in \[0, 1\)"),
  ("keep_checkpoints_at_epochs", ("a",), "'a' is not an epoch"),
  ("sam.p", 0.5, "config.sam.p = 0.5 must be >= 1"),
  ("sam.m", 24, "config.sam.m: m = 24 .* can be 1, 2, 4, 8, 16, 32, 64, 128"),
  ("sam.m", 0, "config.sam.m = 0 must be >= 1"),
  ("sam.every", 0, "config.sam.every = 0"),
  ("sam.ascent_steps", 0, "config.sam.ascent_steps = 0"),
  ("sam.mask", "bn", "config.sam.mask = 'bn' is unknown"),
  ("optimizer.name", "sdg", "Did you mean 'sgd'"),
  ("optimizer.name", "lino", "Known: .*lion.* Did you mean 'lion'"),
  ("optimizer.name", "chain", "config.optimizer.name = 'chain' is unknown"),
  ("optimizer.name", "scale_by_adam", "'scale_by_adam' is unknown"),
  ("optimizer.name", "__doc__", "'__doc__' is unknown"),
  ("optimizer.name", "adamw", "weight_decay_kind = 'decoupled'"),
  ("optimizer.schedule", "cosin", "Did you mean 'cosine'"),
  ("optimizer.learning_rate", -1.0, "config.optimizer.learning_rate = -1.0"),
  ("ema.decay", 2.0, "config.ema.decay = 2.0"),
  ("checkpoint_every_epochs", 0.0, "checkpoint_every_epochs = 0.0 must be > 0"),
  ("analysis.every_epochs", -1, "config.analysis.every_epochs = -1 must"),
  ("analysis.m", 1024, "config.analysis.m = 1024 must be at most"),
  ("analysis.measures", ("rnk",), "'rnk' is no measure"),
  ("analysis.measures", ("worst:m=999",), "needs at least 999 examples"),
  ("analysis.measures", (3,), "3 must be a string"),
  ("keep_checkpoints_at_epochs", (300,), "300 is not an epoch of this run"),
  ("sam.rho", "abc", "config.sam.rho = 'abc' must be a number"),
  ("sam.rho", np.zeros((99, 9)), r"config.sam.rho = array\(\[.* be a number"),
  ("sam.rho", [0.1], r"config.sam.rho = \[0.1\] must be a number"),
  ("sam.mask", np.zeros(2), "config.sam.mask = .* must be a string"),
  ("optimizer.warmup_epochs", 201.0, "must be at most config.num_epochs = 200"),
]
BAD_FIELDS += [
  (name, 2**100, rf"config\.{name} = {2**100} must be (less than|in \[0,)")
  for name, field in FIELDS.items()
  if field.kind is int
]


def config_with(fields):
  """The default config with some fields, of whatever type."""
  config = default_config()
  with config.unlocked(), config.ignore_type():
    schema.update(config, fields)
  return config


def test_defaults_are_valid():
  validate_config(default_config(), num_devices=8)


@pytest.mark.parametrize(("field", "value", "message"), BAD_FIELDS)
def test_bad_field_is_named_with_its_value_and_a_remedy(field, value, message):
  with pytest.raises(ConfigError, match=message) as error:
    validate_config(config_with({field: value}), num_devices=8)
  assert "\n" not in str(error.value)


def test_an_integer_beyond_the_range_of_floats_is_not_finite():
  with pytest.raises(ValueError, match="must be >= 0 and finite"):
    FIELDS["sam.rho"].check(10**400)


@pytest.mark.parametrize(
  "fields",
  [
    {"sam.p": float("inf")},
    {"sam.rho": 1},  # an integer is a number
    {"sam.method": "my_package.my_module:my_method", "sam.options.sigma": 1.0},
    {"optimizer.name": "lion", "optimizer.options.b1": 0.95},
    {"optimizer.name": "lamb", "optimizer.options.names": ("a", "b")},
    {"optimizer.name": "adamw", "optimizer.weight_decay_kind": "decoupled"},
    {"model.options.additional_skips": True},
    {"keep_checkpoints_at_epochs": [1, 200]},  # as config.json has it
    {"model.name": "efficientnet_b0", "model.dropout_rate": 0.5},
  ],
)
def test_what_is_valid(fields):
  validate_config(config_with(fields), num_devices=8)


def test_every_field_has_one_row():
  names = {name for name, _ in flatten(default_config().to_dict())}
  options = {name for name, field in FIELDS.items() if field.kind is dict}
  assert options == {"model.options", "optimizer.options", "sam.options"}
  assert names | options == set(FIELDS)
  for name, field in FIELDS.items():
    field.check(field.default)
    assert field.help.endswith("."), name
    assert "\n" not in field.help, name
    if field.choices and field.default is not None:
      assert field.default in field.choices


def test_choices_are_those_of_the_code_that_acts_on_them():
  assert FIELDS["augment.policy"].choices == pipeline.POLICIES
  assert FIELDS["augment.cutout"].choices == pipeline.CUTOUTS
  assert FIELDS["dataset.label_noise.kind"].choices == labels.NOISE_KINDS
  assert FIELDS["bootstrap.kind"].choices == tuple(losses.BOOTSTRAPS)
  assert FIELDS["loss"].choices == tuple(losses.LOSSES)


def test_new_rows_are_everywhere(monkeypatch):
  """CONTRIBUTING.md promises: a hyperparameter is one row and one use."""
  row = Field(0.3, ge=0, lt=1, help="Strength of something new.")
  monkeypatch.setitem(FIELDS, "sam.novelty", row)
  config = default_config()
  assert config.sam.novelty == 0.3
  validate_config(config, num_devices=8)
  config.sam.novelty = 1.0
  message = r"config.sam.novelty = 1.0 must be in \[0, 1\)"
  with pytest.raises(ConfigError, match=message):
    validate_config(config, num_devices=8)
  line = "--config.sam.novelty=0.3  (a number in [0, 1))\n"
  assert line in schema.help_text()
  row = "| `sam.novelty` | `0.3` | a number in [0, 1) | Strength of something"
  assert row in schema.markdown_table()


def test_markdown_table_has_a_row_for_each_field():
  header, rule, *rows = schema.markdown_table().splitlines()
  assert {header.count("|"), rule.count("|")} == {5}
  assert len(rows) == len(FIELDS)
  assert {row.count("|") for row in rows} == {5}


def test_fields_that_decide_nothing():
  assert schema.host_fields() == {
    "dataset.data_dir",
    "compilation_cache_dir",
  }
  free = schema.free_fields()
  assert schema.host_fields() < free
  assert {"eval_every_epochs", "profile", "notes", "analysis.rho"} < free
  assert not {"seed", "sam.rho", "batch_size"} & free


def test_experiment_keeps_what_is_measured():
  fields = {
    "sam.rho": 0.1,
    "sam.options.sigma": 1.0,
    "of_a_later_version": 1,
    "seed": 1,
    "log_every_steps": 1,
    "notes": "a",
    "dataset.data_dir": "/data",
  }
  assert schema.experiment(fields) == dict(itertools.islice(fields.items(), 3))


def test_fields_that_are_not_those_of_the_schema():
  config = default_config()
  config.my_tag = "x"
  with pytest.raises(ConfigError, match="my_tag is a field that nothing reads"):
    check_fields(config)
  config = default_config()
  del config.sam["rho"], config["ema"]
  with pytest.raises(ConfigError, match=r"lacks sam\.rho, ema\.decay"):
    check_fields(config)
  config = default_config()
  with config.ignore_type():
    config.sam = 3
  with pytest.raises(ConfigError, match=r"config\.sam is a field that"):
    check_fields(config)
  config = default_config()
  config.sam.options = {"a": {"b": 1}}
  with pytest.raises(ConfigError, match=r"config\.sam\.options\.a\.b is a fie"):
    check_fields(config)


def test_default_configs_share_nothing():
  first, second = default_config(), default_config()
  first.sam.options.sigma = 1
  assert "sigma" not in second.sam.options
  assert "sigma" not in default_config().sam.options


def test_configs_survive_json():
  config = default_config()
  schema.update(config, {"sam.options.sigma": 0.5, "sam.m": 32})
  tree = json.loads(config.to_json_best_effort())
  assert dict(flatten(tree))["sam.options.sigma"] == 0.5
  assert tree["optimizer"]["options"] == {}
  assert tree["sam"]["m"] == 32


@pytest.mark.parametrize(
  ("field", "value"),
  [("p", 1.0), ("ascent_steps", 2), ("random_direction", True)],
)
def test_second_order_needs_a_smooth_perturbation(field, value):
  config = config_with({"sam.second_order": True, f"sam.{field}": value})
  with pytest.raises(ConfigError, match=f"second_order .*sam.{field} ="):
    validate_config(config, num_devices=8)


@pytest.mark.parametrize(
  ("fields", "side"),
  [
    ({"dataset.name": "digits"}, 8),
    ({"dataset.name": "cifar10"}, 32),
    ({"dataset.name": "cifar10", "dataset.image_size": 48}, 48),
    ({"dataset.name": "imagenet2012", "model.name": "efficientnet_b1"}, 240),
  ],
)
def test_a_cutout_fits_into_the_image(fields, side):
  fields = {"model.name": "cnn4", "augment.policy": "basic", **fields}
  fields["augment.cutout_size"] = side + 1
  validate_config(config_with(fields), num_devices=8)  # unused
  fields["augment.cutout"] = "image"
  message = f"cutout_size = {side + 1} must be at most {side}, the side of"
  with pytest.raises(ConfigError, match=message):
    validate_config(config_with(fields), num_devices=8)
  fields["augment.cutout_size"] = side
  validate_config(config_with(fields), num_devices=8)


def test_bootstrapping_needs_a_softmax():
  fields = {"loss": "sigmoid", "bootstrap.kind": "soft"}
  message = (
    "kind = 'soft' mixes targets with the softmax that config.loss = 'sig"
  )
  with pytest.raises(ConfigError, match=message):
    validate_config(config_with(fields), num_devices=8)


def test_color_operations_need_color_images():
  fields = {"dataset.name": "digits", "augment.policy": "autoaugment"}
  with pytest.raises(ConfigError, match="digits have 1 channel"):
    validate_config(config_with(fields), num_devices=8)


def test_asymmetric_noise_needs_the_classes_of_cifar10():
  fields = {
    "dataset.label_noise.rate": 0.2,
    "dataset.label_noise.kind": "asymmetric",
  }
  validate_config(config_with(fields), num_devices=8)
  with pytest.raises(
    ConfigError, match="CIFAR-10's classes, not those of svhn"
  ):
    validate_config(
      config_with(fields | {"dataset.name": "svhn"}), num_devices=8
    )


def test_labels_of_a_file_are_not_corrupted():
  fields = {"dataset.label_noise.rate": 0.2, "dataset.label_file": "a.npy"}
  with pytest.raises(ConfigError, match=r"corrupt the labels of .*'a\.npy'"):
    validate_config(config_with(fields), num_devices=8)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"part": 4, "parts": 4}, "part = 4 must be below config.dataset.parts"),
    ({"parts": 2, "name": "imagenet2012"}, "parts = 2 needs a data set that"),
    ({"parts": 2, "name": "image_folder"}, "image_folder is none. Set it to"),
  ],
)
def test_parts_are_of_data_sets_in_memory(fields, message):
  config = config_with({f"dataset.{name}": x for name, x in fields.items()})
  with pytest.raises(ConfigError, match=message):
    validate_config(config, num_devices=8)


def test_rules_of_rows_are_readable():
  rules = {name: field.rule for name, field in FIELDS.items()}
  assert rules["sam.rho"] == "a number >= 0"
  assert rules["sam.m"] == "an integer >= 1, or None"
  assert rules["sam.p"] == "a number >= 1, or inf"
  assert rules["model.dropout_rate"] == "a number in [0, 1), or None"
  assert rules["checkpoint_every_epochs"] == "a number > 0"
  assert rules["pretrained"] == "a path, or None"
  assert rules["sam.mask"] == "one of all, norm, no_norm"
  assert dataclasses.replace(FIELDS["sam.p"], ge=None, gt=1, le=2).rule == (
    "a number in (1, 2], or inf"
  )
