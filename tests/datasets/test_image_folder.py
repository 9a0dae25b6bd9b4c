"""Folders and CSV files: their classes, splits, reports and errors."""

import os
import shutil

import numpy as np
import pytest

from sam_jax.datasets import image_folder
from sam_jax.datasets.catalog import DatasetError
from tests.datasets import folders


def found(folder, split="train"):
  """Return the class of each file of a split."""
  images = getattr(folder, split)
  labels = [folder.class_names[label] for label in images.labels]
  return dict(zip(images.files.names, labels, strict=True))


def touch(root, *names):
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(name.encode())


@pytest.mark.parametrize("test", ["val", "valid", "validation", "test"])
def test_directories_of_splits(tmp_path, test):
  touch(
    tmp_path, "train/dog/b.jpg", "train/dog/below/a.PNG", "train/cat/a.webp"
  )
  touch(tmp_path, f"{test}/dog/c.jpeg", "train/.hidden/a.jpg")
  touch(tmp_path, "train/cat/.DS_Store", "readme.txt")
  assert image_folder.find_class_names(str(tmp_path)) == ("cat", "dog")
  folder = image_folder.find(str(tmp_path))
  assert found(folder) == {
    "train/cat/a.webp": "cat",
    "train/dog/b.jpg": "dog",
    "train/dog/below/a.PNG": "dog",
  }
  assert found(folder, "test") == {f"{test}/dog/c.jpeg": "dog"}
  assert folder.train.files.paths[0] == f"{tmp_path}/train/cat/a.webp"
  assert folder.train.files.sizes.tolist() == [16, 15, 21]
  assert image_folder.has_test_split(str(tmp_path))


def test_validation_set_goes_before_the_test_set(tmp_path, caplog):
  for split in ("train", "test", "val"):
    touch(tmp_path, f"{split}/a/{split}.jpg", f"{split}/b/{split}.jpg")
  with caplog.at_level("INFO"):
    folder = image_folder.find(str(tmp_path))
  expected = {"val/a/val.jpg": "a", "val/b/val.jpg": "b"}
  assert found(folder, "test") == expected
  assert "evaluating on val, not on test" in caplog.text


def test_seeded_split_takes_its_share_of_each_class(tmp_path):
  touch(tmp_path, *(f"a/{i}.jpg" for i in range(40)))
  touch(tmp_path, *(f"b/{i}.jpg" for i in range(10)))
  folder = image_folder.find(str(tmp_path))
  test = found(folder, "test")
  assert sorted(test.values()) == ["a"] * 8 + ["b"] * 2
  assert found(folder).keys().isdisjoint(test)
  assert len(folder.train) == 40
  assert found(image_folder.find(str(tmp_path)), "test") == test
  other = image_folder.find(str(tmp_path), split_seed=1)
  assert found(other, "test") != test
  assert other.fingerprint != folder.fingerprint
  more = image_folder.find(str(tmp_path), validation_size=5)
  assert sorted(found(more, "test").values()) == ["a"] * 4 + ["b"]
  assert found(more, "test").keys() < test.keys()
  assert not image_folder.has_test_split(str(tmp_path))


def test_held_out_examples_take_the_place_of_the_test_set(tmp_path):
  names = [f"train/{name}/{i}.jpg" for name in "ab" for i in range(5)]
  touch(tmp_path, *names, "val/a/0.jpg")
  folder = image_folder.find(str(tmp_path), validation_size=4)
  assert (len(folder.train), len(folder.test)) == (6, 4)
  assert all(name.startswith("train/") for name in found(folder, "test"))


