"""The paper's numbers: all are there, and each has the config behind it."""

import collections
import functools
import json

import pytest

from sam_jax.config import files, paper_tables
from sam_jax.config.paper_tables import find_cell, follows_recipe
from sam_jax.config.schema import update

load = functools.cache(lambda name: files.load(str(files.project_config(name))))


def config_of(name, words="", **fields):
  """A config of the project with some overrides, as config.json has it."""
  config = load(name).get_config(words)
  update(config, {k.replace("__", "."): v for k, v in fields.items()})
  return json.loads(config.to_json_best_effort())


def test_tables_are_complete():
  cells = paper_tables.cells()
  assert collections.Counter(cell.table for cell in cells) == {
    "1": 60,  # 15 rows, 2 data sets, with SAM and without
    "2": 18,  # 9 rows
    "3": 36,  # 9 data sets, 2 networks
    "4": 20,  # 5 methods, 4 levels of noise
    "5": 16,  # 2 data sets, 2 networks, 2 augmentations
    "8": 28,  # 7 values of rho, 4 levels of noise
    "9": 30,  # 15 rows, 2 data sets
    "10": 8,  # all data sets but ImageNet
    "11": 8,  # 4 numbers of steps, 2 data sets
  }
  assert len({(cell.table, cell.name) for cell in cells}) == len(cells)
  for cell in cells:
    float(cell.error.partition(" ± ")[0])
    assert bool(cell.top_5_error) == (cell.table == "2")


@pytest.mark.parametrize("number", ["1", "2", "3", "4", "5", "9"])
def test_errors_of_sam_are_below_those_of_sgd(number):
  """A digit that is mistyped, or two columns that are exchanged."""
  errors = {}
  for cell in paper_tables.cells():
    if cell.table == number or (number, cell.table) == ("9", "1"):
      errors[cell.name] = float(cell.error.partition(" ± ")[0])
  worse = [
    name
    for name, error in errors.items()
    if name.endswith(", sam") and error >= errors[name[:-3] + "sgd"]
  ]
  # Table 5 has one row in which SAM is worse.
  expected = ["SVHN, shake_shake, autoaugment, sam"] if number == "5" else []
  assert worse == expected


def test_every_cell_is_found_by_each_of_its_recipes():
  for cell in paper_tables.cells():
    for recipe in cell.recipes:
      words, fields = paper_tables._split(recipe)
      fields = config_of(cell.file, ",".join(words), **fields)
      assert find_cell(fields) == cell
      assert follows_recipe(fields, cell)


def test_a_run_of_before_a_field_existed_has_its_default():
  for cell in paper_tables.cells():
    words, overrides = paper_tables._split(cell.recipes[0])
    if overrides.get("sam.ascent_steps") != 1:
      continue
    fields = config_of(cell.file, ",".join(words), **overrides)
    del fields["sam"]["ascent_steps"]
    assert find_cell(fields) == cell
    assert follows_recipe(fields, cell)
    return
  pytest.fail("no cell varies ascent_steps")


PAPERS_NUMBERS = [
  ("cifar", "pyramidnet,cifar100,autoaugment,sam", "1", "11.6 ± 0.1"),
  ("cifar", "1800_epochs,cutout,sgd,double_epochs", "1", "2.7 ± 0.1"),
  ("cifar", "pyramidnet,cifar100,cutout,rho005", "9", "13.1"),
  ("svhn", "shake_shake,autoaugment,sgd", "5", "1.03 ± 0.02"),
  ("fashion_mnist", "cutout", "5", "3.61 ± 0.06"),
  ("imagenet", "resnet50,400_epochs", "2", "20.9 ± 0.1"),
  ("finetune", "l2,pets,sgd", "3", "3.08 ± 0.04"),
  ("finetune", "cars,rho005", "10", "5.57"),
  ("noisy_labels", "noise60", "4", "9.5"),
  ("noisy_labels", "noise60,bootstrap", "4", "8.2"),
]


