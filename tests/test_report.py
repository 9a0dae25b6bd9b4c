"""The report of finished, unfinished and missing runs."""

import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sam_jax.config import files as files_of_configs
from sam_jax.config.paper_tables import find_cell
from sam_jax.config.schema import ConfigError, default_config
from sam_jax.reports import error_reduction, plot_labels, results
from sam_jax.reports import plots as result_plots
from sam_jax.reports import table as result_table
from sam_jax.runs import files, workdir

REPOSITORY = pathlib.Path(__file__).parents[1]
MIXUP = "augment.mixup_alpha"
STEPS_PER_EPOCH = 10


def papers_config(words, name="cifar"):
  """A config of a table of the paper."""
  return files_of_configs.load(f"configs/{name}.py").get_config(words)


def write_run(path, errors, config=None, *, is_finished=True, **fields):
  """Writes the directory of a run that had these test errors."""
  config = config or default_config()
  config.num_epochs = fields.pop("num_epochs", config.num_epochs)
  config.update_from_flattened_dict(
    {name.replace("__", "."): value for name, value in fields.items()}
  )
  with workdir.claim(path, config):
    pass
  # As many epochs between evaluations as it takes.
  every = config.num_epochs * STEPS_PER_EPOCH // max(len(errors), 1)
  lines = []
  for i, error in enumerate(errors, start=1):
    lines.append({"step": i * every, "train/error_rate": error + 0.1})
    lines.append({"step": i * every, "test/error_rate": error})
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (path / "metrics.jsonl").write_text(text)
  if is_finished:
    step = config.num_epochs * STEPS_PER_EPOCH
    top_5 = errors[-1] / 10
    files.write_json(
      path / "result.json",
      {"step": step, "error_rate": errors[-1], "top_5_error_rate": top_5},
    )


def report(*arguments):
  """Runs the script; returns its exit code and what it said."""
  done = subprocess.run(
    [sys.executable, "-m", "sam_jax.report", *map(str, arguments)],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
  )
  return done.returncode, done.stdout, done.stderr


def groups_of(root):
  """The finished runs of a directory."""
  return results.group_over_seeds(results.read_runs([root]))


def unfinished(root):
  """What is said of the other runs."""
  return results.describe_unfinished(results.read_runs([root]), [root])


def table_of(root):
  """Cells of the table, and the notes under it."""
  lines = result_table.table(groups_of(root))
  end = lines.index("")
  rows = [line.strip("|").split("|") for line in lines[:end]]
  return [[cell.strip() for cell in row] for row in rows], lines[end + 1 :]


def test_table_groups_seeds_and_shows_what_differs(tmp_path):
  for seed, error in enumerate([0.03, 0.04, 0.05]):
    write_run(tmp_path / f"a{seed}", [0.02, error], seed=seed)
    write_run(tmp_path / f"b{seed}", [0.3, error / 2], seed=seed, sam__rho=0.2)
  write_run(tmp_path / "c", [0.1], sam__rho=0.0)
  rows, _ = table_of(tmp_path)
  assert rows[0] == ["sam.rho", "seeds", "last error (%)", "best error (%)"]
  # Student's t with 2 degrees of freedom: 4.303 * 1 / sqrt(3).
  assert rows[2:] == [
    ["0", "1", "10.00", "10.00"],
    ["0.05", "3", "4.00 ± 2.48", "2.00 ± 0.00"],
    ["0.2", "3", "2.00 ± 1.24", "2.00 ± 1.24"],
  ]


def test_what_decides_nothing_makes_no_group(tmp_path):
  write_run(tmp_path / "a", [0.1], seed=0, dataset__data_dir="/a", notes="a")
  write_run(tmp_path / "b", [0.1], seed=1, compilation_cache_dir="")
  rows, _ = table_of(tmp_path)
  assert rows[2:] == [["2", "10.00 ± 0.00", "10.00 ± 0.00"]]


def test_papers_number_stands_beside_ours(tmp_path):
  write_run(tmp_path / "a", [0.03], papers_config("sam"))
  write_run(tmp_path / "b", [0.03], papers_config("sgd"))
  write_run(tmp_path / "c", [0.03], papers_config("sam"), sam__rho=0.2)
  rows, notes = table_of(tmp_path)
  assert rows[0][-1] == "paper's error (%)"
  assert [row[-1] for row in rows[2:]] == [
    "3.5 ± 0.1",
    "2.7 ± 0.1",
    "2.7 ± 0.1 *",
  ]
  text = "\n".join(notes)
  row = "wrn28_10, 200_epochs, basic, cifar10"
  assert f"From the paper's table 1: {row}, sam; {row}, sgd." in text
  assert "* These runs depart from the recipe" in text


