"""Evaluations on other test sets of CIFAR's and of ImageNet's classes."""

import csv
import json

import numpy as np
import pytest

from sam_jax.analysis import trained_run
from sam_jax.config.schema import ConfigError
from sam_jax.datasets import catalog, corrupted, tfds_files
from sam_jax.evaluation import data
from tests.datasets import archives
from tests.evaluation.random_runs import random_run
from tests.in_process import run_script

COUNT = 6  # examples of a severity


@pytest.fixture
def load(monkeypatch, tmp_path):
  """Let the command load runs of random weights by the names of workdirs."""
  runs = {}

  def load_run(workdir, step, use_ema):
    del step, use_ema
    name = workdir.rpartition("/")[2]
    if name not in runs:
      raise ConfigError(f"--workdir={workdir} holds no run")
    return runs[name]

  monkeypatch.setattr(trained_run, "load_run", load_run)

  def create(name, dataset, **options):
    runs[name] = random_run(
      "tests.tiny:Linear", dataset, tmp_path / name, **options
    )
    return runs[name]

  return create


def evaluate(tmp_path, data_dir, *arguments):
  run_script(
    *("evaluate", f"--workdir={tmp_path}/a", f"--data_dir={data_dir}"),
    *arguments,
  )


def read(directory):
  result = json.loads((directory / "evaluation.json").read_text())
  tables = {
    path.stem: list(csv.DictReader(path.open()))
    for path in directory.glob("*.csv")
  }
  return result, tables


def errors(run, files, names):
  """Return the errors by corruption and severity, float [n, 5]."""
  wrong = [
    run.predict(files[name]).argmax(-1) != files["labels"] for name in names
  ]
  return np.mean(np.reshape(wrong, (len(names), 5, COUNT)), axis=-1)


def test_corruption_errors(load, tmp_path, capsys):
  run, baseline = load("a", "cifar10"), load("b", "cifar10", seed=1)
  names = (*corrupted.STANDARD, *corrupted.EXTRA)
  files = archives.write_corrupted(tmp_path, "CIFAR-10-C", names, COUNT)
  evaluate(tmp_path, tmp_path, "--data=cifar10_c", f"--baseline={tmp_path}/b")
  printed = capsys.readouterr().out
  result, tables = read(tmp_path / "a/evaluation/cifar10_c_7")
  ours, theirs = errors(run, files, names), errors(baseline, files, names)
  mean = ours[:15].mean()
  assert result["mean_corruption_error"] == pytest.approx(mean)
  assert result["extra_mean_corruption_error"] == pytest.approx(
    ours[15:].mean()
  )
  ratio = np.mean(ours[:15].mean(-1) / theirs[:15].mean(-1))
  assert result["normalized_mean_corruption_error"] == pytest.approx(ratio)
  assert result["baseline"] == f"{tmp_path}/b at step 7"
  rows = tables["corruptions"]
  assert [row["corruption"] for row in rows[::5]] == list(names)
  assert [row["set"] for row in rows].count("extra") == 4 * 5
  assert {row["examples"] for row in rows} == {str(COUNT)}
  for column, expected in (
    ("error_rate", ours),
    ("baseline_error_rate", theirs),
  ):
    found = np.array([row[column] for row in rows], float)
    np.testing.assert_allclose(found, expected.ravel())
  nll = np.mean([float(row["nll"]) for row in rows[: 15 * 5]])
  assert result["nll"] == pytest.approx(nll)
  (line,) = (line for line in printed.splitlines() if "| fog " in line)
  cells = [float(cell) for cell in line.split("|")[2:-1]]
  fog = names.index("fog")
  means = ours[fog].mean(), theirs[fog].mean()
  expected = (*ours[fog], *means, means[0] / means[1])
  np.testing.assert_allclose(cells, 100 * np.array(expected), atol=0.0051)
  assert f"Mean corruption error: {100 * mean:.2f}%" in printed
  assert f"Normalized by {tmp_path}/b at step 7: {100 * ratio:.2f}%" in printed


