"""Image files in memory and streamed: batches, hosts, broken files."""

import itertools

import numpy as np
import pytest
from PIL import Image

from sam_jax.config.schema import ConfigError
from sam_jax.datasets import catalog, image_files, image_folder, pillow_images
from sam_jax.datasets.catalog import DatasetError
from tests.bucket import ROOT
from tests.datasets import folders

NAMES = ("cat", "dog")
SMALL = catalog.image_folder_spec(NAMES, 8)
LARGE = catalog.image_folder_spec(NAMES, 72)
SPECS = pytest.mark.parametrize(
  "spec", [SMALL, LARGE], ids=["memory", "stream"]
)


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
  """Keep what is decoded in a directory of the test."""
  directory = tmp_path_factory.mktemp("home")
  monkeypatch.setenv("HOME", str(directory))
  return directory


@pytest.fixture
def photos(tmp_path):
  """Twelve images to train on, as many to evaluate on, of several formats."""
  folders.two_classes(tmp_path, size=(90, 110))
  exif = Image.Exif()
  exif[0x0112] = 6
  folders.picture(9, (90, 110)).save(tmp_path / "train/cat/1.jpg", exif=exif)
  folders.picture(8, mode="CMYK").save(tmp_path / "train/dog/3.jpg")
  folders.picture(7, mode="P").save(tmp_path / "val/dog/2.png")
  return tmp_path


def load(photos, spec, **fields):
  options = {
    "data_dir": str(photos),
    "validation_size": 0,
    "split_seed": 0,
    "skips_broken": False,
    "crops_at_random": True,
    "batch_size": 4,
    "eval_batch_size": 4,
    "seed": 0,
  }
  return image_files.load(spec, **{**options, **fields})


def batches(dataset, first, count):
  found = itertools.islice(dataset.train_batches(first), count)
  return {
    name: np.stack(arrays) for name, arrays in _columns(list(found)).items()
  }


def _columns(rows):
  return {name: [row[name] for row in rows] for name in rows[0]}


def evaluated(dataset, split="test"):
  """Return the images and labels of a split without padding."""
  rows = _columns(list(dataset.eval_batches(split)))
  mask = np.concatenate(rows["mask"]) > 0
  return [np.concatenate(rows[name])[mask] for name in ("image", "label")]


@SPECS
def test_every_image_has_its_label(photos, spec):
  dataset = load(photos, spec)
  assert dataset.num_train == 12 and dataset.steps_per_epoch == 3
  for split in ("train", "test"):
    images, labels = evaluated(dataset, split)
    files = getattr(dataset.folder, split).files
    assert labels.tolist() == [
      NAMES.index(n.split("/")[1]) for n in files.names
    ]
    for image, path in zip(images, files.paths, strict=True):
      data = image_files.read_file(path)
      if spec is SMALL:
        expected, _ = pillow_images.decode_to_fit(data, spec.image_shape)
        np.testing.assert_array_equal(image, expected)
      else:
        whole = np.asarray(pillow_images.decode(data).resize((72, 72)), int)
        # The center of a smooth picture is like the whole of it.
        assert np.abs(image[20:52, 20:52] - whole[20:52, 20:52]).mean() < 25


@SPECS
def test_any_step_follows_from_the_seed(photos, spec):
  dataset = load(photos, spec)
  whole = batches(dataset, 0, 7)
  assert sorted(whole["label"][:3].ravel()) == [0] * 6 + [1] * 6
  later = batches(load(photos, spec), 4, 3)
  for name in ("image", "label"):
    np.testing.assert_array_equal(later[name], whole[name][4:])
  other = batches(load(photos, spec, seed=1), 0, 3)
  assert not np.array_equal(other["image"], whole["image"][:3])


@SPECS
def test_hosts_share_each_batch(photos, spec):
  alone = load(photos, spec, eval_batch_size=8)
  whole = batches(alone, 0, 3)
  parts = [
    load(photos, spec, eval_batch_size=8, process_index=i, process_count=2)
    for i in range(2)
  ]
  shards = [batches(part, 0, 3) for part in parts]
  for name in ("image", "label"):
    joined = np.concatenate([shard[name] for shard in shards], axis=1)
    np.testing.assert_array_equal(joined, whole[name])
  counts = [len(evaluated(part)[1]) for part in parts]
  assert sum(counts) == 12 and min(counts) > 0


def test_crops_are_random_only_if_asked_for(photos):
  centers = batches(load(photos, LARGE, crops_at_random=False), 0, 6)["image"]
  first, second = (
    {image.tobytes() for image in part.reshape(-1, 72, 72, 3)}
    for part in (centers[:3], centers[3:])
  )
  assert first == second and len(first) == 12
  random = batches(load(photos, LARGE), 0, 6)["image"]
  assert len({image.tobytes() for image in random.reshape(-1, 72, 72, 3)}) == 24