def test_the_better_of_n_and_2n_epochs_is_the_papers_cell(tmp_path):
  write_run(tmp_path / "n", [0.04], papers_config("sgd"))
  write_run(tmp_path / "2n", [0.03], papers_config("sgd,double_epochs"))
  write_run(
    tmp_path / "other", [0.01], papers_config("sgd"), optimizer__momentum=0.8
  )
  rows, notes = table_of(tmp_path)
  assert {row[0] + " " + row[-1] for row in rows[2:]} == {
    "200 3.5 ± 0.1 †",
    "400 3.5 ± 0.1",
    "200 3.5 ± 0.1 *",
  }
  assert "† Not that number's runs" in notes[-1]


def test_top_5_error_where_the_paper_has_it(tmp_path):
  config = papers_config("resnet50,100_epochs", "imagenet")
  write_run(tmp_path / "a", [0.2], config)
  write_run(tmp_path / "b", [0.2], config, sam__rho=0.1)
  rows, _ = table_of(tmp_path)
  papers, ours = (dict(zip(rows[0], row, strict=True)) for row in rows[2:])
  assert papers["last top-5 error (%)"] == "2.00"
  assert papers["paper's error (%)"] == "22.5 ± 0.1"
  assert papers["paper's top-5 error (%)"] == "6.28 ± 0.08"
  assert ours["paper's top-5 error (%)"] == "6.28 ± 0.08 *"


def test_interval_covers_the_mean_as_often_as_it_says():
  random = np.random.default_rng(0)
  samples = random.normal(size=(4000, 5))
  widths = [results.confidence_half_width(sample) for sample in samples]
  covered = np.mean(np.abs(samples.mean(1)) < widths)
  assert covered == pytest.approx(0.95, abs=0.012)
  assert math.isnan(results.confidence_half_width([1.0]))


def test_half_finished_directory(tmp_path):
  write_run(tmp_path / "done", [0.1])
  write_run(tmp_path / "running", [0.5, 0.4], is_finished=False, seed=1)
  with (tmp_path / "running/metrics.jsonl").open("a") as file:
    file.write('{"step": 2100, "test/err')  # being written
  (tmp_path / "broken").mkdir()
  (tmp_path / "broken/log.txt").write_text("error: no data\n")
  (tmp_path / "running/checkpoints").mkdir()
  log = tmp_path / "broken/log.txt"
  assert unfinished(tmp_path) == [
    "1 of 3 runs are finished. Missing:",
    f"  {tmp_path}/broken: never started, see {log}",
    f"  {tmp_path}/running: not finished, logged up to step 2000",
  ]


def test_runs_that_a_sweep_has_not_begun_are_missing(tmp_path):
  plan = tmp_path / "sweep/sweep.json"
  write_run(plan.parent / "a", [0.1])
  plan.write_text('{"runs": ["a", "b,seed=1"]}')
  assert unfinished(tmp_path) == [
    "1 of 2 runs are finished. Missing:",
    f"  {plan.parent}/b,seed=1: not begun",
  ]
  for damaged in ('{"runs": ["a', "[]", "{}"):
    plan.write_text(damaged)
    with pytest.raises(ConfigError, match=r"sweep\.json is damaged\. Remove"):
      results.read_runs([tmp_path])


def test_nothing_to_report(tmp_path):
  assert unfinished(tmp_path) == [f"There are no runs in {tmp_path}."]
  write_run(tmp_path / "run", [0.5], is_finished=False)
  code, said, _ = report(f"--root={tmp_path}")
  assert code == 1
  assert "0 of 1 runs are finished." in said
  code, said, error = report(f"--root={tmp_path}/none")
  assert (code, said) == (2, "")
  assert error == f"error: --root={tmp_path}/none is not a directory.\n"


def test_report_and_plots_are_written(tmp_path):
  for seed in range(2):
    for noise in (0.0, 0.4):
      for m in (16, 64):
        for rho in (0.0, 0.1, 0.2):
          write_run(
            tmp_path / f"runs/{seed}{noise}{m}{rho}",
            [0.5, 0.1 + noise - rho / 2 + seed / 50],
            seed=seed,
            dataset__label_noise__rate=noise,
            sam__m=m,
            sam__rho=rho,
          )
  output = tmp_path / "report"
  code, said, error = report(f"--root={tmp_path}/runs", f"--output={output}")
  assert code == 0, error
  assert {path.name for path in output.iterdir()} == {
    "report.md",
    "learning_curves_1.png",
    "learning_curves_2.png",
    "error_against_rho.png",
    "error_against_m.png",
    "error_against_noise.png",
    "error_reduction.png",
  }
  for path in output.glob("*.png"):
    assert Image.open(path).convert("L").getextrema() == (0, 255)
    assert f"Plot: {path}" in said
  assert (output / "report.md").read_text() in said


