"""Several processes of one run: how they connect, and what they must share."""

import faulthandler
import os
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from sam_jax.config.schema import ConfigError, flatten, host_fields

# The address that JAX finds itself. Hosts of a TPU pod must pass it: only a
# server inside Google knows that there are several of them.
AUTO = "auto"

# Variables that srun and mpirun set: the number of processes that they started,
# and those by which JAX finds the other processes. SLURM_NTASKS alone is the
# size of an allocation, in which only one shell may run.
_SIZE_VARIABLES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_FINDING_VARIABLES = ("SLURM_PROCID", "OMPI_MCA_orte_hnp_uri")

# The variable that GKE sets on the hosts of a TPU.
_TPU_HOSTS_VARIABLE = "TPU_WORKER_HOSTNAMES"

# JAX ends a process this long after another one died, by SIGABRT and with a
# message about it. Without this a collective operation would wait forever.
_HEARTBEAT_SECONDS = 30


def initialize(
  coordinator_address: str | None,
  num_processes: int | None,
  process_id: int | None,
) -> None:
  """Connect the processes of a run; call it before any other use of JAX.

  Without arguments it connects only in the environment of a cluster that
  started several processes (SLURM, Open MPI, GKE), where JAX finds the values.

  Args:
    coordinator_address: host:port of process 0. "auto", for example on a TPU
      pod, lets JAX find it and the other two values.
    num_processes: Number of processes of the run.
    process_id: Index of this process, from 0.

  Raises:
    ValueError: Only some arguments are given, or none are given where JAX
      cannot find them.
    RuntimeError: The other processes did not answer.
  """
  given = {
    "coordinator_address": coordinator_address,
    "num_processes": num_processes,
    "process_id": process_id,
  }
  missing = [name for name, value in given.items() if value is None]
  if coordinator_address == AUTO:
    _find_other_processes()
  elif not missing:
    _initialize(**given)
  elif len(missing) < len(given):
    raise ValueError(
      "Training on several processes needs --coordinator_address,"
      f" --num_processes and --process_id; missing: {', '.join(missing)}."
    )
  elif _is_cluster(os.environ):
    _find_other_processes()
  elif jax.process_count() > 1:
    raise ValueError(
      f"This is one of {jax.process_count()} hosts of a TPU pod: start training"
      f" on all of them, with --coordinator_address={AUTO}."
    )


def environment_of_one(environment: Mapping[str, str]) -> dict[str, str]:
  """Return an environment in which a process does not join other processes.

  Args:
    environment: Environment variables of this process, which srun or mpirun may
      have started as one of several.

  Raises:
    ValueError: This is one of several hosts of a TPU, whose chips only work
      together.
  """
  if "," in environment.get(_TPU_HOSTS_VARIABLE, ""):
    raise ValueError(
      "the hosts of a TPU pod train every run together"
      f" ({_TPU_HOSTS_VARIABLE} names several)."
    )
  left_out = _SIZE_VARIABLES + _FINDING_VARIABLES
  return {k: v for k, v in environment.items() if k not in left_out}


def check_same(config: ConfigDict, workdir: epath.PathLike) -> None:
  """Check that all processes were started with one config and one workdir.

  Every process must call it. Without the check, processes with different
  configs would silently train networks that drift apart.

  Args:
    config: Config of this process.
    workdir: Workdir of this process.

  Raises:
    ConfigError: They differ; on every process, the message lists how.
  """
  if jax.process_count() == 1:
    return
  values = {f"config.{name}": v for name, v in flatten(config.to_dict())}
  for name in host_fields():
    del values[f"config.{name}"]
  values["--workdir"] = os.fspath(workdir)
  codes = [zlib.crc32(f"{k}={v!r}".encode()) for k, v in values.items()]
  # Compare one number first: the codes can be gathered only if all processes
  # have the same number of them.
  whole = zlib.crc32(np.array(codes, np.uint32).tobytes())
  counts, wholes = _gather([len(codes), whole]).T
  if (wholes == whole).all():
    return
  if (counts != len(codes)).any():
    raise ConfigError("The processes of this run have different code.")
  is_different = (_gather(codes) != np.array(codes, np.uint32)).any(axis=0)
  compared = zip(values.items(), is_different, strict=True)
  different = [f"{k} (here {v!r})" for (k, v), differs in compared if differs]
  raise ConfigError(
    f"The processes of this run differ in {', '.join(different)}: start all of"
    " them with the same command."
  )


def _gather(numbers: list[int]) -> np.ndarray:
  """Return the numbers of all processes, uint32 [processes, n]."""
  return multihost_utils.process_allgather(np.array(numbers, np.uint32))


def _find_other_processes() -> None:
  try:
    _initialize()
  except ValueError as error:
    raise ValueError(
      "JAX finds no other processes of a TPU pod or a cluster here"
      f" ({error}) Give --coordinator_address=host:port, --num_processes and"
      " --process_id."
    ) from error


def _initialize(**kwargs: Any) -> None:
  # The stack of the thread that JAX interrupts does not show the cause.
  faulthandler.disable()
  jax.distributed.initialize(
    heartbeat_timeout_seconds=_HEARTBEAT_SECONDS, **kwargs
  )


def _is_cluster(environment: Mapping[str, str]) -> bool:
  """Return True if the environment announces several processes."""
  sizes = [environment.get(name, "1") for name in _SIZE_VARIABLES]
  hosts = environment.get(_TPU_HOSTS_VARIABLE, "")
  return any(size.isdigit() and int(size) > 1 for size in sizes) or (
    "," in hosts
  )
