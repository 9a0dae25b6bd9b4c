"""CSV files that list the images of a data set and their labels."""

import csv
import dataclasses
import io

from etils import epath

from sam_jax.datasets.file_lists import error, unreadable

# Names of splits, of directories too.
TRAIN_SPLITS = ("train", "training")
TEST_SPLITS = ("val", "valid", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Row:
  """A line of a CSV file."""

  line: int
  path: str
  label: str
  split: str


def read(path: epath.Path) -> list[Row]:
  """Read the lines of a CSV file.

  Raises:
    DatasetError: It has no images, lacks a column, or a line lacks a value.
  """
  try:
    text = path.read_bytes().decode("utf-8-sig")
  except UnicodeDecodeError as problem:
    raise error(path, "it is not UTF-8 text. Save it as UTF-8.") from problem
  except OSError as problem:
    raise unreadable(path, problem) from problem
  reader = csv.DictReader(io.StringIO(text, newline=""))
  missing = {"path", "label"} - set(reader.fieldnames or ())
  if missing:
    raise error(
      path,
      f"it has no column {' and no column '.join(sorted(missing))}. Its first"
      " line must be path,label or path,label,split.",
    )
  rows, lines = [], dict[str, int]()
  for fields in reader:
    line = reader.line_num
    row = Row(
      line,
      (fields["path"] or "").strip(),
      (fields["label"] or "").strip(),
      (fields.get("split") or TRAIN_SPLITS[0]).strip(),
    )
    if not row.path or not row.label:
      raise error(path, f"line {line} lacks a path or a label.")
    if row.split not in (*TRAIN_SPLITS, *TEST_SPLITS):
      raise error(
        path, f"line {line}: split {row.split!r} must be train, val or test."
      )
    if lines.setdefault(row.path, line) != line:
      first = lines[row.path]
      raise error(path, f"lines {first} and {line} have one path: {row.path}.")
    rows.append(row)
  if not rows:
    raise error(path, "it lists no images.")
  return rows