def test_csv_file(tmp_path):
  touch(tmp_path, "x/1.jpg", "x/2.tif", "y.png")
  outside = tmp_path.parent / f"{tmp_path.name}_outside.jpg"
  outside.write_bytes(b"1")
  file = tmp_path / "list.CSV"
  file.write_text(
    "\ufeffpath,note,label,split\nx/2.tif,,dog,train\n"
    f'"x/1.jpg","a, b",cat,\n{outside},,cat,training\ny.png,,dog,test\n'
  )
  folder = image_folder.find(str(file))
  assert folder.class_names == ("cat", "dog")
  assert found(folder) == {
    "x/1.jpg": "cat",
    str(outside): "cat",
    "x/2.tif": "dog",
  }
  assert found(folder, "test") == {"y.png": "dog"}
  assert folder.root == tmp_path
  assert str(outside) in folder.train.files.paths
  assert image_folder.has_test_split(str(file))
  file.write_text("label,path\n1,x/1.jpg\n0,y.png\n1,x/2.tif\n")
  folder = image_folder.find(str(file), validation_size=1)
  assert folder.class_names == ("0", "1")
  assert len(folder.train), len(folder.test) == (2, 1)


def test_fingerprint_is_that_of_a_copy_but_not_of_other_files(tmp_path):
  folders.two_classes(tmp_path / "a")
  first = image_folder.find(str(tmp_path / "a")).fingerprint
  shutil.copytree(tmp_path / "a", tmp_path / "b")
  os.utime(tmp_path / "b/train/cat/0.png", (1, 1))
  assert image_folder.find(str(tmp_path / "b")).fingerprint == first
  (tmp_path / "b/train/cat/0.png").write_bytes(b"other")
  assert image_folder.find(str(tmp_path / "b")).fingerprint != first


def test_links_are_followed_and_circles_end(tmp_path):
  touch(tmp_path / "elsewhere", "1.jpg", "2.jpg")
  touch(tmp_path / "data", "b/1.jpg", "b/2.jpg")
  (tmp_path / "data/a").symlink_to(tmp_path / "elsewhere")
  (tmp_path / "elsewhere/circle").symlink_to(tmp_path / "elsewhere")
  (tmp_path / "data/b/dangling.jpg").symlink_to(tmp_path / "nowhere")
  folder = image_folder.find(str(tmp_path / "data"))
  assert len(folder.train) + len(folder.test) == 4


def test_other_files_and_double_names_are_reported(tmp_path, caplog):
  touch(tmp_path, "a/1.jpg", "a/1.png", "a/2.jpg", "a/x.tif", "a/y.txt", "a/z")
  touch(tmp_path, "a/y.tif", "b/1.jpg")
  image_folder.find(str(tmp_path))
  assert (
    f"Image folder {tmp_path}: left out 4 files with extensions other than"
    " .bmp, .jpeg, .jpg, .png, .webp: none (1), .tif (2), .txt (1)."
  ) in caplog.messages
  assert (
    f"Image folder {tmp_path}: 1 name with several extensions, all of them"
    " used: a/1.jpg and a/1.png."
  ) in caplog.messages


