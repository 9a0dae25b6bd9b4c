r"""Train several runs that differ only in numbers side by side, in one program.

python -m sam_jax.train_together \
  --run="--workdir=runs/a --config=configs/digits.py:sam" \
  --run="--workdir=runs/b --config=configs/digits.py:sam --config.seed=1"

`python -m sam_jax.sweep --together` starts it. Run it again to resume; each run
also resumes alone, with sam_jax.train. A run that fails does not end the
others. Exit codes are those of sam_jax.train: 1 or 2 if a run failed.
"""

import shlex
import sys

from absl import flags
from ml_collections import ConfigDict

from sam_jax.config import cli
from sam_jax.config.schema import ConfigError
from sam_jax.runs import groups, signals, watchdog
from sam_jax.runs import logging as run_logging

_RUNS = flags.DEFINE_multi_string(
  "run",
  [],
  "Flags --workdir, --config and --config.FIELD of one run. Required; repeat it"
  " for more.",
)


def main(argv: list[str]) -> None:
  """Check the runs, and train them."""
  cli.check_arguments(argv, "run")
  run_logging.show_on_stderr()
  with signals.handled_by(signals.exit_at_once), watchdog.ending_together():
    runs = [_parse(text) for text in _RUNS.value]
    _check([config for config, _ in runs])
    sys.exit(_train(runs))


def _parse(text: str) -> tuple[ConfigDict, str]:
  """Return the config and the workdir of a run.

  Raises:
    ConfigError: A flag is missing or wrong.
  """
  values = flags.FlagValues()
  config = cli.define_config(values)
  workdir = flags.DEFINE_string("workdir", None, "", flag_values=values)
  try:
    arguments = shlex.split(text)
  except ValueError as error:  # such as a quotation without an end
    raise ConfigError(f"--run={text} can't be split: {error}.") from error
  rest = cli.parse(values, ["", *arguments])[1:]
  if rest or not workdir.value or not config.value:
    raise ConfigError(f"--run={text} must have --workdir, --config and fields.")
  return config.value, workdir.value


def _check(configs: list[ConfigDict]) -> None:
  """Check that one program can train the runs.

  Raises:
    ConfigError: It can't.
  """
  if len({groups.program_of(config) for config in configs}) > 1:
    raise ConfigError(
      "These runs need several programs: fields other than numbers, or numbers"
      " that are 0 in one of them, differ. Train them alone."
    )
  for config in configs:
    groups.check(config)


def _train(runs: list[tuple[ConfigDict, str]]) -> int:
  """Train the runs; return the exit code."""
  import jax

  from sam_jax.analysis.hook import AnalysisHook
  from sam_jax.datasets.catalog import DatasetError
  from sam_jax.runs import compilation
  from sam_jax.training import together

  config, workdir = runs[0]
  compilation.keep_compiled_programs(config.compilation_cache_dir, workdir)
  if jax.process_count() > 1:
    raise ConfigError("Runs that train together need a single process.")
  hooks = [AnalysisHook] if config.analysis.every_epochs else []
  errors = together.train_and_evaluate(runs, hooks)
  if all(isinstance(error, ConfigError | DatasetError) for error in errors):
    return 2 if errors else 0
  return 1


if __name__ == "__main__":
  cli.run(main)
