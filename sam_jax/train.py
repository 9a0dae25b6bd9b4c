"""Train a network with Sharpness-Aware Minimization.

python -m sam_jax.train --config=configs/digits.py:sam --config.sam.rho=0.2
  --workdir=runs/digits

Run it again with the same workdir to resume where it stopped. Exit codes: 0,
finished or stopped on request; 1, the run failed; 2, it could not start; 130,
interrupted before it trained, or by a second Ctrl-C.
"""

import gc
import logging
import sys
from typing import Any

from absl import flags

from sam_jax.config import cli
from sam_jax.config.schema import ConfigError
from sam_jax.runs import logging as run_logging
from sam_jax.runs import signals, watchdog

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of logs, checkpoints and results. Required."
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
  needed = ["config"] if _SUMMARY.value else ["config", "workdir"]
  cli.check_arguments(argv, *needed)
  run_logging.show_on_stderr()
  with signals.handled_by(signals.exit_at_once), watchdog.ending_together():
    _train()


def _train() -> None:
  # Imported late: wrong flags are reported without waiting for Orbax.
  import jax

  from sam_jax.analysis.hook import AnalysisHook
  from sam_jax.runs import compilation
  from sam_jax.runs.workdir import WorkdirLostError
  from sam_jax.training import build, loop
  from sam_jax.training.hooks import DivergedError

  # Let garbage collections, which tracing causes, and the last one at the end
  # leave out what was imported: they took a quarter of a small run's time.
  gc.freeze()
  config = _CONFIG.value
  _join_other_processes(jax)
  if _SUMMARY.value:
    cli.show(build.summary(config, jax.device_count()))
    return
  compilation.keep_compiled_programs(
    config.compilation_cache_dir, _WORKDIR.value
  )
  hooks = [AnalysisHook] if config.analysis.every_epochs else []
  try:
    loop.train_and_evaluate(config, _WORKDIR.value, hooks)
  except (DivergedError, WorkdirLostError) as error:
    raise SystemExit(f"error: {error}") from error


def _join_other_processes(jax: Any) -> None:
  """Connect the processes of the run; only the first one logs."""
  from sam_jax.runs import distributed

  try:
    distributed.initialize(
      _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
  except ConfigError:
    raise
  except ValueError as error:
    cli.refuse(str(error))
  except RuntimeError as error:
    reason = str(error).splitlines()[0]
    sys.exit(f"error: the other processes can't be reached: {reason}")
  if jax.process_index() != 0:
    logging.getLogger("sam_jax").setLevel(logging.WARNING)


if __name__ == "__main__":
  cli.run(main)
