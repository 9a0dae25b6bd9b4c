"""Several processes of one run: how they connect, and what they must share."""

import contextlib
import faulthandler
import functools
import hashlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath

# JAX has no public interface to the store that all processes share, nor to what
# happens when one of them is lost.
from jax._src import distributed as jax_distributed
from jax._src.lib import _jax as jaxlib
from ml_collections import ConfigDict

from sam_jax.config.schema import ConfigError, flatten, host_fields
from sam_jax.runs import watchdog

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

# A process that was killed, or whose machine is lost, is noticed after this
# time, or sooner by the end of a connection. Pods have JAX's default: one of
# many hosts may pause for a while.
_HEARTBEAT_SECONDS = 30
_HEARTBEAT_SECONDS_OF_PODS = 100

# How long a process waits for the others to join. The hosts of a TPU pod start
# one after another.
_JOIN_SECONDS = 50
_JOIN_SECONDS_OF_PODS = 300

# Packages whose version may change the numbers that a program computes.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")

# Names in the store can be used once: number them.
_numbers = itertools.count()

# The store needs a limit for waiting: 11 days. `watchdog` ends the process
# before if another one fails or is lost.
_UNLIMITED_MS = 10**9


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

  Once connected, a failure of one process ends all of them, see `watchdog`.

  Raises:
    ValueError: Only some arguments are given, an argument is wrong, or none are
      given where JAX cannot find them.
    ConfigError: The processes have different versions of the code.
    RuntimeError: The other processes can't be reached.
  """
  given: dict[str, Any] = {
    "coordinator_address": coordinator_address,
    "num_processes": num_processes,
    "process_id": process_id,
  }
  missing = [name for name, value in given.items() if value is None]
  if coordinator_address == AUTO:
    _find_other_processes(_JOIN_SECONDS_OF_PODS, _HEARTBEAT_SECONDS_OF_PODS)
  elif not missing:
    _check_place(**given)
    _join(_JOIN_SECONDS, _HEARTBEAT_SECONDS, **given)
  elif len(missing) < len(given):
    raise ValueError(
      "Training on several processes needs --coordinator_address,"
      f" --num_processes and --process_id; missing: {', '.join(missing)}."
    )
  elif is_cluster(os.environ):
    if _TPU_HOSTS_VARIABLE in os.environ:
      _find_other_processes(_JOIN_SECONDS_OF_PODS, _HEARTBEAT_SECONDS_OF_PODS)
    else:
      _find_other_processes(_JOIN_SECONDS, _HEARTBEAT_SECONDS)
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
    ConfigError: They differ, or have different numbers of devices; on every
      process, the message lists how.
  """
  if jax.process_count() == 1:
    return
  values = {f"config.{name}": v for name, v in flatten(config.to_dict())}
  for name in host_fields():
    del values[f"config.{name}"]
  values["--workdir"] = os.fspath(workdir)
  values["number of devices"] = jax.local_device_count()
  _check_same_values(values, "start all of them with the same command.")


def wait_for_others(whom: str) -> None:
  """Wait until all processes call this function, however long that takes.

  Collective operations give up after half a minute, and in silence.

  Args:
    whom: Reported after some seconds: "waiting for {whom}".
  """
  if jax.process_count() == 1:
    return
  with watchdog.waiting(lambda: whom):
    _store().wait_at_barrier(f"sam_jax/barrier_{next(_numbers)}", _UNLIMITED_MS)


def from_process_0(function: Callable[[], str], whom: str) -> str:
  """Call a function in process 0, and return its text in all processes.

  Every process must call it. What a function finds on a disk may change while
  several processes look for it.

  Args:
    function: Called in process 0 only.
    whom: Reported by the others after some seconds: "waiting for {whom}".
  """
  if jax.process_count() == 1:
    return function()
  client, name = _store(), f"sam_jax/value_{next(_numbers)}"
  if jax.process_index() == 0:
    text = function()
    client.key_value_set(name, text)
    return text
  with watchdog.waiting(lambda: whom):
    return client.blocking_key_value_get(name, timeout_in_ms=_UNLIMITED_MS)


def _check_same_values(values: Mapping[str, Any], remedy: str) -> None:
  """Raise a ConfigError in all processes if their values differ.

  The values go through the store that all processes share: a collective
  operation fails, or hangs, if the processes do not fit together.
  """
  state = jax_distributed.global_state
  index, client = state.process_id, _store()
  directory = f"sam_jax/comparison_{next(_numbers)}"
  get = functools.partial(
    client.blocking_key_value_get, timeout_in_ms=_UNLIMITED_MS
  )
  own = {name: repr(value) for name, value in values.items()}
  client.key_value_set(f"{directory}/{index}", json.dumps(own))
  with watchdog.waiting(_other_processes):
    if index == 0:
      all_values = [
        json.loads(get(f"{directory}/{i}")) for i in range(state.num_processes)
      ]
      found = "; ".join(_differences(all_values))
      client.key_value_set(f"{directory}/found", found)
    else:
      found = get(f"{directory}/found")
  if found:
    raise ConfigError(f"The processes of this run differ in {found}: {remedy}")


def _store() -> Any:
  """Return the store that all processes share."""
  client = jax_distributed.global_state.client
  if client is None:
    raise ConfigError(
      "jax.distributed.initialize() must be called before training on several"
      " processes."
    )
  return client


