"""The command that evaluates, and `sam_jax.load_run`."""

import csv
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import sam_jax
from sam_jax.analysis import trained_run
from sam_jax.config.schema import ConfigError
from sam_jax.datasets import catalog
from sam_jax.evaluation import data
from sam_jax.runs.checkpoints import SavedCheckpoints
from sam_jax.training import build, input_pipeline, loop
from tests import tiny
from tests.in_process import run_script

SUMMARY = ("error_rate", "top_5_error_rate", "nll", "ece")


@pytest.fixture(scope="module", autouse=True)
def patched():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(build, "model", tiny.create_model)
    for module in (input_pipeline, trained_run, data):
      patch.setattr(module, "create_dataset", tiny.create_dataset)
    yield


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """Return the directory of a run with running averages of its parameters."""
  path = tmp_path_factory.mktemp("runs") / "run"
  config = tiny.create_config()
  config.ema.decay, config.ema.warmup_steps = 0.5, 0
  config.num_epochs, config.keep_checkpoints_at_epochs = 2, (1,)
  loop.train_and_evaluate(config, path)
  return path


def evaluate(workdir, *arguments):
  run_script("evaluate", f"--workdir={workdir}", *arguments)


def read(directory):
  tables = {
    name: list(csv.reader((directory / f"{name}.csv").open()))
    for name in ("predictions", "classes", "confusion")
  }
  return json.loads((directory / "evaluation.json").read_text()), tables


def test_evaluation_is_that_of_the_training(workdir, capsys):
  before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
  evaluate(workdir)
  printed = capsys.readouterr().out
  found, tables = read(workdir / "evaluation/digits_test_8")
  trained = json.loads((workdir / "result.json").read_text())
  for name in ("error_rate", "top_5_error_rate"):
    assert found[name] == pytest.approx(trained[name])
    assert f" {100 * found[name]:.2f} |" in printed
  assert found["nll"] == pytest.approx(trained["loss"], rel=1e-5)
  assert f"{found['nll']:.4f} |" in printed
  assert found["weights"] == "running averages of the parameters"
  assert (found["step"], found["examples"]) == (8, 64)
  header, *rows = tables["predictions"]
  assert header == ["example", "label", "prediction", "confidence", "nll"]
  assert [row[0] for row in rows] == [str(i) for i in range(64)]
  wrong = np.mean([row[1] != row[2] for row in rows])
  assert wrong == pytest.approx(found["error_rate"])
  mean = np.mean([float(row[4]) for row in rows])
  assert mean == pytest.approx(found["nll"], rel=1e-4)
  confusion = np.array([row[1:] for row in tables["confusion"][1:]], int)
  assert confusion.sum() == 64
  assert confusion.trace() == sum(row[1] == row[2] for row in rows)
  counts = [int(row[1]) for row in tables["classes"][1:]]
  assert counts == confusion.sum(axis=1).tolist()
  # Nothing that the run wrote has changed.
  assert {p: p.read_bytes() for p in before} == before


def test_checkpoint_weights_split_and_output(workdir, tmp_path, capsys):
  evaluate(f"{workdir}@4", "--noema", "--split=train", f"--output={tmp_path}/o")
  found, _ = read(tmp_path / "o")
  assert found["weights"] == "its parameters"
  assert (found["step"], found["split"]) == (4, "train")
  evaluate(workdir, "--batch_size=5", f"--output={tmp_path}/batches")
  assert "expected calibration error" in capsys.readouterr().out
  again, _ = read(workdir / "evaluation/digits_test_8")
  of_batches, _ = read(tmp_path / "batches")
  for name in SUMMARY:
    assert of_batches[name] == pytest.approx(again[name], rel=1e-5)


def test_predict_is_the_evaluation(workdir, tmp_path):
  run = sam_jax.load_run(workdir)
  images = run.examples("test")["image"]
  probabilities = run.predict(images)
  logits = run.model.apply(run.variables, run.preprocess(images), train=False)
  np.testing.assert_allclose(probabilities, jax.nn.softmax(logits), atol=1e-6)
  assert run.class_names == tuple("0123456789")
  np.testing.assert_allclose(
    run.predict(images[:3]), probabilities[:3], rtol=1e-5
  )
  np.testing.assert_allclose(run.predict(images, 24), probabilities, rtol=1e-5)
  assert run.predict(images[:0]).shape == (0, 10)
  doubled = images.repeat(2, axis=1).repeat(2, axis=2)
  close = run.predict(doubled).argmax(-1) == probabilities.argmax(-1)
  assert close.mean() > 0.7
  with pytest.raises(ValueError, match="Add an axis to a single image"):
    run.predict(images[0])
  with pytest.raises(ValueError, match="batch_size = -1 must be at least 1"):
    run.predict(images, -1)
  assert len(repr(run)) < 1000  # without the arrays


def test_predictions_need_no_data_and_no_compiled_initialization(
  workdir, monkeypatch
):
  def fail(*_):
    raise AssertionError("the data set was loaded")

  monkeypatch.setattr(trained_run, "create_dataset", fail)
  run = sam_jax.load_run(workdir, step=4, use_ema=False)
  saved = SavedCheckpoints(workdir / "checkpoints").restore_tree(4)
  for name in ("params", "ema"):
    params = saved[name]["params"] if name == "ema" else saved[name]
    same = jax.tree.map(np.array_equal, run.params, params)
    assert all(jax.tree.leaves(same)) == (name == "params")
  assert run.predict(np.zeros((1, 30, 20, 1), np.uint8)).shape == (1, 10)


