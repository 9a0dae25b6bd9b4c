"""Markdown tables that also read well in a terminal."""

from collections.abc import Sequence


def table(
  header: Sequence[str],
  rows: Sequence[Sequence[str]],
  text_columns: int | None = None,
) -> list[str]:
  """Return the lines of a Markdown table with columns of equal width.

  Args:
    header: Titles of the columns.
    rows: Cells of each row, as many as there are titles.
    text_columns: Number of leading columns that are aligned to the left; the
      others hold numbers and are aligned to the right. None: all are text.
  """
  count = len(header) if text_columns is None else text_columns
  lines = [[_escape(cell) for cell in line] for line in (header, *rows)]
  widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
  cells = [
    [
      cell.ljust(width) if i < count else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]
    for line in lines
  ]
  rule = [
    "-" * width if i < count else "-" * (width - 1) + ":"
    for i, width in enumerate(widths)
  ]
  return [f"| {' | '.join(line)} |" for line in (cells[0], rule, *cells[1:])]


def _escape(cell: str) -> str:
  """Return a cell as one line without column separators."""
  return " ".join(cell.split()).replace("|", r"\|")
