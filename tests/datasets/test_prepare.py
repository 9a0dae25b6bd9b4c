"""`python -m sam_jax.datasets.prepare`, with TFDS's own downloads."""

import functools
import http.server
import re
import threading

import pytest
from absl.testing import flagsaver

from sam_jax.datasets import catalog, prepare, tfds_files
from sam_jax.datasets.builders import birdsnap, fgvc_aircraft
from tests.datasets import archives


@pytest.fixture
def server(tmp_path):
  """Serves a directory over HTTP; the directory and its address."""
  directory = tmp_path / "served"
  directory.mkdir()
  handler = functools.partial(
    http.server.SimpleHTTPRequestHandler, directory=str(directory)
  )
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield directory, f"http://127.0.0.1:{running.server_port}"
    running.shutdown()


def run(data_dir, *names, **kwargs):
  # In a test no command line was parsed.
  if not prepare.flags.FLAGS.is_parsed():
    prepare.flags.FLAGS(["prepare"])
  with flagsaver.flagsaver(data_dir=str(data_dir), **kwargs):
    prepare.main(["prepare", *names])


def test_download_and_manual_directory(server, tmp_path, monkeypatch, capsys):
  directory, address = server
  archives.write_fgvc_aircraft(directory)
  archives.write_birdsnap(directory)
  for module in (fgvc_aircraft, birdsnap):
    name = module._ARCHIVE.rpartition("/")[2]
    monkeypatch.setattr(module, "_ARCHIVE", f"{address}/{name}")
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


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (["cifar11"], "error: Data set 'cifar11' is unknown"),
    ([], "error: name the data sets"),
  ],
)
def test_what_it_does_not_know_is_refused(tmp_path, names, message):
  with pytest.raises(SystemExit, match=message):
    run(tmp_path, *names)


def test_missing_manual_files_are_one_message(tmp_path):
  with pytest.raises(SystemExit) as error:
    run(tmp_path, "imagenet2012")
  message = str(error.value)
  assert message.startswith("error: imagenet2012 can't be prepared: ")
  assert str(tmp_path) in message and "ILSVRC2012_img_train.tar" in message


def test_small_sets_are_decoded_at_once(tmp_path):
  run(tmp_path, "digits")
  decoded = tmp_path / "sam_jax_cache" / "decoded" / "digits"
  assert {path.name for path in decoded.iterdir()} == {"train", "test"}


def test_help_names_the_files_that_users_must_have():
  for name in catalog.known_datasets():
    spec = catalog.dataset_spec(name)
    assert bool(spec.manual_files) == (f"\n  {name} " in prepare.__doc__)
    for file in re.findall(r"[\w-]+\.\w+|birdsnap/images", spec.manual_files):
      assert file in prepare.__doc__
