"""`python -m sam_jax.datasets.prepare`, with TFDS's own downloads."""

import functools
import hashlib
import http.server
import re
import subprocess
import sys
import threading

import pytest

from sam_jax.datasets import catalog, local_files, tfds_files
from sam_jax.datasets.builders import birdsnap, fgvc_aircraft
from tests.datasets import archives
from tests.datasets.preparation import run


@pytest.fixture
def server(tmp_path):
  """Serve a directory over HTTP; return the directory and its address."""
  directory = tmp_path / "served"
  directory.mkdir()
  handler = functools.partial(
    http.server.SimpleHTTPRequestHandler, directory=str(directory)
  )
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield directory, f"http://127.0.0.1:{running.server_port}"
    running.shutdown()


def test_download_and_manual_directory(server, tmp_path, monkeypatch, capsys):
  directory, address = server
  archives.write_fgvc_aircraft(directory)
  archives.write_birdsnap(directory)
  for module in (fgvc_aircraft, birdsnap):
    name = module._ARCHIVE.rpartition("/")[2]
    md5 = hashlib.md5((directory / name).read_bytes()).hexdigest()
    monkeypatch.setattr(module, "_ARCHIVE", f"{address}/{name}")
    monkeypatch.setattr(module, "_ARCHIVE_MD5", md5)
  data_dir = tmp_path / "data"
  run(data_dir, "fgvc_aircraft", "birdsnap", manual_dir=str(directory))
  said = capsys.readouterr().out
  for name, counts in (
    ("fgvc_aircraft", {"train": 16, "validation": 8, "test": 11}),
    ("birdsnap", {"train": 22, "test": 11}),
  ):
    spec = catalog.dataset_spec(name)
    builder = tfds_files.prepared_builder(spec, str(data_dir))
    assert f"{name}: {builder.data_path}" in said
    splits = builder.info.splits
    assert {n: s.num_examples for n, s in splits.items()} == counts


def test_archive_with_another_checksum_is_refused(
  server, tmp_path, monkeypatch
):
  directory, address = server
  name = "fgvc-aircraft-2013b.tar.gz"
  archives.write_fgvc_aircraft(directory)
  data = (directory / name).read_bytes()
  (directory / name).write_bytes(data[:-1])  # the server stopped early
  md5 = hashlib.md5(data).hexdigest()
  monkeypatch.setattr(fgvc_aircraft, "_ARCHIVE", f"{address}/{name}")
  monkeypatch.setattr(fgvc_aircraft, "_ARCHIVE_MD5", md5)
  with pytest.raises(SystemExit) as error:
    run(tmp_path / "data", "fgvc_aircraft")
  message = str(error.value)
  found = hashlib.md5(data[:-1]).hexdigest()
  assert f"{address}/{name} has the MD5 {found}, not {md5}: the" in message
  assert "prepare the data set again" in message and "\n" not in message
  (directory / name).write_bytes(data)
  run(tmp_path / "data", "fgvc_aircraft")


def test_download_without_a_known_checksum_is_refused(
  server, tmp_path, monkeypatch
):
  from tensorflow_datasets.image_classification import mnist

  directory, address = server
  archives.write_fashion_mnist(directory)
  monkeypatch.setattr(local_files, "INSTALLED", {})
  monkeypatch.setattr(mnist.FashionMNIST, "URL", f"{address}/")
  with pytest.raises(SystemExit, match="Missing checksums url: http") as error:
    run(tmp_path, "fashion_mnist")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (["digits", "cifra10"], "error: Data set 'cifra10' is unknown. Known: dig"),
    (["cifra10"], "imagenet_real. Did you mean 'cifar10'?"),
    ([], "error: Name the data sets to prepare. Known: digits, cifar10, "),
  ],
)
def test_wrong_names_are_refused(tmp_path, names, message, capsys):
  with pytest.raises(SystemExit) as error:
    run(tmp_path, *names)
  assert error.value.code == 2
  said = capsys.readouterr()
  assert message in said.err and said.err.count("\n") == 1
  assert said.out == "" and not list(tmp_path.iterdir())


def test_missing_manual_files_are_one_line(tmp_path):
  with pytest.raises(SystemExit) as error:
    run(tmp_path, "imagenet2012")
  message = str(error.value)
  expected = "error: Data set 'imagenet2012' can't be prepared: "
  assert message.startswith(expected) and "\n" not in message
  assert str(tmp_path) in message and "ILSVRC2012_img_train.tar" in message


def test_small_sets_are_decoded_at_once(tmp_path):
  run(tmp_path, "digits")
  decoded = tmp_path / "sam_jax_cache" / "decoded" / "digits"
  assert {path.name for path in decoded.iterdir()} == {"train", "test"}


def start(*arguments):
  """Run the command in a separate process."""
  command = [sys.executable, "-m", "sam_jax.datasets.prepare", *arguments]
  return subprocess.run(command, capture_output=True, text=True)


def test_unknown_flag_is_one_line():
  done = start("digits", "--data_dri=x")
  assert done.returncode == 2
  assert done.stderr.startswith("error: ") and "--data_dri" in done.stderr
  assert done.stderr.count("\n") == 1


def test_help_lists_the_data_sets_and_their_files():
  shown = start("--help").stdout
  for name in catalog.prepared_datasets():
    # A row is a line that starts with the name, and its continuations.
    row = re.search(rf"\n  {name}\b(.*\n(?:   .*\n)*)", shown)[1]
    files = catalog.dataset_spec(name).manual_files
    assert row.split() == files.split()