@pytest.mark.parametrize(("name", "words", "table", "error"), PAPERS_NUMBERS)
def test_number_of_a_config(name, words, table, error):
  fields = config_of(name, words)
  cell = find_cell(fields)
  assert (cell.table, cell.error) == (table, error)
  assert follows_recipe(fields, cell)


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("imagenet", "efficientnet_b3"),
    ("cifar", "tune"),
    ("digits", ""),
    ("m_sharpness", ""),
    ("noisy_labels", "tune"),
  ],
)
def test_configs_without_a_number(name, words):
  assert find_cell(config_of(name, words)) is None


def test_top_5_error():
  cell = find_cell(config_of("imagenet", "resnet101,200_epochs"))
  assert cell.error == "19.4 ± 0.1"
  assert cell.top_5_error == "4.76 ± 0.03"


def test_another_rho_is_not_the_papers_recipe():
  fields = config_of("cifar", seed=3, log_every_steps=7, notes="mine")
  cell = find_cell(fields)
  assert follows_recipe(fields, cell)
  fields["sam"]["rho"] = 0.1
  assert find_cell(fields) == cell
  assert not follows_recipe(fields, cell)


def test_an_option_of_a_method_is_not_the_papers_recipe():
  fields = config_of("cifar", sam__options__sigma=1.0)
  assert not follows_recipe(fields, find_cell(fields))


def test_a_field_that_an_older_run_lacks_has_its_default():
  fields = config_of("cifar")
  del fields["bootstrap"], fields["sam"]["second_order"]
  assert follows_recipe(fields, find_cell(fields))


def test_a_config_from_elsewhere_has_no_number():
  fields = config_of("cifar")
  fields["variant"] = "mine:sam"
  assert find_cell(fields) is None
  del fields["variant"]
  assert find_cell(fields) is None


def test_where_files_are_is_no_part_of_the_recipe():
  fields = config_of("finetune", pretrained="gs://bucket/b7")
  cell = find_cell(fields)
  assert follows_recipe(fields, cell)
  fields["pretrained"] = None
  assert not follows_recipe(fields, cell)
  fields = config_of(
    "noisy_labels", "bootstrap", dataset__label_file="/elsewhere.npy"
  )
  assert follows_recipe(fields, find_cell(fields))


GRIDS = [
  ("noisy_labels", "mixup", "augment.mixup_alpha", 32.0, 2.0),
  ("finetune", "flowers", "sam.rho", 0.2, 0.3),
]


@pytest.mark.parametrize(("name", "words", "field", "inside", "outside"), GRIDS)
def test_grid_of_the_best(name, words, field, inside, outside):
  fields = config_of(name, words, **{field: inside})
  assert follows_recipe(fields, find_cell(fields))
  fields = config_of(name, words, **{field: outside})
  assert not follows_recipe(fields, find_cell(fields))


ROWS = [
  ("cifar", "inner_steps", "sam.ascent_steps", 3, "11", "2.73 ± 0.04"),
  ("noisy_labels", "noise80,bootstrap,tune", "sam.rho", 0.05, "8", "21.0"),
  ("noisy_labels", "noise20,bootstrap,tune", "sam.rho", 0.0, "8", "15.0"),
]


@pytest.mark.parametrize(
  ("name", "words", "field", "value", "table", "error"), ROWS
)
def test_number_of_a_value(name, words, field, value, table, error):
  fields = config_of(name, words, **{field: value})
  cell = find_cell(fields)
  assert (cell.table, cell.error) == (table, error)
  assert cell.name.endswith(f", {field} {value:g}")
  assert follows_recipe(fields, cell)


def test_a_value_that_a_table_lacks_has_no_number():
  fields = config_of("noisy_labels", "noise80,bootstrap,tune", sam__rho=0.3)
  assert find_cell(fields) is None
