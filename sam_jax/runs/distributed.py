"""Joining the other processes of a run, and leaving when one of them fails."""

import faulthandler
import os
import zlib
from collections.abc import Mapping

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from sam_jax.config.schema import ConfigError, flatten

# Stands for an address that JAX finds itself. Hosts of a TPU pod must say it:
# nothing but a server inside Google tells that they are several.
AUTO = "auto"

# What srun and mpirun tell the processes that they start, how many there are,
# and what JAX finds the others by. SLURM_NTASKS alone is an allocation's size,
# in which nothing but one shell may run.
_SIZE_VARIABLES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_FINDING_VARIABLES = ("SLURM_PROCID", "OMPI_MCA_orte_hnp_uri")

# What GKE sets on the hosts of a TPU.
_TPU_HOSTS_VARIABLE = "TPU_WORKER_HOSTNAMES"

# Fields that each host may have a value of its own for.
_FIELDS_OF_A_HOST = ("dataset.data_dir", "compilation_cache_dir")

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
      missing where JAX can't find them.
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
  elif _is_cluster(os.environ):
    _find_the_others()
  elif jax.process_count() > 1:
    raise ValueError(
      f"This is one of {jax.process_count()} hosts of a TPU pod: start training"
      f" on all of them, with --coordinator_address={AUTO}."
    )


def environment_of_one(environment: Mapping[str, str]) -> dict[str, str]:
  """Returns the environment of a process that is to join no other.

  Args:
    environment: That of one of several processes, or of any other.

  Raises:
    ValueError: This is one of several hosts of a TPU, whose chips work only
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
  """Checks that the processes of a run were started for the same run.

  All of them must call it. Without it they would train networks that drift
  apart, each by its own config, and nobody would notice.

  Args:
    config: The config of this process.
    workdir: The workdir of this process.

  Raises:
    ConfigError: They were not; every process says what differs.
  """
  if jax.process_count() == 1:
    return
  values = {f"config.{name}": v for name, v in flatten(config.to_dict())}
  for name in _FIELDS_OF_A_HOST:
    del values[f"config.{name}"]
  values["--workdir"] = os.fspath(workdir)
  codes = [zlib.crc32(f"{k}={v!r}".encode()) for k, v in values.items()]
  whole = zlib.crc32(np.array(codes, np.uint32).tobytes())
  counts, wholes = _gather([len(codes), whole]).T
  if (wholes == whole).all():
    return
  if (counts != len(codes)).any():
    raise ConfigError("The processes of this run have different code.")
  is_different = (_gather(codes) != np.array(codes, np.uint32)).any(axis=0)
  named = zip(values.items(), is_different, strict=True)
  different = [f"{k} (here {v!r})" for (k, v), differs in named if differs]
  raise ConfigError(
    f"The processes of this run differ in {', '.join(different)}: start all of"
    " them with the same command."
  )


def _gather(numbers: list[int]) -> np.ndarray:
  """Returns every process's numbers, uint32 [processes, n]."""
  return multihost_utils.process_allgather(np.array(numbers, np.uint32))


def _find_the_others() -> None:
  try:
    _initialize()
  except ValueError as error:
    raise ValueError(
      "JAX finds no other processes, on a TPU pod or a cluster, here"
      f" ({error}) Give --coordinator_address=host:port, --num_processes and"
      " --process_id."
    ) from error


def _initialize(**kwargs) -> None:
  # The stack of the thread that JAX interrupts tells nothing of the cause.
  faulthandler.disable()
  jax.distributed.initialize(
    heartbeat_timeout_seconds=_HEARTBEAT_SECONDS, **kwargs
  )


def _is_cluster(environment: Mapping[str, str]) -> bool:
  """Whether an environment promises several processes."""
  sizes = [environment.get(name, "1") for name in _SIZE_VARIABLES]
  hosts = environment.get(_TPU_HOSTS_VARIABLE, "")
  return any(size.isdigit() and int(size) > 1 for size in sizes) or (
    "," in hosts
  )