def _differences(all_values: Sequence[Mapping[str, str]]) -> list[str]:
  """Describe in what processes differ from process 0, once for each name."""
  first = all_values[0]
  names = dict.fromkeys(name for values in all_values for name in values)
  different = []
  for name in names:
    for process, values in enumerate(all_values):
      if values.get(name) != first.get(name):
        ours, theirs = (v.get(name, "nothing") for v in (first, values))
        different.append(
          f"{name} ({ours} on process 0, {theirs} on process {process})"
        )
        break
  return different


def _code() -> dict[str, str]:
  """Return versions of packages, and a digest of the code of this one."""
  digest = hashlib.sha256()
  root = pathlib.Path(__file__).parent.parent
  for file in sorted(root.rglob("*.py")):
    digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
  code = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return code | {"code of sam_jax": digest.hexdigest()[:8]}


def _check_place(
  coordinator_address: str, num_processes: int, process_id: int
) -> None:
  """Raise a ValueError if a process cannot take this place in a run."""
  if not 0 <= process_id < num_processes:
    raise ValueError(
      f"--process_id={process_id} must be between 0 and {num_processes - 1},"
      f" because --num_processes={num_processes}."
    )
  host, _, port = coordinator_address.rpartition(":")
  flag = f"--coordinator_address={coordinator_address}"
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise ValueError(
      f"{flag} must be host:port, with a port from 1 to 65535, for example"
      " localhost:1234."
    )
  try:
    socket.getaddrinfo(host.strip("[]"), int(port))
  except OSError as error:
    raise ValueError(
      f"{flag} has an unknown host: {error.strerror}. Give the name or the IP"
      " address of the machine of process 0."
    ) from error
  if process_id == 0 and _is_in_use(int(port)):
    raise ValueError(
      f"{flag} is in use by another program on this machine. Choose another"
      " port, the same one for all processes."
    )


def _is_in_use(port: int) -> bool:
  """Return True if a program listens on a port of this machine."""
  # JAX would share the port with another run: gRPC sets SO_REUSEPORT.
  try:
    socket.create_server(
      ("", port),
      family=socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET,
      dualstack_ipv6=socket.has_dualstack_ipv6(),
    ).close()
  except OSError:
    return True
  return False


def _find_other_processes(join_seconds: int, heartbeat_seconds: int) -> None:
  try:
    _join(join_seconds, heartbeat_seconds)
  except ValueError as error:
    raise ValueError(
      "JAX finds no other processes of a TPU pod or a cluster here"
      f" ({error}) Give --coordinator_address=host:port, --num_processes and"
      " --process_id."
    ) from error


def _join(join_seconds: int, heartbeat_seconds: int, **kwargs: Any) -> None:
  # The stack of the thread that JAX interrupts does not show the cause.
  faulthandler.disable()
  watchdog.report_lost_connections(_lost_connection)
  with (
    _client_with_callback(),
    watchdog.waiting(_other_processes, limit=join_seconds),
  ):
    jax.distributed.initialize(
      heartbeat_timeout_seconds=heartbeat_seconds,
      initialization_timeout=2 * join_seconds,  # `waiting` ends before
      **kwargs,
    )
  state = jax_distributed.global_state
  watchdog.start(state.client, state.process_id, state.num_processes)
  _check_same_values(_code(), "install the same versions on all machines.")


@contextlib.contextmanager
def _client_with_callback() -> Iterator[None]:
  """Give JAX's client a callback, see `watchdog.report_lost_connections`.

  Without one, the client logs a fatal error with a stack trace of C++.
  """
  create = jaxlib.get_distributed_runtime_client
  jaxlib.get_distributed_runtime_client = functools.partial(
    create, missed_heartbeat_callback=lambda status: None
  )
  try:
    yield
  finally:
    jaxlib.get_distributed_runtime_client = create


def _other_processes() -> str:
  """Describe the processes for which this one waits."""
  state = jax_distributed.global_state
  address, count = state.coordinator_address, state.num_processes
  if address is None:
    return "the cluster to name the other processes"
  if state.process_id and not _answers(address):
    others = "process 0"
  elif count == 2:
    others = f"process {1 - state.process_id}"
  else:
    others = "some of the processes"
  return f"{others} of {count} at {address}"


def _lost_connection() -> str:
  state = jax_distributed.global_state
  if state.process_id and not _answers(state.coordinator_address):
    lost = f"process 0 at {state.coordinator_address}"
  elif state.num_processes == 2:
    lost = f"process {1 - state.process_id}"
  else:
    lost = "another process"
  return (
    f"process {state.process_id} lost {lost}: it was killed, or its machine or"
    " the network failed."
  )


def _answers(address: str | None) -> bool:
  """Return True if process 0 accepts connections."""
  host, _, port = str(address).rpartition(":")
  try:
    socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
  except OSError:
    return False
  return True


def is_cluster(environment: Mapping[str, str]) -> bool:
  """Return True if the environment announces several processes."""
  sizes = [environment.get(name, "1") for name in _SIZE_VARIABLES]
  hosts = environment.get(_TPU_HOSTS_VARIABLE, "")
  return any(size.isdigit() and int(size) > 1 for size in sizes) or (
    "," in hosts
  )
