"""Write small archives in the layout of the real ones; run TFDS on them."""

import gzip
import io
import json
import pathlib
import tarfile
from unittest import mock

import jax
import numpy as np
import scipy.io
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from sam_jax.datasets.builders import published

RANDOM = np.random.default_rng(0)


def pixels(*shape):
  return RANDOM.integers(256, size=shape).astype(np.uint8)


def photo(height, width, mode="RGB", image_format="JPEG", seed=0):
  """Return an encoded image without sharp edges."""
  small = np.random.default_rng(seed).integers(256, size=(4, 4, 3))
  image = Image.fromarray(small.astype(np.uint8)).resize(
    (width, height), Image.Resampling.BICUBIC
  )
  file = io.BytesIO()
  image.convert(mode).save(file, image_format)
  return file.getvalue()


def write_tar(path, members, mode="w:gz"):
  """Write a tar archive of files, from their contents by name."""
  with tarfile.open(path, mode) as tar:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))


def tar_bytes(members):
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode="w") as tar:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return file.getvalue()


def cifar_rows(count, num_labels, num_classes):
  """Return rows of CIFAR's binary format: labels, then red, green, blue."""
  labels = RANDOM.integers(num_classes, size=(count, num_labels))
  return np.concatenate([labels, pixels(count, 3072)], 1).astype(np.uint8)


def write_cifar10(directory):
  files = {
    f"data_batch_{i}.bin": cifar_rows(8, 1, 10).tobytes() for i in range(1, 6)
  }
  files["test_batch.bin"] = cifar_rows(11, 1, 10).tobytes()
  files["batches.meta.txt"] = lines("class", 10) + b"\n"
  write_tar(
    directory / "cifar-10-binary.tar.gz",
    {f"cifar-10-batches-bin/{name}": data for name, data in files.items()},
  )


def write_cifar10_n(directory):
  """Write CIFAR-10 and the labels of crowd workers for its 40 images."""
  write_cifar10(directory)
  labels = RANDOM.integers(10, size=(40, 6))
  write_csv(directory / "CIFAR-10_human_annotations.csv", labels)
  write_csv(directory / "side_info_cifar10N.csv", np.ones((4, 7), int))
  np.save(directory / "image_order_c10.npy", np.arange(40)[::-1])


def write_csv(path, table):
  np.savetxt(path, table, "%d", ",", header="any,header")


def write_cifar100(directory):
  files = {
    "train.bin": cifar_rows(40, 2, 20).tobytes(),
    "test.bin": cifar_rows(11, 2, 20).tobytes(),
    "coarse_label_names.txt": lines("coarse", 20),
    "fine_label_names.txt": lines("fine", 100),
  }
  write_tar(
    directory / "cifar-100-binary.tar.gz",
    {f"cifar-100-binary/{name}": data for name, data in files.items()},
  )


def lines(prefix, count):
  return "".join(f"{prefix}{i}\n" for i in range(count)).encode()


def write_svhn(directory):
  for split, count in (("train", 24), ("test", 11), ("extra", 16)):
    # Zeros are of class 10.
    digits = RANDOM.integers(1, 11, size=(count, 1))
    scipy.io.savemat(
      directory / f"{split}_32x32.mat",
      {"X": pixels(32, 32, 3, count), "y": digits.astype(np.uint8)},
    )


def write_fashion_mnist(directory):
  for split, count in (("train", 40), ("t10k", 11)):
    header = np.array([2051, count, 28, 28], ">i4").tobytes()
    images = header + pixels(count, 28, 28).tobytes()
    header = np.array([2049, count], ">i4").tobytes()
    labels = header + (pixels(count) % 10).tobytes()
    for name, data in (("images-idx3", images), ("labels-idx1", labels)):
      path = directory / f"{split}-{name}-ubyte.gz"
      path.write_bytes(gzip.compress(data))


# Every kind of file that ImageNet has, and a few that it might have.
ODD_PHOTOS = (
  {"mode": "L"},
  {"mode": "CMYK"},
  {"mode": "RGBA", "image_format": "PNG"},
  {"mode": "P", "image_format": "GIF"},
)