def test_baseline_of_error_reduction_is_the_better_of_n_and_2n(tmp_path):
  write_run(tmp_path / "sam", [0.06])
  write_run(tmp_path / "n", [0.1], sam__rho=0.0)
  write_run(tmp_path / "2n", [0.08], sam__rho=0.0, num_epochs=400)
  write_run(tmp_path / "4n", [0.01], sam__rho=0.0, num_epochs=800)
  ((sam, baseline),) = error_reduction.pair_with_baselines(groups_of(tmp_path))
  assert sam.mean() == pytest.approx(6)
  assert baseline.mean() == pytest.approx(8)


def test_noise_plot_joins_the_papers_values_of_rho(tmp_path):
  for rate, rho in ((0.6, 0.1), (0.8, 0.05), (0.6, 0.0), (0.8, 0.0)):
    write_run(
      tmp_path / f"{rate}{rho}",
      [0.1],
      dataset__label_noise__rate=rate,
      sam__rho=rho,
    )
  lines = result_plots._lines(groups_of(tmp_path), results.NOISE_RATE)
  assert {line.method: sorted(line.groups) for line in lines} == {
    "SAM": [0.6, 0.8],
    "SGD": [0.6, 0.8],
  }


@pytest.fixture
def noisy_runs(tmp_path):
  """Finished runs of table 4, Mixup's with two alphas."""
  for noise in ("noise20", "noise80"):
    for words in ("sam", "sgd", "mixup", "sam,bootstrap", "mixup,bootstrap"):
      for alpha in (8.0, 32.0) if "mixup" in words else (0.0,):
        config = papers_config(f"{noise},{words}", "noisy_labels")
        error = float(find_cell(config.to_dict()).error) / 100 + alpha / 1e4
        path = tmp_path / f"{noise},{words},{alpha}"
        write_run(path, [error], config, augment__mixup_alpha=alpha)
  return tmp_path


def test_noise_of_bootstrapped_labels_and_mixup_have_their_names(noisy_runs):
  lines = result_plots._lines(groups_of(noisy_runs), results.NOISE_RATE)
  assert {line.method: sorted(line.groups) for line in lines} == {
    "SAM": [0.2, 0.8],
    "SGD": [0.2, 0.8],
    "Mixup": [0.2, 0.8],
    "Bootstrap + SAM": [0.2, 0.8],
    "Bootstrap + Mixup": [0.2, 0.8],
  }
  labels, title = result_plots._line_labels(lines, lines)
  assert set(labels) == {line.method for line in lines}
  assert not title
  rows, _ = table_of(noisy_runs)
  column = rows[0].index(results.NOISE_RATE)
  assert {row[column] for row in rows[2:]} == {"0.2", "0.8"}


def test_baseline_under_label_noise_is_mixup_with_its_best_alpha(noisy_runs):
  pairs = error_reduction.pair_with_baselines(groups_of(noisy_runs))
  assert [rival.fields["augment.mixup_alpha"] for _, rival in pairs] == [8, 8]
  assert "under label noise: Mixup" in error_reduction._note_on(pairs)
  only = [g for g in groups_of(noisy_runs) if not g.fields[MIXUP]]
  pairs = error_reduction.pair_with_baselines(only)
  assert "under label noise: SGD" in error_reduction._note_on(pairs)


def test_labels_say_what_differs_in_a_picture_the_title_the_rest(tmp_path):
  for words in ("cifar10", "cifar100"):
    for method in ("sam", "sgd"):
      config = papers_config(f"{words},{method}")
      write_run(tmp_path / words / method, [0.1], config)
  groups = groups_of(tmp_path)  # SAM's rho is 0.05 and 0.1
  labels, title = plot_labels.label_part(groups[:2], groups)
  assert labels == ["rho 0", "rho 0.05"]
  assert title == "dataset cifar10"
  many = [groups[0]] * 7
  parts = list(plot_labels.parts_of(many, pathlib.Path("a.png")))
  assert [(len(part), str(file)) for part, file in parts] == [
    (6, "a_1.png"),
    (1, "a_2.png"),
  ]
