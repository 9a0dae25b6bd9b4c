"""Command lines: what they set, and one line for each mistake."""

import os
import subprocess
import sys

import pytest
from absl import flags

from sam_jax.config import cli
from sam_jax.config.schema import FIELDS, ConfigError, validate_config
from sam_jax.datasets.catalog import DatasetError
from sam_jax.runs.workdir import WorkdirLostError
from tests.processes import REPOSITORY

DIGITS = "--config=configs/digits.py"


def test_overrides_set_fields():
  config = cli.read_config(
    [
      "--config.sam.rho=0.25",
      DIGITS + ":sam",
      "--config.seed=3",
      "--config.seed=4",
      "-config.num_epochs=5",
      "--config.sam.m=None",
      "--config.pretrained=None",
      "--config.batch_size",
      "64",
      "--config.sam.adaptive",
      "--noconfig.optimizer.nesterov",
      "--config.eval_on_train=1",
      "--config.optimizer.learning_rate=1",
      "--config.notes=a = b",
    ]
  )
  assert config.sam.rho == 0.25
  assert (config.seed, config.num_epochs, config.batch_size) == (4, 5, 64)
  assert config.sam.m is None
  assert config.pretrained is None
  assert config.sam.adaptive is True
  assert config.optimizer.nesterov is False
  assert config.eval_on_train is True
  assert isinstance(config.optimizer.learning_rate, float)
  assert config.notes == "a = b"
  assert config.num_epochs == 5
  assert config.dataset.label_noise.rate == 0.4  # of the file
  assert config.is_locked


@pytest.mark.parametrize(
  ("text", "value"),
  [
    ("(1,2)", (1, 2)),
    ("1,2", (1, 2)),
    ("[1,2]", (1, 2)),
    ("(2,)", (2,)),
    ("2", (2,)),
    ("()", ()),
  ],
)
def test_tuples(text, value):
  config = cli.read_config(
    [DIGITS, f"--config.keep_checkpoints_at_epochs={text}"]
  )
  assert config.keep_checkpoints_at_epochs == value
  validate_config(config, 1)


@pytest.mark.parametrize(
  ("text", "value"),
  [
    ("wandb", ("wandb",)),
    ("wandb,", ("wandb",)),
    ("wandb,my_loggers:Lines", ("wandb", "my_loggers:Lines")),
    ("('wandb','mlflow')", ("wandb", "mlflow")),
  ],
)
def test_names_in_tuples_need_no_quotes(text, value):
  config = cli.read_config([DIGITS, f"--config.log_to={text}"])
  assert config.log_to == value


def test_options_are_free_and_typed_by_their_text():
  config = cli.read_config(
    [
      DIGITS,
      "--config.sam.options.sigma=0.5",
      "--config.sam.options.kind=cosine",
      "--config.sam.options.kind=ema",
      "--config.sam.options.is_on=true",
      "--config.optimizer.options={'b1': 0.95, 'b2': None}",
      "--config.optimizer.options.betas=(0.9,0.99)",
      "--config.model.options.code=__import__('os').getpid()",
    ]
  )
  assert config.sam.options.to_dict() == {
    "sigma": 0.5,
    "kind": "ema",
    "is_on": True,
  }
  assert config.optimizer.options.to_dict() == {
    "b1": 0.95,
    "b2": None,
    "betas": (0.9, 0.99),
  }
  # Nothing on a command line is executed.
  assert config.model.options.code == "__import__('os').getpid()"
  assert '"sigma": 0.5' in config.to_json()


