"""Wrong command lines and config files give one line that says why."""

import sys

import pytest
from absl import flags

from sam_jax.config import cli as command_line

DIGITS = "--config=configs/digits.py"


def parse(*arguments):
  """The config of a command line."""
  values, argv = flags.FlagValues(), ["train", *arguments]
  holder = command_line.define_config(values, argv)
  command_line.parse(values, argv)
  return holder.value


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--config="], "--config= can't be read: Path to config file is"),
    (["--config=configs/nope.py"], r"No such file .* 'configs/nope\.py'"),
    (["--config", "configs/nope.py"], "--config=configs/nope.py can't be read"),
    (["--config=configs"], "Is a directory"),
    (
      [DIGITS + ":adam"],
      r"^--config=configs/digits\.py: Unknown variant 'adam'",
    ),
    ([DIGITS, "--config.sam.roh=1"], r"Did you mean --config\.sam\.rho\?"),
    ([DIGITS, "--config.sam.roh=None"], r"Did you mean --config\.sam\.rho\?"),
    ([DIGITS, "--config.sam=0.1"], r"Unknown field --config\.sam\."),
    ([DIGITS, "--config.sam.m=2.0"], "m=2.0 must be an integer, or None"),
    ([DIGITS, "--config.sam.every=two"], "every=two must be an integer."),
    ([DIGITS, "--config.sam.rho=big"], r"rho=big must be a number\."),
    ([DIGITS, "--config.sam.adaptive=maybe"], "must be true or false"),
    ([DIGITS, "--config.seed=None"], r"--config\.seed=None must be an integer"),
    ([DIGITS, "--sam.rho=1"], r"Unknown flag --sam\.rho"),
  ],
)
def test_wrong_command_lines(arguments, message):
  with pytest.raises(command_line.CommandLineError, match=message) as error:
    parse(*arguments)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("def get_config(:", r"config\.py: SyntaxError: .*\(config\.py, line 1\)"),
    ("x = 1", r"config\.py has no function get_config"),
    ("\ndef get_config():\n  return 1 / 0", "line 3: ZeroDivisionError"),
    ("def get_config():\n  open('/nope')", "can't be read: .*'/nope'"),
    ("def get_config():\n  return {}", r"return a ConfigDict, not dict"),
    ("def get_config():\n  pass", r"return a ConfigDict, not NoneType"),
    (
      "from ml_collections import ConfigDict as get_config",
      r"The config lacks .*: let get_config start from default_config\(\)",
    ),
    (
      "import ml_collections\ndef get_config():\n"
      "  return ml_collections.ConfigDict({'sam': {'roh': 1}})",
      r"config\.sam\.roh .* Did you mean config\.sam\.rho\?",
    ),
  ],
)
def test_wrong_config_files(text, message, tmp_path, monkeypatch):
  monkeypatch.delitem(sys.modules, "config_config", raising=False)
  file = tmp_path / "config.py"
  file.write_text(text)
  with pytest.raises(command_line.CommandLineError, match=message) as error:
    parse(f"--config={file}")
  assert "\n" not in str(error.value)


def test_none_unsets_an_optional_field():
  config = parse(
    DIGITS, "--config.sam.m=None", "--config.pretrained=None", "--config.seed=3"
  )
  assert (config.sam.m, config.pretrained, config.seed) == (None, None, 3)


@pytest.mark.parametrize("path", ["/proc/none", "/etc/hostname", "/proc/1"])
def test_directories_that_cannot_be_written_are_refused(path, capsys):
  with pytest.raises(SystemExit, match="2"):
    command_line.make_directory("output", path)
  error = capsys.readouterr().err
  assert error.startswith(f"error: --output: {path} can't be written: ")
