"""Download and prepare data sets, once, for all later runs.

python -m sam_jax.datasets.prepare cifar10 svhn --data_dir=DIR

The known data sets, and the files that you must download yourself. Put these
files into --manual_dir first:
"""

import pathlib
import sys
import textwrap

from absl import flags, logging

from sam_jax import buckets
from sam_jax.config import cli
from sam_jax.datasets import catalog, in_memory, tfds_files

_DATA_DIR = flags.DEFINE_string(
  "data_dir",
  None,
  "Directory of the prepared data; default: $TFDS_DATA_DIR or TFDS's own.",
)
_MANUAL_DIR = flags.DEFINE_string(
  "manual_dir",
  None,
  "Directory of the files that can't be downloaded, or that are already here;"
  " default: downloads/manual in the data directory.",
)


def table_of_datasets() -> str:
  """Return one line for each data set: its name and the files it needs."""
  lines = []
  for name in catalog.prepared_datasets():
    line = f"  {name:18} {catalog.dataset_spec(name).manual_files}"
    indent = " " * 21
    lines.append(
      textwrap.fill(line, 80, subsequent_indent=indent, break_on_hyphens=False)
    )
  return "\n".join(lines)


__doc__ = f"{__doc__}\n{table_of_datasets()}\n"  # shown by --help


def main(argv: list[str]) -> None:
  """Prepare the data sets that the command line names."""
  known = ", ".join(catalog.prepared_datasets())
  if len(argv) < 2:
    cli.refuse(f"Name the data sets to prepare. Known: {known}.")
  try:
    specs = [catalog.dataset_spec(name) for name in argv[1:]]
  except catalog.DatasetError as error:
    cli.refuse(str(error))
  if _DATA_DIR.value:
    buckets.check(_DATA_DIR.value, "--data_dir")
  manual = _MANUAL_DIR.value
  if manual and not pathlib.Path(manual).expanduser().is_dir():
    cli.refuse(f"--manual_dir={manual} is no directory of this machine.")
  logging.set_verbosity(logging.WARNING)  # TFDS logs every step of its work
  for spec in specs:
    try:
      builder = tfds_files.download_and_prepare(
        spec, _DATA_DIR.value, manual_dir=manual
      )
      for split in (*spec.train_splits, spec.test_split):
        tfds_files.split_info(spec, builder, split)
        if spec.storage == catalog.IN_MEMORY:  # decode it now
          in_memory.load_split(spec, split, _DATA_DIR.value)
    except catalog.DatasetError as error:
      sys.exit(f"error: {error}")
    cli.show(f"{spec.name}: {builder.data_path}")


if __name__ == "__main__":
  cli.run(main)
