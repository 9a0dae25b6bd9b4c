"""Runs on image files, from training to predictions in a file."""

import csv
import json
import logging
import shutil

import numpy as np
import pytest

import sam_jax
from sam_jax.analysis import batch_picture
from sam_jax.config.schema import ConfigError, default_config
from sam_jax.datasets.catalog import DatasetError
from sam_jax.datasets.pillow_images import decode_to_fit
from sam_jax.runs import dataset_record
from sam_jax.training import build, loop
from tests.datasets import folders
from tests.in_process import run_script
from tests.runs.test_checkpoints import listing

SIZES = pytest.mark.parametrize("size", [16, 72], ids=["memory", "stream"])


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def photos(tmp_path):
  root = tmp_path / "photos"
  folders.two_classes(root, size=(80, 80))
  return root


def config_of(photos, size=16, **fields):
  config = default_config()
  config.model.name = "tests.tiny:Linear"
  config.dataset.name, config.dataset.data_dir = "image_folder", str(photos)
  config.dataset.image_size = size
  config.num_epochs, config.batch_size, config.log_every_steps = 1, 8, 1
  config.optimizer.learning_rate = 0.01
  config.update_from_flattened_dict(fields)
  return config


def evaluate(workdir, *arguments):
  run_script("evaluate", f"--workdir={workdir}", *arguments)


def read_predictions(directory):
  with (directory / "predictions.csv").open() as file:
    return list(csv.DictReader(file))


@SIZES
def test_from_training_to_predictions(photos, tmp_path, size, capsys):
  workdir = tmp_path / "run"
  result = loop.train_and_evaluate(config_of(photos, size), workdir)
  evaluate(workdir)
  printed = capsys.readouterr().out
  assert "image_folder, test: 12 examples" in printed
  assert "| cat " in printed and "| dog " in printed
  (directory,) = (workdir / "evaluation").iterdir()
  rows = read_predictions(directory)
  assert rows[0]["example"] == "val/cat/0.png"
  assert {row["label"] for row in rows} == {"cat", "dog"}
  wrong = np.mean([row["label"] != row["prediction"] for row in rows])
  assert wrong == pytest.approx(result["error_rate"])

  run = sam_jax.load_run(workdir)
  assert run.class_names == ("cat", "dog")
  pixels = np.stack([np.asarray(folders.picture(i, (80, 80))) for i in (0, 2)])
  probabilities = run.predict(pixels)
  evaluate(workdir, f"--data={photos}/train/cat", f"--output={tmp_path}/new")
  new = {row["example"]: row for row in read_predictions(tmp_path / "new")}
  for i, row in enumerate(probabilities):
    found = new[f"{2 * i}.png"]
    assert found["label"] == found["nll"] == ""
    assert found["prediction"] == run.class_names[row.argmax()]
    assert float(found["confidence"]) == pytest.approx(row.max(), abs=1e-2)


@SIZES
def test_interrupted_run_ends_with_the_same_bits(photos, tmp_path, size):
  config = config_of(photos, size, num_epochs=2)
  whole = loop.train_and_evaluate(config, tmp_path / "whole")
  stopped = tmp_path / "stopped"
  first = config_of(photos, size, num_epochs=2)
  first.checkpoint_every_epochs = 0.5
  loop.train_and_evaluate(first, stopped)
  for name in ("2", "result.json"):  # as if it had stopped before
    path = stopped / ("checkpoints" if name == "2" else ".") / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  assert loop.train_and_evaluate(first, stopped) == whole


def test_runs_need_neither_number_of_classes_nor_data_afterwards(
  photos, tmp_path
):
  config = build.validate(config_of(photos), num_devices=8)
  assert build.dataset_spec(config).num_classes == 2
  workdir = tmp_path / "run"
  loop.train_and_evaluate(config_of(photos), workdir)
  before = listing(workdir)
  data = (photos / "val/dog/1.jpg").read_bytes()
  shutil.rmtree(photos)
  run = sam_jax.load_run(workdir)
  assert run.class_names == ("cat", "dog")
  image, _ = decode_to_fit(data, (16, 16, 3))
  assert run.predict(image[None]).sum() == pytest.approx(1)
  assert listing(workdir) == before
  with pytest.raises(DatasetError, match="there is no such directory"):
    run.dataset  # noqa: B018


def test_resuming_on_other_images_is_refused(photos, tmp_path):
  workdir, config = tmp_path / "run", config_of(photos)
  loop.train_and_evaluate(config, workdir)
  folders.write(photos, ["train/cat/new.png"])
  with pytest.raises(ConfigError) as error:
    loop.train_and_evaluate(config, workdir)
  assert str(error.value) == (
    f"--workdir={workdir} holds a run on other images: their names, sizes or"
    " classes have changed (12 -> 13 to train on and 12 -> 12 to evaluate on)."
    " Restore them, or use another workdir."
  )
  (photos / "train/cat/new.png").unlink()
  moved = photos.rename(tmp_path / "moved")
  config.dataset.data_dir = str(moved)  # the same images in another place
  assert loop.train_and_evaluate(config, workdir) is None