def write_imagenet(directory, synsets=("n01440764", "n01443537")):
  """Write a training archive of archives, and a flat one for validation."""
  train = {}
  for number, synset in enumerate(synsets):
    images = {
      f"{synset}_{i}.JPEG": photo(40 + 3 * i, 60 - i, seed=10 * number + i)
      for i in range(10)
    }
    for i, kind in enumerate(ODD_PHOTOS):
      images[f"{synset}_{i}.JPEG"] = photo(50, 45, seed=i, **kind)
    train[f"{synset}.tar"] = tar_bytes(images)
  write_tar(directory / "ILSVRC2012_img_train.tar", train, "w")
  validation = {
    f"ILSVRC2012_val_{i:08}.JPEG": photo(50, 40 + i, seed=i)
    for i in range(1, 12)
  }
  write_tar(directory / "ILSVRC2012_img_val.tar", validation, "w")


def write_imagenet_v2(directory, classes=(0, 1, 999)):
  """Write the archive of matched frequency, a directory for each class."""
  root = "imagenetv2-matched-frequency-format-val"
  photos = {
    f"{root}/{number}/{i}.jpeg": photo(50, 40 + i, seed=number + i)
    for number in classes
    for i in range(3)
  }
  write_tar(directory / "imagenetv2-matched-frequency.tar.gz", photos)


def write_imagenet_real(directory):
  """Write validation images, and the classes that each one shows."""
  write_imagenet(directory)
  sets = [[], [7], list(range(0, 1000, 2)), list(range(1, 1000, 2)), *[[3]] * 7]
  (directory / "real.json").write_text(json.dumps(sets))


def write_corrupted(directory, name, corruptions, count=6, num_classes=10):
  """Write NAME/*.npy as published: the images of 5 severities, and labels."""
  files = {c: pixels(5 * count, 32, 32, 3) for c in corruptions}
  labels = RANDOM.integers(num_classes, size=count).astype(np.uint8)
  files["labels"] = np.tile(labels, 5)
  (directory / name).mkdir()
  for file, array in files.items():
    np.save(directory / name / f"{file}.npy", array)
  return files


def fetch_unchecked(manager, url, md5):
  """Stand in for `published.fetch`: small archives have other checksums."""
  del md5
  return epath.Path(manager.download_and_extract(url))


def prepare(builder, archives):
  """Run a TFDS builder on archives, in place of its downloads."""

  def download(manager, urls):
    del manager
    return jax.tree.map(
      lambda url: archives / pathlib.PurePosixPath(url).name, urls
    )

  def download_and_extract(manager, urls):
    return manager.extract(download(manager, urls))

  manager = tfds.download.DownloadManager
  with (
    mock.patch.object(manager, "download", download),
    mock.patch.object(manager, "download_and_extract", download_and_extract),
    mock.patch.object(published, "fetch", fetch_unchecked),
  ):
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir=archives)
    )


def write_fgvc_aircraft(directory, counts=(16, 8, 11)):
  """Write three variants of two families, in the layout of the archive."""
  variants = ("707-320", "Global Express", "F-16A/B")
  families = ("Boeing 707", "Global Express", "F-16")
  manufacturers = ("Boeing", "Bombardier Aerospace", "Lockheed Martin")
  kinds = {
    "variant": ("variants", variants, 100),
    "family": ("families", families, 70),
    "manufacturer": ("manufacturers", manufacturers, 30),
  }
  files, number = {}, 1025794
  for file, names, count in kinds.values():
    others = [f"other {i}" for i in range(count - len(names))]
    files[f"{file}.txt"] = "\n".join([*names, *others, ""]).encode()
  for split, count in zip(("train", "val", "test"), counts, strict=True):
    numbers = [f"{number + i:07}" for i in range(count)]
    number += count
    for image in numbers:
      files[f"images/{image}.jpg"] = photo(60, 80, seed=int(image))
    for kind, (_, names, _) in kinds.items():
      rows = [f"{n} {names[i % 3]}\n" for i, n in enumerate(numbers)]
      files[f"images_{kind}_{split}.txt"] = "".join(rows).encode()
  root = "fgvc-aircraft-2013b/data"
  write_tar(
    directory / "fgvc-aircraft-2013b.tar.gz",
    {f"{root}/{name}": content for name, content in files.items()},
  )


