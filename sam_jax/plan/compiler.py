"""Compile the programs of a config for a TPU slice, up to code generation.

libtpu compiles for slices that this machine does not have. It writes each
program with its memory before it generates code, which takes minutes more and
tells a plan nothing: there the process of a program ends itself. That process
is `python -m sam_jax.plan.compiler JOB`, a JSON file; it leaves in its
directory arrays.json and the files of libtpu, or error.txt.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
from typing import Any

from ml_collections import ConfigDict

from sam_jax.plan.chips import Slice, parse_topology
from sam_jax.plan.costs import Costs, costs
from sam_jax.plan.hlo import Program, parse

# Environment of libtpu on a machine without TPUs: it looks for none, and
# several processes may load it.
_ENVIRONMENT = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "JAX_PLATFORMS": "cpu",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
}
_HLO = ".after_optimizations.txt"
_MEMORY = ".after_optimizations-memory-usage-report.txt"
# Written last before code generation; missing for a program that does not fit.
_DONE = ".after_optimizations_after_buffer_assignment.txt"


class CompileError(Exception):
  """A program can't be compiled; one line says why."""


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A program of one device.

  Attributes:
    costs: What a step costs.
    bytes_by_kind: Bytes of the program's arguments by what they are for.
    total_bytes: All memory that it needs, temporary memory included.
    seconds: Time of its process.
  """

  costs: Costs
  bytes_by_kind: dict[str, int]
  total_bytes: int
  seconds: float

  @property
  def temporary_bytes(self) -> int:
    """Return the memory of activations, gradients and new results."""
    return self.total_bytes - sum(self.bytes_by_kind.values())


def libtpu_version() -> str | None:
  """Return the version of libtpu, None if it is not installed."""
  if importlib.util.find_spec("libtpu") is None:
    return None
  return importlib.metadata.version("libtpu")


def check_libtpu() -> None:
  """Raise CompileError if libtpu is not installed."""
  if libtpu_version() is None:
    raise CompileError(
      "--topology needs libtpu, the compiler for TPUs, which has wheels for"
      " Linux: pip install 'sam-jax[plan]'"
    )


def use_no_device() -> None:
  """Let this process compile for slices, before JAX looks for devices."""
  # Imported late: the command needs no devices.
  import jax

  os.environ.update(_ENVIRONMENT)
  jax.config.update("jax_platforms", "cpu")


def devices_of(tpu: Slice) -> list[Any]:
  """Return devices to compile for: those of a slice, in the order of a run.

  Raises:
    JaxRuntimeError: libtpu refuses the slice.
  """
  from jax.experimental import topologies

  options: dict[str, Any] = {"chips_per_host_bounds": list(tpu.host_sides)}
  if tpu.chip.axes == 3:
    options["chip_config_name"] = "megacore"  # one device a chip, as on pods
  topology = topologies.get_topology_desc(
    platform="tpu", topology_name=tpu.name, **options
  )
  devices: list[Any] = list(topology.devices)
  return sorted(devices, key=lambda device: device.process_index)


def compile_program(
  program: str, config: ConfigDict, tpu: Slice, directory: pathlib.Path
) -> Compiled:
  """Compile a program of a config in a process of its own.

  Args:
    program: One of `programs.programs_of`.
    config: A valid config.
    tpu: The slice.
    directory: Where to keep the text of the program.

  Raises:
    CompileError: libtpu refuses the slice or the program, or fails.
  """
  begin = time.monotonic()
  directory.mkdir(parents=True, exist_ok=True)
  job = directory / "job.json"
  fields = json.loads(config.to_json_best_effort())
  job.write_text(
    json.dumps({"program": program, "config": fields, "topology": tpu.name})
  )
  with (directory / "stderr.txt").open("w") as stderr:
    code = subprocess.run(
      [sys.executable, "-m", "sam_jax.plan.compiler", str(job)],
      env=os.environ | _ENVIRONMENT,
      stdout=stderr,
      stderr=stderr,
    ).returncode
  error = directory / "error.txt"
  if error.exists():
    raise CompileError(error.read_text())
  if code or not list(directory.glob(f"*{_HLO}")):
    lines = (directory / "stderr.txt").read_text().splitlines() or [""]
    raise CompileError(
      f"{program} for {tpu.name}: the compiler ended with exit code {code} and"
      f" {lines[-1]!r}."
    )
  return read(directory, tpu.num_devices, time.monotonic() - begin)


def read(
  directory: pathlib.Path, num_devices: int, seconds: float = 0.0
) -> Compiled:
  """Read what the process of a program left in its directory."""
  (hlo_file,) = directory.glob(f"*{_HLO}")
  (memory_file,) = directory.glob(f"*{_MEMORY}")
  program = parse(hlo_file.read_text())
  arrays = json.loads((directory / "arrays.json").read_text())
  return Compiled(
    costs=costs(program, num_devices),
    bytes_by_kind=_bytes_by_kind(program, arrays),
    total_bytes=_total_bytes(memory_file.read_text()),
    seconds=seconds,
  )


def _bytes_by_kind(program: Program, arrays: dict[str, Any]) -> dict[str, int]:
  """Return the bytes of arguments; those of no known kind are the batch.

  Arrays of one type and shape have one layout.
  """
  arguments = [
    shape
    for each in program.entry.instructions
    if each.opcode == "parameter"
    for shape in each.shapes
  ]
  padded = {(s.dtype, s.dims): s.padded_bytes for s in arguments}
  found = {}
  for kind, shapes in arrays.items():
    found[kind] = sum(
      padded.get((dtype, tuple(dims)), 0) for dtype, dims in shapes
    )
  rest = sum(shape.padded_bytes for shape in arguments) - sum(found.values())
  return found | {"batch": max(rest, 0)}


def _total_bytes(report: str) -> int:
  """Return the bytes of HBM in a memory report of libtpu."""
  match = re.search(r"\(color=0\)\s+Total bytes: (\d+)", report)
  if match is None:
    raise CompileError(
      f"The memory report of libtpu {libtpu_version()} has another form."
    )
  return int(match[1])


def main(job_file: str) -> None:
  """Compile the program of a job, and end before code generation."""
  job = json.loads(pathlib.Path(job_file).read_text())
  directory = pathlib.Path(job_file).parent
  tpu = parse_topology(job["topology"])
  # Imported late: a wrong topology is reported without waiting for Orbax.
  import jax

  from sam_jax.plan import programs

  jax.config.update("jax_enable_compilation_cache", False)
  threading.Thread(target=_end_with, args=(directory,), daemon=True).start()
  try:
    lowered, arrays = programs.lower(
      job["program"], ConfigDict(job["config"]), devices_of(tpu)
    )
    (directory / "arrays.json").write_text(json.dumps(arrays))
    lowered.compile(
      compiler_options={
        "xla_dump_to": str(directory),
        "xla_dump_hlo_as_text": True,
      }
    )
  except jax.errors.JaxRuntimeError as error:
    # The files of a program that does not fit say how much it needs.
    if not list(directory.glob(f"*{_MEMORY}")):
      reason = str(error).strip().splitlines()[0]
      (directory / "error.txt").write_text(f"--topology={tpu.name}: {reason}")


def _end_with(directory: pathlib.Path) -> None:
  """End this process with its program's files, or with its parent."""
  parent, sizes = os.getppid(), list[int]()
  while os.getppid() == parent:
    time.sleep(0.2)
    old, sizes = sizes, [f.stat().st_size for f in directory.glob("*.txt")]
    if sizes == old and list(directory.glob(f"*{_DONE}")):
      break
  os._exit(0)


if __name__ == "__main__":
  main(sys.argv[1])
