"""`python -m sam_jax.convert`, from flags to files and exit codes."""

import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from sam_jax.pretrained import flax_files
from sam_jax.pretrained.fitting import load_network
from sam_jax.pretrained.formats import read_checkpoint
from tests import in_process
from tests.models.golden_models import GOLDEN, Golden

OFFICIAL = GOLDEN / "ckpt_tiny" / "checkpoint_0"


def current_umask():
  mask = os.umask(0)
  os.umask(mask)
  return mask


def assert_official(path):
  _, variables, _ = load_network("efficientnet_tiny", read_checkpoint(path))
  jax.tree.map(
    np.testing.assert_array_equal,
    variables,
    Golden("efficientnet_tiny").variables(),
  )


def test_command(tmp_path):
  output = tmp_path / "new" / "tiny.msgpack"
  result = subprocess.run(
    [
      *(sys.executable, "-m", "sam_jax.convert", "--model=efficientnet-tiny"),
      *(f"--input={OFFICIAL}", f"--output={output}"),
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  assert (result.returncode, result.stderr) == (0, "")
  assert "70 parameter arrays" in result.stdout and str(output) in result.stdout
  assert_official(output)
  assert list(output.parent.iterdir()) == [output]
  assert output.stat().st_mode & 0o777 == 0o666 & ~current_umask()


@pytest.mark.parametrize(
  ("model", "source", "message"),
  [
    ("efficientnet_b0", OFFICIAL, "'Head_17/batch_normalization/bias'"),
    ("efficientnet_tiny", __file__, "not a Flax checkpoint"),
    ("efficientnet_tiny", "missing", "--input = 'missing' can't be read: "),
    ("efficientnet_tny", OFFICIAL, "Did you mean 'efficientnet_tiny'?"),
    ("", OFFICIAL, "--model is missing"),
  ],
)
def test_bad_input_is_refused(tmp_path, capsys, model, source, message):
  output = tmp_path / "out.msgpack"
  with pytest.raises(SystemExit) as error:
    in_process.run_script(
      "convert", f"--model={model}", f"--input={source}", f"--output={output}"
    )
  assert error.value.code == 2
  stderr = capsys.readouterr().err
  assert stderr.startswith("error: ") and stderr.count("\n") == 1
  assert message in stderr
  assert not output.exists()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "--model is missing, see --help."),
    (["--modle=a"], "Unknown flag --modle. Did you mean --model?"),
    (["checkpoint_0"], "Unexpected arguments: checkpoint_0"),
  ],
)
def test_bad_arguments_are_one_line(capsys, arguments, message):
  with pytest.raises(SystemExit) as error:
    in_process.run_script("convert", *arguments)
  assert error.value.code == 2
  assert capsys.readouterr().err == f"error: {message}\n"


def test_a_failed_write_keeps_the_older_file(tmp_path, capsys, monkeypatch):
  output = tmp_path / "model.msgpack"
  output.write_bytes(b"an older file")

  def fail(source, target):
    raise OSError(28, "No space left on device", str(target))

  monkeypatch.setattr("os.replace", fail)
  with pytest.raises(SystemExit) as error:
    in_process.run_script(
      *("convert", "--model=efficientnet_tiny"),
      *(f"--input={OFFICIAL}", f"--output={output}"),
    )
  assert error.value.code == 2
  assert (
    f"--output={output} can't be written: No space left on device."
    in capsys.readouterr().err
  )
  assert output.read_bytes() == b"an older file"
  assert list(tmp_path.iterdir()) == [output]


def test_a_signal_removes_the_unfinished_file(tmp_path, monkeypatch):
  def interrupted(variables):
    del variables
    yield b"the beginning of a file"
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    os.kill(os.getpid(), signal.SIGTERM)
    yield b"more"

  monkeypatch.setattr(flax_files, "serialize", interrupted)
  with pytest.raises(SystemExit) as error:
    in_process.run_script(
      *("convert", "--model=efficientnet_tiny"),
      *(f"--input={OFFICIAL}", f"--output={tmp_path / 'model.msgpack'}"),
    )
  assert error.value.code == 128 + signal.SIGTERM
  assert not list(tmp_path.iterdir())
