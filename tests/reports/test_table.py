"""The cells of the table, and the notes below it."""

import pytest

from sam_jax.reports.table import format_mean, result_table
from tests.reports.written_runs import (
  append_metrics,
  groups_of,
  paper_config,
  write_run,
)


def table_of(root):
  """Return the header, the rows by column, and the notes."""
  lines = result_table(groups_of(root))
  end = lines.index("")
  header, _, *rows = [
    [cell.strip() for cell in line[1:-1].split("|")] for line in lines[:end]
  ]
  named = [dict(zip(header, row, strict=True)) for row in rows]
  notes = [line.removeprefix("- ") for line in lines[end + 1 :]]
  return header, named, notes


def test_seeds_are_one_row_and_differing_fields_are_columns(tmp_path):
  for seed, error in enumerate([0.03, 0.04, 0.05]):
    write_run(tmp_path / f"a{seed}", [0.02, error], seed=seed)
    write_run(tmp_path / f"b{seed}", [0.3, error / 2], seed=seed, sam__rho=0.2)
  write_run(tmp_path / "c", [0.1], sam__rho=0.0)
  header, rows, notes = table_of(tmp_path)
  assert header == [
    "sam.rho",
    "seeds",
    "last error (%)",
    "best error (%)",
    "train error (%)",
    "reduction (%)",
  ]
  # Student's t with 2 degrees of freedom: 4.303 * 1 / sqrt(3).
  assert [list(row.values()) for row in rows] == [
    ["0", "1", "10.00", "10.00", "20.00", ""],
    ["0.05", "3", "4.00 ± 2.48", "2.00 ± 0.00", "14.00 ± 2.48", "60.0"],
    ["0.2", "3", "2.00 ± 1.24", "2.00 ± 1.24", "12.00 ± 1.24", "80.0"],
  ]
  assert notes[0].endswith("mean ± half-width of the 95% interval over seeds.")
  assert "chosen on the test set itself" in notes[1]


def test_one_seed_has_no_interval(tmp_path):
  write_run(tmp_path / "run", [0.1])
  _, (row,), notes = table_of(tmp_path)
  assert row["last error (%)"] == "10.00"
  assert not any("±" in note or "seeds" in note for note in notes)


def test_notes_of_runs_are_a_column_where_there_are_some(tmp_path):
  write_run(tmp_path / "a", [0.1], notes="new kernel")
  header, (row,), _ = table_of(tmp_path)
  assert header[:2] == ["notes", "seeds"]
  assert row["notes"] == "new kernel"
  write_run(tmp_path / "b", [0.2], notes="old kernel", sam__rho=0.2)
  header, rows, _ = table_of(tmp_path)
  assert header[:3] == ["notes", "sam.rho", "seeds"]
  assert {row["notes"]: row["last error (%)"] for row in rows} == {
    "new kernel": "10.00",
    "old kernel": "20.00",
  }


def test_clean_train_error_and_sharpness_where_they_are_logged(tmp_path):
  write_run(tmp_path / "sgd", [0.1], sam__rho=0.0, analysis__rho=0.5)
  write_run(tmp_path / "sam", [0.05], analysis__rho=0.5)
  append_metrics(
    tmp_path / "sam",
    {"step": 1000, "analysis/sharpness": 7.0},
    {
      "step": 2000,
      "analysis/sharpness": 0.25,
      "analysis/m_sharpness": 0.75,
      "analysis/lambda_max": 12.0,
    },
    {"step": 2000, "clean_train/error_rate": 0.015},
  )
  header, (sgd, sam), notes = table_of(tmp_path)
  assert header[-5:] == [
    "clean train error (%)",
    "sharpness",
    "m-sharpness",
    "lambda max",
    "reduction (%)",
  ]
  assert [sam[name] for name in header[-5:]] == [
    *("1.50", "0.25", "0.75", "12.00", "50.0")
  ]
  assert [sgd[name] for name in header[-5:]] == ["-", "-", "-", "-", ""]
  (note,) = [note for note in notes if note.startswith("Sharpness")]
  assert note.endswith("with rho = 0.5 and m = 32 on 512 training examples.")


def test_sharpness_of_other_settings_is_not_comparable(tmp_path):
  for name, rho in (("sgd", 0.0), ("sam", 0.1)):
    write_run(tmp_path / name, [0.1], sam__rho=rho, analysis__rho=rho + 0.1)
    append_metrics(tmp_path / name, {"step": 1, "analysis/sharpness": 1.0})
  _, _, notes = table_of(tmp_path)
  assert any("rows are not comparable" in note for note in notes)


def test_number_of_the_paper_stands_next_to_ours(tmp_path):
  write_run(tmp_path / "a", [0.03], paper_config("sam"))
  write_run(tmp_path / "b", [0.03], paper_config("sgd"))
  write_run(tmp_path / "c", [0.03], paper_config("sam"), sam__rho=0.2)
  _, rows, notes = table_of(tmp_path)
  assert {row["sam.rho"]: row["paper's error (%)"] for row in rows} == {
    "0": "3.5 ± 0.1",
    "0.05": "2.7 ± 0.1",
    "0.2": "2.7 ± 0.1 *",
  }
  name = "wrn28_10, 200_epochs, basic, cifar10"
  assert f"From the paper's table 1: {name}, sam; {name}, sgd." in notes
  assert notes[-1].startswith("Marked *: these runs depart from the recipe")


def test_the_better_of_n_and_2n_epochs_has_the_papers_number(tmp_path):
  write_run(tmp_path / "n", [0.04], paper_config("sgd"))
  write_run(tmp_path / "2n", [0.03], paper_config("sgd,double_epochs"))
  write_run(
    tmp_path / "other", [0.01], paper_config("sgd"), optimizer__momentum=0.8
  )
  _, rows, notes = table_of(tmp_path)
  assert {
    (row["num_epochs"], row["last error (%)"]): row["paper's error (%)"]
    for row in rows
  } == {
    ("200", "4.00"): "3.5 ± 0.1 †",
    ("400", "3.00"): "3.5 ± 0.1",
    ("200", "1.00"): "3.5 ± 0.1 *",
  }
  assert notes[-1].startswith("Marked †: the paper reports the best of several")


def test_top_5_error_where_the_paper_has_it(tmp_path):
  config = paper_config("resnet50,100_epochs,sam", "imagenet")
  write_run(tmp_path / "a", [0.2], config)
  config = paper_config("resnet50,100_epochs,sam", "imagenet")
  write_run(tmp_path / "b", [0.3], config, sam__rho=0.1)
  _, (paper, other), _ = table_of(tmp_path)
  assert paper["last top-5 error (%)"] == "2.00"
  assert paper["paper's error (%)"] == "22.5 ± 0.1"
  assert paper["paper's top-5 error (%)"] == "6.28 ± 0.08"
  assert other["last top-5 error (%)"] == "3.00"
  assert other["paper's top-5 error (%)"] == "6.28 ± 0.08 *"


@pytest.mark.parametrize(
  ("values", "text"),
  [
    ([2.714], "2.71"),
    ([1.0, 3.0], "2.00 ± 12.71"),  # t with 1 degree of freedom is 12.706
    ([1.0, float("nan")], "1.00"),
    ([float("nan")], "-"),
  ],
)
def test_format_of_means(values, text):
  assert format_mean(values) == text