def test_an_option_of_the_file_may_get_another_type(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text(
    "from configs import digits\n"
    "def get_config():\n"
    "  config = digits.get_config()\n"
    "  config.sam.options.sigma = 1\n"
    "  return config\n"
  )
  config = cli.read_config(
    [f"--config={file}", "--config.sam.options.sigma=auto"]
  )
  assert config.sam.options.sigma == "auto"


MISTAKES = [
  (["--config="], "--config= must name a file, such as configs/digits.py:sam."),
  (["--config=configs"], "--config=configs must name a file"),
  (["--config=configs/nope.py"], "--config=configs/nope.py: there is no such"),
  (["--config", "configs/cifra.py"], "Did you mean configs/cifar.py?"),
  ([DIGITS + ":adam"], "--config=configs/digits.py: Unknown variant 'adam'"),
  ([DIGITS, "--config.sam.roh=1"], "Did you mean --config.sam.rho?"),
  ([DIGITS, "--config.sam.roh=None"], "Did you mean --config.sam.rho?"),
  ([DIGITS, "--config.sam=0.1"], "Unknown field --config.sam. It is a group:"),
  ([DIGITS, "--config.sam.m=2.0"], "m=2.0 must be an integer, or None."),
  ([DIGITS, "--config.sam.every=two"], "every=two must be an integer."),
  ([DIGITS, "--config.sam.rho=big"], "rho=big must be a number."),
  ([DIGITS, "--config.sam.rho=-1"], "--config.sam.rho=-1 must be >= 0."),
  ([DIGITS, "--config.sam.rho=nan"], "--config.sam.rho=nan must be >= 0."),
  ([DIGITS, "--config.sam.adaptive=maybe"], "must be true or false"),
  (
    [DIGITS, "--config.seed=None"],
    "--config.seed=None must be an integer, such as 0.",
  ),
  ([DIGITS, "--config.sam.mask=nrom"], "mask=nrom is unknown. Known: all,"),
  ([DIGITS, "--config.sam.mask=nrom"], "Did you mean 'norm'?"),
  ([DIGITS, "--config.seed"], "--config.seed must be --config.seed=VALUE."),
  ([DIGITS, "--noconfig.seed"], "--noconfig.seed must be --config.seed=VALUE."),
  ([DIGITS, "--noconfig.remat=1"], "Unknown field --config.remat."),
  ([DIGITS, "--config.sam.options.a.b=1"], "Unknown field"),
  ([DIGITS, "--config.sam.options.a={}"], "a={} must be a number, a string"),
  ([DIGITS, "--config.sam.options=3"], "must be a dictionary"),
  (
    [DIGITS, "--sam.rho=1"],
    "Unknown flag --sam.rho. Did you mean --config.sam",
  ),
  ([DIGITS, "--wrokdir=x"], "Unknown flag --wrokdir. See --help."),
  ([DIGITS, "--confg=x"], "Did you mean --config?"),
  (["--config.sam.rho=1"], "--config.sam.rho needs --config=FILE."),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_one_line(arguments, message):
  with pytest.raises(ConfigError) as error:
    cli.read_config(arguments)
  assert message in str(error.value)
  assert "\n" not in str(error.value)


GUESSES = [
  ("optimizer.lr", "optimizer.learning_rate"),
  ("lr", "optimizer.learning_rate"),
  ("learning_rate", "optimizer.learning_rate"),
  ("optimizer.wd", "optimizer.weight_decay"),
  ("rho", "sam.rho or --config.analysis.rho"),
  ("schedul", "sam.schedule or --config.optimizer.schedule"),
  ("warmup_epoch", "sam.warmup_epochs or --config.optimizer.warmup_epochs"),
  ("optimizer.schedul", "optimizer.schedule"),
  ("sam.roh", "sam.rho"),
  ("epochs", "num_epochs"),
  ("batch", "batch_size"),
  ("batchsize", "batch_size"),
  ("modelname", "model.name"),
  ("model.normalisation", "model.normalization"),
  ("sam.learning_rate", "optimizer.learning_rate"),
  ("analisys.rho", "analysis.rho"),
  ("sam.method_options", "sam.options"),
]


@pytest.mark.parametrize(("name", "meant"), GUESSES)
def test_guesses_of_fields(name, meant):
  with pytest.raises(ConfigError, match=f"Did you mean --config.{meant}\\?"):
    cli.read_config([DIGITS, f"--config.{name}=1"])


@pytest.mark.parametrize(
  ("name", "remedy"),
  [
    ("my_tag", "See --help_config."),
    ("wibble.wobble", "See --help_config."),
    ("augment.xyz", "See --help_config."),
    (
      "optimizer.beta1",
      "An option of optimizer.name is --config.optimizer.options.beta1.",
    ),
  ],
)
def test_no_guess_is_better_than_an_odd_one(name, remedy):
  with pytest.raises(ConfigError) as error:
    cli.read_config([DIGITS, f"--config.{name}=1"])
  assert str(error.value) == f"Unknown field --config.{name}. {remedy}"


def test_fields_are_checked_before_the_file_is_executed(tmp_path):
  file = tmp_path / "config.py"
  file.write_text("raise SystemExit('executed')")
  with pytest.raises(ConfigError, match="must be a number"):
    cli.read_config([f"--config={file}", "--config.sam.rho=big"])


def test_what_follows_two_hyphens_is_no_override():
  values = flags.FlagValues()
  cli.define_config(values)
  rest = cli.parse(values, ["", DIGITS, "x", "--", "--config.seed=1"])
  assert rest == ["", "x", "--config.seed=1"]
  assert values["config"].value.seed == 0
  assert values["config"].config_filename == "configs/digits.py"


def test_overrides_in_a_file_of_flags(tmp_path):
  file = tmp_path / "flags"
  file.write_text(f"{DIGITS}\n--config.seed=7\n")
  assert cli.read_config([f"--flagfile={file}"]).seed == 7


def test_help_lists_every_field(capsys):
  with pytest.raises(SystemExit) as end:
    cli.read_config(["--help_config"])
  assert not end.value.code
  text = capsys.readouterr().out
  assert "--config.sam.rho=0.05  (a number >= 0)\n" in text
  assert "      Radius of the neighborhood; 0: no SAM.\n" in text
  assert "--config.optimizer.schedule=cosine  (one of cosine, expo" in text
  for name in FIELDS:
    assert f"--config.{name}=" in text
  assert max(map(len, text.splitlines())) < 120


@pytest.mark.parametrize("path", ["/proc/none", "/etc/hostname", "/proc/1"])
def test_directories_that_cannot_be_written_are_refused(path, capsys):
  with pytest.raises(SystemExit, match="2"):
    cli.make_directory("output", path)
  error = capsys.readouterr().err
  assert error.startswith(f"error: --output: {path} can't be written: ")


@pytest.mark.parametrize("kind", [ConfigError, DatasetError])
def test_errors_of_the_user_are_one_line_and_exit_code_2(kind, capsys):
  def main(argv):
    raise kind(f"{argv[0]} is wrong.")

  with pytest.raises(SystemExit, match="2"):
    cli.report_errors(main, ["this"])
  assert capsys.readouterr().err == "error: this is wrong.\n"


def test_workdir_that_cannot_be_read_is_one_line_and_exit_code_1():
  def main(argv):
    raise WorkdirLostError("the disk fails.")

  # A text as the code of SystemExit is printed, and the exit code is 1.
  with pytest.raises(SystemExit, match=r"^error: the disk fails\.$"):
    cli.report_errors(main, [])


def test_errors_of_the_program_are_not_hidden():
  def main(argv):
    raise ValueError(argv)

  with pytest.raises(ValueError):
    cli.report_errors(main, [])


def test_arguments_are_checked(capsys, monkeypatch):
  values = flags.FlagValues()
  flags.DEFINE_string("given", "x", "", flag_values=values)
  flags.DEFINE_string("missing", None, "", flag_values=values)
  values(["this"])
  monkeypatch.setattr(flags, "FLAGS", values)
  cli.check_arguments(["this"], "given")
  with pytest.raises(SystemExit, match="2"):
    cli.check_arguments(["this", "rho=1"])
  assert capsys.readouterr().err == "error: Unexpected arguments: rho=1\n"
  with pytest.raises(SystemExit, match="2"):
    cli.check_arguments(["this"], "given", "missing")
  assert capsys.readouterr().err == "error: --missing is missing, see --help.\n"


def test_a_command_that_runs(tmp_path):
  """The whole way, in a process of its own."""
  command = tmp_path / "command.py"
  command.write_text(
    '"""A command."""\n'
    "from absl import flags\n"
    "from sam_jax.config import cli\n"
    "config = cli.define_config()\n"
    "def main(argv):\n"
    "  cli.check_arguments(argv, 'config')\n"
    "  print(config.value.sam.rho)\n"
    "cli.run(main)\n"
  )

  def run(*arguments):
    return subprocess.run(
      [sys.executable, command, *arguments],
      cwd=tmp_path,
      env={"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"},
      capture_output=True,
      text=True,
    )

  # The config is not below tmp_path, but next to the package.
  done = run(DIGITS, "--config.sam.rho=0.3")
  assert (done.returncode, done.stdout) == (0, "0.3\n"), done.stderr
  done = run(DIGITS, "--config.lr=1")
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr == (
    "error: Unknown field --config.lr. Did you mean"
    " --config.optimizer.learning_rate?\n"
  )
  done = run("--help")
  assert "--config: Config file" in done.stdout
  assert "--[no]help_config" in done.stdout
  assert "--config.sam.rho" not in done.stdout


def test_a_reader_may_take_a_part_of_what_is_shown(monkeypatch):
  reader, writer = os.pipe()
  os.close(reader)
  with os.fdopen(writer, "w") as stdout:
    monkeypatch.setattr(sys, "stdout", stdout)
    cli.show("a table\n" * 100_000)
    cli.show("Plot: curves.png")
