"""The picture of a batch."""

import numpy as np
import pytest
from PIL import Image

from tests.in_process import load_script, run_script


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
  assert image.shape == (3 * (96 + 30), 8 * 100, 3)
  tile = image[28:124:12, 2:98:12]  # the first: 8 x 8 pixels, 12 times as large
  assert (tile[..., 0] == tile[..., 2]).all()
  assert tile.min() == 0 and tile.max() == 255
  assert (image[-90:, -300:] == 255).all()  # 4 places are empty


def test_lines_of_mixed_and_wrong_labels():
  describe = load_script("show_batch")["describe"]
  targets = np.array([[1, 0, 0], [0.3, 0.7, 0], [0, 0, 1]], np.float32)
  batch = {"target": targets, "clean_label": np.array([0, 1, 1])}
  assert describe(batch, ["airplane", "automobile", "truck"]) == [
    ["airplane"],
    ["70% automobile", "30% airplane"],
    ["truck", "truly automobile"],
  ]


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
  for name in ("a.png", "a.jpg"):
    error = refusal(capsys, tmp_path / name)
    assert error == f"error: --output={tmp_path / name} must be a .png file.\n"
