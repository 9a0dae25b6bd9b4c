"""The picture of a batch, from the command line."""

import numpy as np
import pytest
from PIL import Image

from tests.in_process import run_script


def show(output, *arguments):
  run_script(
    "show_batch",
    *("--config=configs/digits.py", f"--output={output}", *arguments),
  )


def test_grid_of_a_batch(data_dir, tmp_path, capsys):
  output = tmp_path / "batch.png"
  # Of the first 20 labels some are wrong: there is a second line.
  show(output, f"--config.dataset.data_dir={data_dir}", "--count=20")
  assert capsys.readouterr().out == f"20 images of step 0: {output}\n"
  image = np.array(Image.open(output))
  assert image.shape == (3 * (112 + 38), 8 * 116, 3)
  tile = image[36:148:14, 2:114:14]  # 8 x 8 pixels, 14 times as large
  assert (tile[..., 0] == tile[..., 2]).all()
  assert tile.min() == 0
  assert tile.max() == 255
  assert (image[-110:, -400:] == 255).all()  # 4 places are empty


def refusal(capsys, output, *arguments):
  with pytest.raises(SystemExit) as error:
    show(output, *arguments)
  assert error.value.code == 2
  return capsys.readouterr().err


def test_unknown_data_is_one_line(tmp_path, capsys):
  error = refusal(
    capsys,
    tmp_path / "batch.png",
    "--config.dataset.name=cifar10",
    f"--config.dataset.data_dir={tmp_path}",
  )
  assert error.splitlines()[-1].startswith("error: Data set 'cifar10' is not")


def test_output_that_is_no_png_file(tmp_path, capsys):
  (tmp_path / "a.png").mkdir()
  for name, problem in (
    ("a.png", "is a directory."),
    ("a.jpg", "must be a .png file."),
  ):
    error = refusal(capsys, tmp_path / name)
    assert error == f"error: --output={tmp_path / name} {problem}\n"