@pytest.mark.parametrize(
  ("names", "data_dir", "message"),
  [
    ([], "no", "no: there is no such directory. Correct its path."),
    ([], "no.csv", "no.csv: there is no such file. Correct its path."),
    (["file"], "file", "it must be a directory, or a CSV file named *.csv."),
    (["a.jpg"], "", "there is no directory of a class. Put the images of each"),
    (["val/a/1.jpg"], "", "it has val and no train. Name the directory to"),
    (
      ["train/a/1.txt", "val/a/1.jpg"],
      "",
      "train/a: there is no image (.bmp, ",
    ),
    (
      ["train/a/1.jpg", "val/a/1.jpg", "val/b/1.jpg", "val/c/1.jpg"],
      "",
      "val: 2 classes not in the training set: 'b', 'c'. Rename",
    ),
    (["train/a/1.jpg", "val/x.jpg"], "", "leaves nothing of its 1 image to"),
    (["a/1.jpg", "a/2.jpg"], "", "'a' is its only class. Add another"),
    (["a/1.jpg", "b/1.tif"], "", "b: there is no image (.bmp, "),
  ],
)
def test_mistakes_in_directories(tmp_path, names, data_dir, message):
  touch(tmp_path, *names)
  with pytest.raises(DatasetError) as error:
    image_folder.find(str(tmp_path / data_dir))
  assert str(error.value).startswith(f"Image folder {tmp_path}")
  assert message in str(error.value)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("path,label\n", "it lists no images."),
    ("", "it has no column label and no column path. Its first line must be"),
    ("file,label\na.jpg,x\n", "it has no column path."),
    ("path,label\na.jpg,\n", "line 2 lacks a path or a label."),
    ("path,label\na.jpg\n", "line 2 lacks a path or a label."),
    ("path,label\na.jpg,x\nb.jpg,x\n", "line 3: there is no file b.jpg."),
    ("path,label\na.jpg,x\na.jpg,y\n", "lines 2 and 3 have one path: a.jpg."),
    (
      "path,label,split\na.jpg,x,dev\n",
      "line 2: split 'dev' must be train, val or test.",
    ),
    (
      "path,label,split\na.jpg,x,train\na.jpg ,y,val\n",
      "lines 2 and 3 have one path",
    ),
    (
      "path,label,split\na.jpg,x,train\nc.jpg,y,val\n",
      "1 class not in the training set: 'y'.",
    ),
  ],
)
def test_mistakes_in_csv_files(tmp_path, text, message):
  touch(tmp_path, "a.jpg", "c.jpg")
  file = tmp_path / "list.csv"
  file.write_text(text)
  with pytest.raises(DatasetError) as error:
    image_folder.find(str(file))
  assert str(error.value).startswith(f"Image folder {file}: ")
  assert message in str(error.value)


def test_csv_file_that_is_no_text(tmp_path):
  file = tmp_path / "list.csv"
  file.write_bytes(b"path,label\n\xff\xfe,x\n")
  with pytest.raises(DatasetError, match="it is not UTF-8 text"):
    image_folder.find(str(file))


@pytest.mark.parametrize("name", ["scandir", "listdir"])
def test_directory_that_cannot_be_read_is_one_line(tmp_path, monkeypatch, name):
  touch(tmp_path, "a/1.jpg")

  def fail(path="."):
    raise PermissionError(13, "Permission denied", os.fspath(path))

  monkeypatch.setattr(os, name, fail)
  with pytest.raises(DatasetError) as error:
    image_folder.find(str(tmp_path))
  assert str(error.value).endswith("it can't be read: Permission denied.")


def test_too_many_held_out_examples(tmp_path):
  touch(tmp_path, "a/1.jpg", "a/2.jpg")
  message = "validation_size = 2 leaves nothing of its 2 images to train on"
  with pytest.raises(DatasetError, match=message):
    image_folder.find(str(tmp_path), validation_size=2)


def test_images_to_evaluate_have_the_labels_of_the_network(tmp_path):
  touch(tmp_path, "b/1.jpg", "b/2.jpg")
  folder, has_labels = image_folder.find_to_evaluate(
    str(tmp_path), ["a", "b"], "test"
  )
  assert has_labels
  assert found(folder) == {"b/1.jpg": "b", "b/2.jpg": "b"}
  assert folder.train.labels.tolist() == [1, 1]
  with pytest.raises(DatasetError, match=r"not in the training set: 'b'"):
    image_folder.find_to_evaluate(str(tmp_path), ["a"], "test")
  folder, has_labels = image_folder.find_to_evaluate(
    str(tmp_path / "b"), ["x"], "test"
  )
  assert not has_labels
  assert folder.train.files.names == ["1.jpg", "2.jpg"]
  (tmp_path / "empty").mkdir()
  with pytest.raises(DatasetError, match="there is no image"):
    image_folder.find_to_evaluate(str(tmp_path / "empty"), ["x"], "test")


def test_share_of_each_class_is_exact_in_number():
  labels = np.repeat([0, 1, 2], [1, 7, 92]).astype(np.int32)
  chosen = image_folder.hold_out(labels, 20, seed=3)
  assert chosen.sum() == 20
  counts = np.bincount(labels[chosen], minlength=3)
  assert counts[0] == 0 and counts[1] in (1, 2)
