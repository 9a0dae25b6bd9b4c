"""Start a run, kill it at random moments, and start it again until it ends."""

import dataclasses
import os
import pathlib
import random
import socket
import subprocess
import sys
import time

from scripts.kill_runs.kinds import Kind
from scripts.kill_runs.places import Place

TRAIN = (sys.executable, "-m", "sam_jax.train")
_REPOSITORY = pathlib.Path(__file__).parents[2]
_SECONDS_AFTER_WRITING = 0.05
_MOST_NEW_NAMES = 8  # as many as a process creates for three checkpoints
_MOST_KILLS = 5  # of one run
_MOST_SECONDS = 900  # after which a process hangs


class RunFailedError(Exception):
  """A process that was not killed ended with an error."""


@dataclasses.dataclass(frozen=True)
class Moment:
  """A moment to kill at.

  Attributes:
    seconds: Time to wait.
    new_names: Wait first for this many files or directories to appear in the
      workdir or in its checkpoints.
  """

  seconds: float
  new_names: int = 0

  @classmethod
  def draw(cls, generator: random.Random, life: float) -> "Moment":
    """Draw a moment: of the whole life of a process, or near a write.

    Args:
      generator: Source of the moment.
      life: Seconds that an undisturbed process takes.
    """
    if generator.random() < 0.5:
      return cls(generator.uniform(0, life))
    seconds = generator.uniform(0, _SECONDS_AFTER_WRITING)
    return cls(seconds, generator.randint(1, _MOST_NEW_NAMES))


@dataclasses.dataclass
class Run:
  """A run in a workdir of its own.

  Attributes:
    kind: What it trains.
    place: Its workdir.
    log: File of what all its processes print.
    shared: Directory of data and compiled programs, which runs share.
    kills: One description for each kill.
    starts: Number of times that it was started.
  """

  kind: Kind
  place: Place
  log: pathlib.Path
  shared: pathlib.Path
  kills: list[str] = dataclasses.field(default_factory=list)
  starts: int = 0

  def finish(self) -> float:
    """Start the run and wait for its end; return the seconds that it took.

    Raises:
      RunFailedError: A process failed.
    """
    started = time.perf_counter()
    self._wait(self._start())
    return time.perf_counter() - started

  def kill(self, moment: Moment) -> bool:
    """Start the run and kill it; return False if it ended before the moment.

    Raises:
      RunFailedError: A process failed before the moment.
    """
    before = self.place.written().keys()
    started = time.perf_counter()
    processes = self._start()
    new: set[str] = set()
    while len(new) < moment.new_names and _all_run(processes):
      new |= self.place.written().keys() - before
      time.sleep(0.001)
    deadline = time.perf_counter() + moment.seconds
    while time.perf_counter() < deadline and _all_run(processes):
      time.sleep(0.001)
    if not _all_run(processes):
      self._wait(processes)
      return False
    for process in processes:
      process.kill()
    for process in processes:
      process.wait()
    seconds = time.perf_counter() - started
    times = self.place.written()
    new_names = times.keys() - before
    newest = max(new_names, key=times.__getitem__, default="nothing")
    self.kills.append(f"at {seconds:.2f} s, last written: {newest}")
    return True

  def _start(self) -> list[subprocess.Popen]:
    self.starts += 1
    flags = [*self.kind.arguments, f"--workdir={self.place.workdir}"]
    flags.append(f"--config.dataset.data_dir={self.shared / 'data'}")
    flags.append(f"--config.compilation_cache_dir={self.shared / 'compiled'}")
    devices = f"--xla_force_host_platform_device_count={self.kind.devices}"
    environment = {
      **os.environ,
      **self.place.environment,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}",
    }
    joins = _flags_of_each(self.kind.processes)
    with self.log.open("ab") as log:
      return [
        subprocess.Popen(
          [*TRAIN, *flags, *join],
          cwd=_REPOSITORY,
          env=environment,
          stdout=log,
          stderr=log,
        )
        for join in joins
      ]

  def _wait(self, processes: list[subprocess.Popen]) -> None:
    try:
      codes = [process.wait(_MOST_SECONDS) for process in processes]
    except subprocess.TimeoutExpired:
      for process in processes:
        process.kill()
      raise RunFailedError(f"no end after {_MOST_SECONDS} s") from None
    if any(codes):
      lines = self.log.read_text(errors="replace").splitlines()
      raise RunFailedError(f"exit codes {codes}, {(lines or [''])[-1]}")


def kill_until_done(
  run: Run, most_kills: int, generator: random.Random, life: float
) -> None:
  """Kill a run at random moments, and let it finish.

  Args:
    run: A run that was not started yet.
    most_kills: It is killed at most so many times.
    generator: Source of the moments.
    life: Seconds that an undisturbed process takes.

  Raises:
    RunFailedError: A process failed.
  """
  while len(run.kills) < min(most_kills, _MOST_KILLS):
    if not run.kill(Moment.draw(generator, life)):
      return
  run.finish()


def _all_run(processes: list[subprocess.Popen]) -> bool:
  return all(process.poll() is None for process in processes)


def _flags_of_each(processes: int) -> list[list[str]]:
  """Return the flags by which each process finds the others."""
  if processes == 1:
    return [[]]
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  flags = [f"--coordinator_address={address}", f"--num_processes={processes}"]
  return [[*flags, f"--process_id={i}"] for i in range(processes)]