@SPECS
def test_noise_and_label_files(photos, spec, tmp_path):
  noisy = load(photos, spec, noise_rate=1.0, noise_kind="symmetric_other")
  assert noisy.spec.noisy_labels
  batch = batches(noisy, 0, 3)
  np.testing.assert_array_equal(batch["label"], 1 - batch["clean_label"])
  labels = np.zeros(12, np.int32)
  np.save(tmp_path / "labels.npy", labels)
  given = load(photos, spec, labels_path=tmp_path / "labels.npy")
  assert not batches(given, 0, 3)["label"].any()
  assert evaluated(given, "train")[1].tolist() == [0] * 6 + [1] * 6


def damage(photos):
  """Break two images; return their names."""
  cut = photos / "train/cat/0.png"
  cut.write_bytes(cut.read_bytes()[:200])
  (photos / "val/dog/1.jpg").write_text("no image")
  return ["train/cat/0.png", "val/dog/1.jpg"]


@SPECS
def test_broken_images_are_refused_by_name(photos, spec, caplog):
  broken = damage(photos)
  for _ in range(2):  # from the cache, too
    caplog.clear()
    with pytest.raises(DatasetError) as error:
      load(photos, spec)
    message = str(error.value)
    assert message.startswith(
      f"Image folder {photos}: 2 of 24 images are broken"
    )
    assert message.endswith("or set config.dataset.broken_images = 'skip'.")
    for name in broken:
      assert name in message
      assert f"Broken image {photos}/{name}: " in caplog.text
  assert "val/dog/1.jpg (no image that Pillow knows)" in message


@SPECS
def test_broken_images_are_skipped_if_asked_for(photos, spec, caplog):
  broken = damage(photos)
  dataset = load(photos, spec, skips_broken=True)
  names = dataset.folder.train.files.names + dataset.folder.test.files.names
  assert len(names) == 22 and not set(names) & set(broken)
  assert dataset.num_train == 11
  images, labels = evaluated(dataset)
  assert len(images) == 11 and labels.tolist() == [0] * 6 + [1] * 5
  assert broken[0] in caplog.text and broken[1] in caplog.text


def test_class_of_broken_images_only_is_refused(photos):
  for file in (photos / "train/dog").iterdir():
    file.write_bytes(b"")
  with pytest.raises(
    DatasetError, match="class 'dog' has no image to train on"
  ):
    load(photos, SMALL, skips_broken=True)


@SPECS
def test_images_are_decoded_once(photos, spec, monkeypatch, caplog, home):
  with caplog.at_level("INFO"):
    first = batches(load(photos, spec), 0, 2)["image"]
  assert "Decoding 24 images" in caplog.text
  reads = []
  read = image_files.read_file
  monkeypatch.setattr(
    image_files, "read_file", lambda path: reads.append(path) or read(path)
  )
  dataset = load(photos, spec, validation_size=2)  # another split of the files
  reads.clear()
  dataset = load(photos, spec)
  assert not reads
  np.testing.assert_array_equal(batches(dataset, 0, 2)["image"], first)
  assert list((home / ".cache/sam_jax/image_folders").iterdir())
  folders.picture(99, (90, 110)).save(photos / "train/cat/0.png")
  reads.clear()
  load(photos, spec)
  assert len(reads) == 24


@pytest.mark.parametrize("name", ["train/cat/2.png", "train/cat/3.jpg"])
def test_image_that_is_gone_is_one_line(photos, name):
  dataset = load(photos, LARGE)
  (photos / name).unlink()
  with pytest.raises(DatasetError) as error:
    batches(dataset, 0, 3)
  message = str(error.value)
  assert name in message and "\n" not in message
  assert "No such file" in message or "can't be read" in message


def test_too_few_images_for_a_batch(photos):
  message = "config.batch_size = 16 is more than the 12 training examples"
  with pytest.raises(DatasetError, match=message):
    load(photos, SMALL, batch_size=16)


def test_gray_networks_see_gray_images(photos):
  spec = catalog.dataset_spec("digits")
  folder = image_folder.find(str(photos))
  _, arrays = image_files.examined(folder, spec, skips_broken=False, remedy="")
  assert arrays["image"].shape == (24, 8, 8, 1)


@SPECS
def test_images_in_a_bucket_are_those_of_the_disk(bucket, photos, spec):
  with pytest.raises(ConfigError, match="data_dir=gs://no/photos: there is no"):
    load("gs://no/photos", spec)
  bucket.upload(photos, "photos")
  local, remote = (load(place, spec) for place in (photos, f"{ROOT}/photos"))
  assert remote.folder.fingerprint == local.folder.fingerprint
  expected, found = (batches(dataset, 0, 3) for dataset in (local, remote))
  np.testing.assert_array_equal(found["label"], expected["label"])
  if spec is SMALL:
    np.testing.assert_array_equal(found["image"], expected["image"])
  else:  # Pillow decodes all of them
    difference = np.abs(found["image"].astype(int) - expected["image"])
    assert difference.mean() < 2