def test_classes_of_other_images_are_those_of_the_network(
  photos, tmp_path, capsys, caplog
):
  workdir = tmp_path / "run"
  config = config_of(photos)
  config.dataset.validation_size = 4
  loop.train_and_evaluate(config, workdir)
  folders.write(tmp_path / "more", ["dog/1.webp", "dog/2.png"])
  evaluate(workdir, f"--data={tmp_path}/more", f"--output={tmp_path}/out")
  found = json.loads((tmp_path / "out/evaluation.json").read_text())
  assert (found["data"], found["examples"]) == ("more", 2)
  assert found["path"].endswith("/more")
  rows = read_predictions(tmp_path / "out")
  assert [row["label"] for row in rows] == ["dog", "dog"]
  for split, count in (("validation", 4), ("train", 8), ("test", 12)):
    evaluate(workdir, f"--split={split}", f"--output={tmp_path}/{split}")
    result = (tmp_path / split / "evaluation.json").read_text()
    assert json.loads(result)["examples"] == count
  assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
  folders.write(photos, ["train/dog/new.png"])
  evaluate(workdir, f"--output={tmp_path}/changed")
  assert "has other images than when" in caplog.text
  capsys.readouterr()
  folders.write(tmp_path / "more", ["owl/1.png"])
  for arguments, message in (
    ((f"--data={tmp_path}/more",), "not in the training set: 'owl'"),
    ((f"--data={tmp_path}/no/",), "there is no such directory"),
    ((f"--data={tmp_path}/no.csv",), "there is no such file"),
    (("--data=no",), "--data=no is no data set, nor a directory or a CSV"),
    (
      (f"--data={photos}", "--split=validation"),
      "--split=validation: nothing is held out",
    ),
  ):
    with pytest.raises(SystemExit) as error:
      evaluate(workdir, *arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_directories_of_one_name_do_not_share_results(photos, tmp_path, capsys):
  workdir = tmp_path / "run"
  loop.train_and_evaluate(config_of(photos), workdir)
  for place in ("a", "b", "a"):
    folders.write(tmp_path / place, ["new/dog/1.png"])
    evaluate(workdir, f"--data={tmp_path}/{place}/new")
  places = {
    path.name: json.loads((path / "evaluation.json").read_text())["path"]
    for path in (workdir / "evaluation").iterdir()
  }
  assert places == {
    "new_test_1": f"{tmp_path}/a/new",
    "new_test_1_2": f"{tmp_path}/b/new",
  }
  (tmp_path / "a/new/dog/2.jpg").write_bytes(b"no image")
  with pytest.raises(SystemExit):
    evaluate(workdir, f"--data={tmp_path}/a/new")
  line = capsys.readouterr().err.splitlines()[-1]
  assert "1 of 2 images is broken: dog/2.jpg (" in line
  assert line.endswith("remove them, or list the others in a CSV file.")


def test_own_test_set_is_needed_for_the_split_test(tmp_path):
  folders.write(
    tmp_path / "flat", [f"{c}/{i}.png" for c in "ab" for i in range(10)]
  )
  config = config_of(tmp_path / "flat", **{"dataset.validation_size": 4})
  loop.train_and_evaluate(config, tmp_path / "run")
  with pytest.raises(SystemExit):
    evaluate(tmp_path / "run", "--split=test")
  evaluate(tmp_path / "run", f"--output={tmp_path}/o")
  found = json.loads((tmp_path / "o/evaluation.json").read_text())
  assert (found["split"], found["examples"]) == ("validation", 4)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"dataset.data_dir": None}, "needs config.dataset.data_dir"),
    (
      {"dataset.data_dir": "/no/photos"},
      "Image folder /no/photos: there is no",
    ),
    (
      {"dataset.image_size": None},
      "config.dataset.image_size must be set: tes",
    ),
    ({"dataset.label_column": "noisy"}, "image_folder has only label"),
    ({"dataset.broken_images": "keep"}, "Known: refuse, skip"),
    ({"augment.cutout": "image", "augment.cutout_size": 20}, "at most 16"),
  ],
)
def test_mistakes_are_found_before_any_other_work(photos, fields, message):
  config = config_of(photos)
  config.update_from_flattened_dict(fields)
  with pytest.raises((ConfigError, DatasetError), match=message):
    build.validate(config, num_devices=1)


def test_storage_follows_the_size_of_the_images(photos):
  for model, size, expected in (
    ("wrn10_2", None, ("memory", 32, 4)),
    ("wrn10_2", 64, ("memory", 64, 8)),
    ("wrn10_2", 65, ("stream", 65, 0)),
    ("efficientnet_b0", None, ("stream", 224, 0)),
    ("efficientnet_b0", 32, ("memory", 32, 4)),
  ):
    config = config_of(photos, size)
    config.model.name = model
    spec = build.dataset_spec(config)
    found = spec.storage, spec.image_shape[0], spec.crop_padding
    assert found == expected


def test_picture_of_a_batch_has_the_names(photos, tmp_path, monkeypatch):
  captions = []
  draw = batch_picture.captions
  monkeypatch.setattr(
    batch_picture,
    "captions",
    lambda *arguments: captions.append(draw(*arguments)) or captions[-1],
  )
  run_script(
    *("show_batch", "--config=configs/digits.py", "--config.batch_size=8"),
    *("--config.dataset.name=image_folder", "--config.sam.m=None"),
    *(f"--config.dataset.data_dir={photos}", f"--output={tmp_path}/a.png"),
    "--config.dataset.label_noise.rate=0",
  )
  names = {line for caption in captions[0] for line in caption}
  assert names == {"cat", "dog"}


def test_hosts_with_other_images_are_refused(photos, tmp_path, monkeypatch):
  monkeypatch.setattr(
    dataset_record.distributed,
    "from_process_0",
    lambda function, _: function().replace('"train": 12', '"train": 13'),
  )
  message = "has other images here than in process 0. Copy the same files"
  with pytest.raises(ConfigError, match=message):
    loop.train_and_evaluate(config_of(photos), tmp_path / "run")