def test_baseline_is_optional(load, tmp_path, capsys):
  load("a", "cifar100")
  names = (*corrupted.STANDARD, *corrupted.EXTRA)
  archives.write_corrupted(tmp_path, "CIFAR-100-C", names, 1, 100)
  evaluate(tmp_path, tmp_path, "--data=cifar100_c", "--batch_size=5")
  assert "ormalized" not in capsys.readouterr().out
  result, tables = read(tmp_path / "a/evaluation/cifar100_c_7")
  assert "top_5_error_rate" in tables["corruptions"][0]
  assert not [name for name in result if "ormalized" in name]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """Prepare ImageNet-V2 and ImageNet-ReaL; return their data directory."""
  data_dir = str(tmp_path_factory.mktemp("data"))
  for name in ("imagenet_v2", "imagenet_real"):
    downloads = tmp_path_factory.mktemp(name)
    getattr(archives, f"write_{name}")(downloads)
    builder = tfds_files.tfds_builder(catalog.dataset_spec(name), data_dir)
    archives.prepare(builder, downloads)
  return data_dir


def test_imagenet_v2(load, prepared, tmp_path, capsys):
  load("a", "imagenet2012")
  evaluate(tmp_path, prepared, "--data=imagenet_v2")
  assert "imagenet_v2, test: 9 examples" in capsys.readouterr().out
  result, tables = read(tmp_path / "a/evaluation/imagenet_v2_test_7")
  assert result["examples"] == 9
  labels = sorted(int(row["label"]) for row in tables["predictions"])
  assert labels == [0] * 3 + [1] * 3 + [999] * 3


def test_imagenet_real(load, prepared, tmp_path, capsys):
  load("a", "imagenet2012")
  evaluate(tmp_path, prepared, "--data=imagenet_real", "--batch_size=4")
  result, tables = read(tmp_path / "a/evaluation/imagenet_real_test_7")
  spec = catalog.dataset_spec("imagenet_real")
  builder = tfds_files.prepared_builder(spec, prepared)
  sets = [
    set(example["real_label"].tolist())
    for example in builder.as_dataset(split="validation").as_numpy_iterator()
  ]
  rows = tables["predictions"]
  predictions = [int(row["prediction"]) for row in rows]
  wrong = [
    prediction not in shown
    for prediction, shown in zip(predictions, sets, strict=True)
    if shown
  ]
  assert len(wrong) == 10 and not all(wrong)
  assert result["real_examples"] == 10
  assert result["real_error_rate"] == pytest.approx(np.mean(wrong))
  single = np.mean([row["label"] != row["prediction"] for row in rows])
  assert result["error_rate"] == pytest.approx(single)
  printed = capsys.readouterr().out
  assert "11 examples, 10 with ReaL labels" in printed
  assert f"{100 * np.mean(wrong):.2f} |" in printed


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--data=imagenet_v2"], "imagenet_v2 has 1000 classes, and the network"),
    (["--data=cifar100_c"], "cifar100_c has 100 classes, and the network"),
    (["--data=cifar10_c", "--split=train"], "cifar10_c has a test set alone"),
    (["--data=imagenet_real", "--split=train"], "imagenet_real has a test set"),
    (["--data=cifar10_c"], "there is no"),
    (["--data=cifar10_d"], "Did you mean 'cifar10_"),
    (["--data=cifar10", "--baseline=b"], "--baseline=b needs corrupted images"),
    (["--data=cifar10_c", "--baseline=b"], "--baseline=b holds no run"),
    (["--data=cifar10_c", "--baseline=b@x"], "--baseline=b@x must be RUN@STEP"),
  ],
)
def test_mistakes_give_one_line(load, tmp_path, capsys, arguments, message):
  load("a", "cifar10")
  with pytest.raises(SystemExit) as error:
    evaluate(tmp_path, tmp_path, *arguments)
  assert error.value.code == 2
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert line.startswith("error: ")
  assert message in line


def test_images_of_a_folder_are_not_where_tfds_keeps_its_data(load):
  run = load("a", "cifar10")
  run.config.dataset.data_dir = "data"
  assert data._data_dir(run, "cifar10_c", None) == "data"
  run.config.dataset.name = catalog.IMAGE_FOLDER
  assert data._data_dir(run, "cifar10_c", None) is None
  assert data._data_dir(run, catalog.IMAGE_FOLDER, None) == "data"
