"""Files of images for fine-tuning: other classes, and no shared image."""

import csv

import numpy as np
import pytest
from etils import epath

from sam_jax.datasets import image_folder
from scripts.reproduce import transfer


@pytest.fixture
def root(tmp_path, monkeypatch):
  """Return a directory of runs with the files of two seeds and one more."""

  def load_split(spec, split, data_dir):
    del spec, data_dir
    labels = np.arange(400 if split == "train" else 60) % 10
    images = np.full((len(labels), 4, 4, 1), labels[:, None, None, None])
    return {"image": images.astype(np.uint8), "label": labels}

  monkeypatch.setattr(transfer, "load_split", load_split)
  for name, count in (("PRETRAINING", 50), ("FINE_TUNING", 20)):
    monkeypatch.setattr(transfer, f"NUM_{name}", count)
  monkeypatch.setattr(transfer, "NUM_EVALUATED", 12)
  root = epath.Path(tmp_path)
  transfer.write_images(root, 2, (100,))
  return root


def read(path):
  """Return the paths by split, and all labels."""
  with open(path) as file:
    rows = list(csv.DictReader(file))
  paths = {
    split: {row["path"] for row in rows if row["split"] == split}
    for split in ("train", "val", "test")
  }
  return paths, {int(row["label"][-1]) for row in rows}


def test_seeds_share_test_images_alone(root):
  first, second, tuning = (
    read(root / transfer.FINE_TUNING.format(seed=seed))[0]
    for seed in (0, 1, 100)
  )
  assert first["test"] == second["test"] and len(first["test"]) == 12
  assert not tuning["test"] and len(tuning["val"]) == 12
  sets = [*(each["train"] for each in (first, second, tuning)), tuning["val"]]
  assert [len(each) for each in sets] == [20, 20, 20, 12]
  assert len(set().union(*sets)) == 72


def test_the_classes_are_new(root):
  paths, old = read(root / transfer.PRETRAINING)
  assert old == set(range(6)) and len(paths["train"]) == 50
  path = root / transfer.FINE_TUNING.format(seed=1)
  assert read(path)[1] == {6, 7, 8, 9}
  found = image_folder.find(str(path))
  assert found.class_names == ("class6", "class7", "class8", "class9")
  assert len(found.train) == 20


def test_files_are_written_once(root):
  times = [path.stat().mtime for path in (root / "transfer").iterdir()]
  transfer.write_images(root, 2, (100,))
  assert times == [p.stat().mtime for p in (root / "transfer").iterdir()]
