"""Run `python -m sam_jax.datasets.prepare` in this process."""

import json
import pathlib

import pytest
from absl import flags
from absl.testing import flagsaver

from sam_jax.datasets import catalog, prepare, tfds_files


def run(data_dir, *names, manual_dir=None):
  """Prepare data sets as the command does."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["prepare"])
  with flagsaver.flagsaver(data_dir=str(data_dir), manual_dir=manual_dir):
    prepare.main(["prepare", *names])


def error_of(*arguments, **options):
  """Return the line with which the command ends."""
  with pytest.raises(SystemExit) as error:
    run(*arguments, **options)
  message = str(error.value)
  assert message.startswith("error: ") and "\n" not in message
  return message


def prepared_bytes(data_dir, name):
  """Return the contents of the files that TFDS wrote, except the download."""
  spec = catalog.dataset_spec(name)
  directory = pathlib.Path(
    tfds_files.prepared_builder(spec, str(data_dir)).data_path
  )
  contents = {file.name: file.read_bytes() for file in directory.iterdir()}
  info = json.loads(contents.pop("dataset_info.json"))
  return contents, info["splits"]
