"""Traces of some training steps for TensorBoard's profile plugin."""

import logging
import re
import socket
import tempfile
from typing import Any

import jax
from etils import epath

from sam_jax.config.schema import ConfigError

logger = logging.getLogger(__name__)


class Profiler:
  """Trace the steps of a window: all of their work, and no other work.

  Every host traces its own devices into files of its own. A run that stops
  inside the window keeps the trace of the steps that it did; a run that resumes
  inside the window traces the remaining steps. Leaving the context always ends
  the trace.
  """

  def __init__(self, window: str, total_steps: int, workdir: epath.Path):
    """Prepare to trace a window.

    Args:
      window: "START:STOP" traces the steps from START to STOP - 1; "" traces
        nothing.
      total_steps: Steps of the run.
      workdir: Directory of the run; traces are written to plugins/profile in
        it.

    Raises:
      ConfigError: The run has no such window.
    """
    self._window = _parse_window(window, total_steps)
    self._workdir = workdir
    # The profiler writes to a local directory first: it cannot write to gs://,
    # and it names directories by the time, which differs between hosts.
    self._local: tempfile.TemporaryDirectory[str] | None = None
    self._first_step = self._step = 0
    self._arrays: Any = None

  def __enter__(self) -> "Profiler":
    return self

  def __exit__(self, *exc_info: object) -> None:
    self._stop()

  def __call__(
    self, step: int, state: Any, metrics: Any, is_last: bool
  ) -> None:
    """Start or end the trace after a step, as a hook of the loop."""
    del state, is_last
    self.reach(step, metrics)

  def reach(self, step: int, arrays: Any) -> None:
    """Start or end the trace if the window starts or ends at a step.

    Args:
      step: The next step; the steps before it are dispatched.
      arrays: Results of the last dispatched step, to wait for.
    """
    if self._local is None and step in self._window:
      jax.block_until_ready(arrays)
      self._start(step)
    if self._local is None:
      return  # keep no reference: the next step donates arrays of this one
    self._step, self._arrays = step, arrays
    if step not in self._window:
      self._stop()

  def _start(self, step: int) -> None:
    self._local = tempfile.TemporaryDirectory(prefix="profile-")
    self._first_step = step
    jax.profiler.start_trace(self._local.name)

  def _stop(self) -> None:
    """End the trace, if there is one, and copy it to the workdir."""
    if self._local is None:
      return
    jax.block_until_ready(self._arrays)
    jax.profiler.stop_trace()
    target = self._workdir / "plugins" / "profile"
    target /= f"steps_{self._first_step}-{self._step}"
    target.mkdir(parents=True, exist_ok=True)
    host = f"{socket.gethostname()}_{jax.process_index()}"
    for file in epath.Path(self._local.name).glob("plugins/profile/*/*"):
      suffix = file.name.removeprefix(socket.gethostname())
      (target / f"{host}{suffix}").write_bytes(file.read_bytes())
    self._local.cleanup()
    self._local = self._arrays = None
    logger.info("The trace of %s is in %s.", target.name, target)


def _parse_window(window: str, total_steps: int) -> range:
  """Return the steps of "START:STOP"; no steps for ""."""
  if not window:
    return range(0)
  match = re.fullmatch(r"(\d+):(\d+)", window)
  start, stop = map(int, match.groups()) if match else (0, 0)
  if not start < stop <= total_steps:
    raise ConfigError(
      f"config.profile = {window!r} must be START:STOP, with START below STOP"
      f" and STOP at most {total_steps}, the steps of this run."
    )
  return range(start, stop)