def test_other_data_are_checked(workdir, monkeypatch):
  run = sam_jax.load_run(workdir)
  asked = []

  def load(config):
    asked.append(config)
    return SimpleNamespace(folder=None)

  monkeypatch.setattr(data, "create_dataset", load)
  found = data.select(run, batch_size=8)
  assert (found.split, found.split_of_dataset) == ("test", "test")
  run.config.dataset.validation_size = 16
  run.config.dataset.label_noise.rate = 0.4
  for split, held_out in (
    (None, 16),
    ("train", 16),
    ("validation", 16),
    ("test", 0),
  ):
    assert data.select(run, split=split).split == (split or "validation")
    assert asked[-1].dataset.validation_size == held_out
    assert not asked[-1].dataset.label_noise.rate
  for name, message in (
    ("imagenet2012", "imagenet2012 has 1000 classes, and the network of .* 10"),
    ("cifar10", "cifar10 has 3 channels, and the network of .* 1"),
    ("digit", "--data=digit is no data set.* Did you mean 'digits'"),
  ):
    with pytest.raises(ConfigError, match=message):
      data.select(run, name)
  data.select(run, "fashion_mnist", data_dir="/of/mnist")
  assert asked[-1].dataset.data_dir == "/of/mnist"
  spec = catalog.dataset_spec("fashion_mnist")
  assert build.dataset_spec(asked[-1]).image_shape == spec.image_shape


def test_classes_of_other_names_are_refused(workdir, tmp_path):
  run = sam_jax.load_run(workdir)
  vars(run)["class_names"] = ("zero", *"123456789")
  directory = tmp_path / "fashion_mnist/3.0.1"
  directory.mkdir(parents=True)
  names = ["T-shirt/top", *"123456789"]
  (directory / "label.labels.txt").write_text("\n".join(names))
  message = "class 0 is 'T-shirt/top', and that of the network is 'zero'"
  with pytest.raises(ConfigError, match=message):
    data.select(run, "fashion_mnist", data_dir=str(tmp_path))


@pytest.mark.parametrize(
  "arguments", [["--split=test"], ["--split=none", "--export=stablehlo"]]
)
def test_full_disk_is_one_line(
  workdir, tmp_path, capsys, monkeypatch, arguments
):
  def fail(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("os.fsync", fail)
  with pytest.raises(SystemExit) as error:
    evaluate(workdir, f"--output={tmp_path}", *arguments)
  assert error.value.code == (
    f"error: --output={tmp_path} can't be written: No space left on device."
  )
  assert not list(tmp_path.iterdir())


def test_interrupt_ends_with_one_line(capsys, monkeypatch):
  def interrupt(*_, **__):
    raise KeyboardInterrupt

  def leave(code):
    raise SystemExit(code)

  monkeypatch.setattr(trained_run, "load_run", interrupt)
  monkeypatch.setattr("os._exit", leave)
  with pytest.raises(SystemExit) as error:
    evaluate("runs/a")
  assert error.value.code == 130
  assert capsys.readouterr().err == "\nStopped.\n"


def test_export_alone(workdir, tmp_path, capsys):
  pytest.importorskip("safetensors")
  evaluate(
    workdir, "--split=none", "--export=safetensors", f"--output={tmp_path}"
  )
  (file,) = tmp_path.iterdir()
  assert capsys.readouterr().out == f"Wrote {file}\n"
  content = file.read_bytes()
  header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
  assert header["params/Dense_0/kernel"]["shape"] == [32, 10]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--workdir=/no/run"], "/no/run holds no run"),
    ([], "--workdir is missing"),
    (["--workdir=s3://b/run"], "--workdir: s3://b/run: s3:// is not supported"),
    (["--workdir={run}", "--output=s3://b"], "--output: s3://b: s3:// is not"),
    (["--workdir={run}@5"], "no checkpoint of step 5. Kept: 4, 8."),
    (["--workdir={run}@x"], "must be RUN@STEP"),
    (["--workdir={run}", "--export=onnx"], "--export=onnx must be of safetens"),
    (["--workdir={run}", "--split=none"], "--split=none evaluates nothing"),
    (["--workdir={run}", "--data="], "--data= is empty"),
    (["--workdir={run}", "--split=validation"], "did not hold out examples"),
    (["--workdir={run}", "--split=dev"], "dev"),
    (
      ["--workdir={run}", "--data=cifar100"],
      "has 100 classes, and the network",
    ),
    (["--workdir={run}", "--data=/a", "--data_dir=/b"], "--data_dir=/b has no"),
    (["--workdir={run}", "--output=/proc/no"], "--output: /proc/no can't be"),
  ],
)
def test_mistakes_give_one_line(workdir, capsys, arguments, message):
  with pytest.raises(SystemExit) as error:
    run_script("evaluate", *(text.format(run=workdir) for text in arguments))
  assert error.value.code == 2
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert line.startswith("error: ")
  assert message in line


def test_wrong_workdir_leaves_no_output(tmp_path):
  with pytest.raises(SystemExit):
    evaluate("/no/run", f"--output={tmp_path}/results")
  assert not (tmp_path / "results").exists()
