"""The picture of a batch."""

import subprocess
import sys

import numpy as np
from PIL import Image
from processes import REPOSITORY


def show(output, *arguments):
  return subprocess.run(
    [
      *(sys.executable, "scripts/show_batch.py"),
      *("--config=configs/digits.py", f"--output={output}", *arguments),
    ],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
  )


def test_grid_of_a_batch(data_dir, tmp_path):
  output = tmp_path / "batch.png"
  process = show(output, f"--config.dataset.data_dir={data_dir}", "--count=20")
  assert process.returncode == 0, process.stderr
  image = np.array(Image.open(output))
  assert image.shape == (3 * (96 + 18), 8 * 100, 3)
  tile = image[16:112:12, 2:98:12]  # the first: 8 x 8 pixels, 12 times as large
  assert (tile[..., 0] == tile[..., 2]).all()
  assert tile.min() == 0 and tile.max() == 255
  assert (image[-90:, -300:] == 255).all()  # 4 places are empty


def test_unknown_data_is_one_line(tmp_path):
  process = show(
    tmp_path / "batch.png",
    "--config.dataset.name=cifar10",
    f"--config.dataset.data_dir={tmp_path}",
  )
  assert process.returncode != 0
  assert process.stderr.splitlines()[-1].startswith("error: Data set 'cifar10'")
  assert "Traceback" not in process.stderr