def write_birdsnap(directory, counts=(25, 11), missing=3):
  """Write the lists as an archive and the images next to it, except some."""
  instead = (None, b"<html>not found</html>", b"")
  species = ["id\tcommon\tscientific\tdir"] + [
    f"{i}\tBird {i}\tAvis {i}\tBird_{i}" for i in range(1, 501)
  ]
  box = "bb_x1\tbb_y1\tbb_x2\tbb_y2"
  images, tests = [f"url\tmd5\tpath\tspecies_id\t{box}"], ["path"]
  for i in range(sum(counts)):
    bird = 1 + i % 3
    path = f"Bird_{bird}/{i}.jpg"
    images.append(f"http://x/{i}\tmd5\t{path}\t{bird}\t5\t6\t70\t50")
    if i >= counts[0]:
      tests.append(path)
    content = photo(60, 80, seed=i) if i >= missing else instead[i % 3]
    if content is not None:
      file = directory / "birdsnap" / "images" / path
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_bytes(content)
  tables = {"species": species, "images": images, "test_images": tests}
  write_tar(
    directory / "birdsnap.tgz",
    {
      f"birdsnap/{name}.txt": "\n".join([*rows, ""]).encode()
      for name, rows in tables.items()
    },
  )


def numbered_photos(name, numbers, seed=0):
  """Return photographs by name; `name` is a format of their number."""
  return {name.format(i): photo(60, 80, seed=seed + i) for i in numbers}


def write_cifar100_n(directory):
  """Write CIFAR-100 and the labels of a crowd worker for its 40 images."""
  write_cifar100(directory)
  labels = RANDOM.integers(100, size=(40, 2))
  write_csv(directory / "CIFAR-100_human_annotations.csv", labels)
  write_csv(directory / "side_info_cifar100N.csv", np.ones((8, 3), int))
  np.save(directory / "image_order_c100.npy", np.arange(40)[::-1])


def write_stanford_cars(directory):
  files = {
    split: numbered_photos(f"cars_{split}/{{:05}}.jpg", range(1, count), count)
    for split, count in (("train", 17), ("test", 12))
  }
  for split, photos in files.items():
    write_tar(directory / f"cars_{split}.tgz", photos)
    # Corners of the box, the class from 1 on, the file.
    rows = [
      (*(np.array([[x]]) for x in (5, 6, 70, 50, 1 + i % 196)), path[-9:])
      for i, path in enumerate(photos)
    ]
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    table = np.array([rows], [(field, object) for field in fields])
    file = io.BytesIO()
    scipy.io.savemat(file, {"annotations": table.reshape(1, -1)})
    if split == "test":
      path = directory / "cars_test_annos_withlabels.mat"
      path.write_bytes(file.getvalue())
    else:
      members = {"devkit/cars_train_annos.mat": file.getvalue()}
      write_tar(directory / "car_devkit.tgz", members)


def write_oxford_flowers102(directory, counts=(8, 8, 11)):
  """Write photographs, and MATLAB's tables of their classes and splits."""
  numbers = np.arange(1, sum(counts) + 1)
  photos = numbered_photos("jpg/image_{:05}.jpg", numbers)
  write_tar(directory / "102flowers.tgz", photos)
  classes = (numbers % 102 + 1)[None]
  scipy.io.savemat(directory / "imagelabels.mat", {"labels": classes})
  parts = np.split(numbers[None], np.cumsum(counts)[:2], axis=1)
  ids = dict(zip(("trnid", "valid", "tstid"), parts, strict=True))
  scipy.io.savemat(directory / "setid.mat", ids)


def write_oxford_iiit_pet(directory, counts=(16, 11)):
  """Write photographs, lists, and masks that can't be decoded."""
  numbers = range(1, sum(counts) + 1)
  photos = numbered_photos("images/Abyssinian_{}.jpg", numbers)
  write_tar(directory / "images.tar.gz", photos, "w")
  rows = [f"Abyssinian_{i} {1 + i % 37} 1 1\n" for i in numbers]
  files = {f"trimaps/Abyssinian_{i}.png": b"no image" for i in numbers}
  files["trainval.txt"] = "".join(rows[: counts[0]]).encode()
  files["test.txt"] = "".join(rows[counts[0] :]).encode()
  write_tar(
    directory / "annotations.tar.gz",
    {f"annotations/{name}": content for name, content in files.items()},
    "w",
  )


def write_food101(directory, counts=(16, 11)):
  paths = [f"waffles/{i}" for i in range(sum(counts))]
  files = numbered_photos("images/waffles/{}.jpg", range(len(paths)))
  splits = {"train": paths[: counts[0]], "test": paths[counts[0] :]}
  for split, images in splits.items():
    content = json.dumps({"waffles": images}).encode()
    files[f"meta/{split}.json"] = content
  write_tar(
    directory / "food-101.tar.gz",
    {f"food-101/{name}": content for name, content in files.items()},
  )
