"""Joining the other processes of a run, and leaving when one of them fails."""

import faulthandler
import os

import jax

# Stands for an address that JAX finds itself. Hosts of a TPU pod must say it:
# nothing but a server inside Google tells that they are several.
AUTO = "auto"

# What SLURM, Open MPI and GKE set; one process needs no coordination.
_SIZE_VARIABLES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
_TPU_HOSTS_VARIABLE = "TPU_WORKER_HOSTNAMES"

# JAX ends a process this long after another one died, by SIGABRT and with a
# message that says so: a collective alone would wait for ever.
_HEARTBEAT_SECONDS = 30


def initialize(
  coordinator_address: str | None,
  num_processes: int | None,
  process_id: int | None,
) -> None:
  """Connects the processes of a run; call it before any other use of JAX.

  Without arguments it does so only where the environment is that of a cluster
  with several processes (SLURM, Open MPI, GKE): JAX finds the rest there.

  Args:
    coordinator_address: host:port of process 0, or "auto" alone, for instance
      on a TPU pod: JAX finds it, and the rest.
    num_processes: Processes of the run.
    process_id: This one, from 0.

  Raises:
    ValueError: Some arguments are given and others are missing, or all are
      missing on one of several hosts of a TPU pod.
    RuntimeError: The other processes did not answer.
  """
  given = {
    "coordinator_address": coordinator_address,
    "num_processes": num_processes,
    "process_id": process_id,
  }
  missing = [name for name, value in given.items() if value is None]
  if coordinator_address == AUTO:
    _find_the_others()
  elif not missing:
    _initialize(**given)
  elif len(missing) < len(given):
    raise ValueError(
      "Training on several processes needs --coordinator_address,"
      f" --num_processes and --process_id; missing: {', '.join(missing)}."
    )
  elif _is_cluster():
    _initialize()
  elif jax.process_count() > 1:
    raise ValueError(
      f"This is one of {jax.process_count()} hosts of a TPU pod: start training"
      f" on all of them, with --coordinator_address={AUTO}."
    )


def _find_the_others() -> None:
  try:
    _initialize()
  except ValueError as error:
    raise ValueError(
      f"--coordinator_address={AUTO} finds no TPU pod and no cluster here"
      f" ({error}) Give host:port, --num_processes and --process_id."
    ) from error


def _initialize(**kwargs) -> None:
  # The stack of the thread that JAX interrupts tells nothing of the cause.
  faulthandler.disable()
  jax.distributed.initialize(
    heartbeat_timeout_seconds=_HEARTBEAT_SECONDS, **kwargs
  )


def _is_cluster() -> bool:
  """Whether the environment promises several processes."""
  sizes = [os.environ.get(name, "1") for name in _SIZE_VARIABLES]
  hosts = os.environ.get(_TPU_HOSTS_VARIABLE, "")
  return any(size.isdigit() and int(size) > 1 for size in sizes) or (
    "," in hosts
  )
