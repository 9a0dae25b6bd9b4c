"""Traces of some steps of a run, for TensorBoard's profile plugin."""

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
  """Traces the steps of a window, with all of their work and no other's.

  Every host traces its own devices, in files of its own. A run that is stopped
  within the window keeps the trace of the steps that it made; one that goes on
  within it traces the others. As a context it ends the trace in any case.
  """

  def __init__(self, window: str, total_steps: int, workdir: epath.Path):
    """Prepares to trace, or not to.

    Args:
      window: "START:STOP", to trace the steps from START to STOP - 1; "" for
        none.
      total_steps: Steps of the run.
      workdir: The traces go below its plugins/profile.

    Raises:
      ConfigError: There is no such window in this run.
    """
    self._window = _parse_window(window, total_steps)
    self._workdir = workdir
    self._draft = None  # where the trace under way will be written
    self._first_step = self._step = 0
    self._arrays = None

  def __enter__(self) -> "Profiler":
    return self

  def __exit__(self, *exc_info) -> None:
    if self._draft is not None:
      self._stop()

  def __call__(
    self, step: int, state: Any, metrics: Any, is_last: bool
  ) -> None:
    """Start or end the trace after a step, as a hook of the loop."""
    del state, is_last
    self.reach(step, metrics)

  def reach(self, step: int, arrays: Any) -> None:
    """Starts or ends the trace, if it is time to.

    Args:
      step: The next step; those before it are on their way.
      arrays: Results of the last of them, to wait for.
    """
    if self._draft is None and step in self._window:
      jax.block_until_ready(arrays)
      self._start(step)
    if self._draft is None:
      return
    self._step, self._arrays = step, arrays
    if step not in self._window:
      self._stop()

  def _start(self, step: int) -> None:
    # Not to the workdir at once: the profiler itself can't write to gs://, and
    # names directories by the time, which differs from host to host.
    self._draft = tempfile.TemporaryDirectory(prefix="profile-")
    self._first_step = step
    jax.profiler.start_trace(self._draft.name)

  def _stop(self) -> None:
    jax.block_until_ready(self._arrays)
    jax.profiler.stop_trace()
    target = self._workdir / "plugins" / "profile"
    target /= f"steps_{self._first_step}-{self._step}"
    target.mkdir(parents=True, exist_ok=True)
    host = f"{socket.gethostname()}_{jax.process_index()}"
    for file in epath.Path(self._draft.name).glob("plugins/profile/*/*"):
      suffix = file.name.removeprefix(socket.gethostname())
      (target / f"{host}{suffix}").write_bytes(file.read_bytes())
    self._draft.cleanup()
    self._draft = self._arrays = None
    logger.info("A trace of %s is in %s.", target.name, target)


def _parse_window(window: str, total_steps: int) -> range:
  """The steps of "START:STOP"; none of ""."""
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
