"""Train a network with Sharpness-Aware Minimization.

python -m sam_jax.train --config=configs/digits.py:sam --config.sam.rho=0.2
  --workdir=runs/digits

Run it again with the same workdir to resume where it stopped. Exit codes: 0,
finished or stopped on request; 1, the run failed; 2, it could not start.
"""

import logging
import os
import sys
from typing import Any

from absl import app, flags

from sam_jax.config import cli
from sam_jax.runs import logs

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the run: logs, checkpoints, results."
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator_address",
  None,
  "host:port of process 0, on several processes; auto: found on a TPU pod.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", None, "Processes of the run; found on clusters."
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "This process, from 0; found on clusters."
)
_SUMMARY = flags.DEFINE_bool(
  "summary", False, "Only print the network's parameters and FLOPs."
)


def main(argv: list[str]) -> None:
  """Run the training loop that the flags ask for."""
  if len(argv) > 1:
    cli.refuse(f"Unexpected arguments: {' '.join(argv[1:])}")
  needed = ["config"] if _SUMMARY.value else ["config", "workdir"]
  for name in needed:
    if not flags.FLAGS[name].value:
      cli.refuse(f"--{name} is missing, see: python -m sam_jax.train --help")
  logs.show_on_stderr()
  # Imported late: a mistyped flag is reported without waiting for JAX.
  import jax

  from sam_jax.analysis.hook import AnalysisHook
  from sam_jax.config.schema import ConfigError
  from sam_jax.datasets.catalog import DatasetError
  from sam_jax.runs.workdir import WorkdirLostError
  from sam_jax.training import build, loop
  from sam_jax.training.hooks import DivergedError

  config = _CONFIG.value
  _cache_compiled_programs(jax, config.compilation_cache_dir)
  _join_other_processes(jax)
  try:
    if _SUMMARY.value:
      print(build.summary(config, jax.device_count()))
      return
    hooks = [AnalysisHook] if config.analysis.every_epochs else []
    loop.train_and_evaluate(config, _WORKDIR.value, hooks)
  except (ConfigError, DatasetError) as error:
    cli.refuse(str(error))
  except DivergedError as error:
    sys.exit(f"error: {error}")
  except (WorkdirLostError, jax.errors.JaxRuntimeError) as error:
    if jax.process_count() > 1:
      _leave_other_processes(jax.process_index(), error)
    if isinstance(error, WorkdirLostError):
      sys.exit(f"error: {error}")
    raise


def _join_other_processes(jax: Any) -> None:
  """Connect the processes of the run; only the first one logs."""
  from sam_jax.runs import distributed

  try:
    distributed.initialize(
      _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
  except ValueError as error:
    cli.refuse(str(error))
  except RuntimeError as error:
    sys.exit(f"error: the other processes did not answer: {error}")
  if jax.process_index() != 0:
    logging.getLogger("sam_jax").setLevel(logging.WARNING)


def _leave_other_processes(process: int, error: Exception) -> None:
  """End this process when it can't continue together with the others."""
  print(
    f"error: process {process} lost the others, or failed itself:"
    f" {str(error).splitlines()[0]} Start all processes again with the same"
    " command: they resume from the last checkpoint.",
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)  # a normal exit would wait for the others to say good-bye


def _cache_compiled_programs(jax: Any, directory: str) -> None:
  """Let later runs of the same programs skip their compilation."""
  if directory:
    path = os.path.expanduser(directory)
    jax.config.update("jax_compilation_cache_dir", path)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


if __name__ == "__main__":
  app.run(main, flags_parser=cli.parse_flags)
