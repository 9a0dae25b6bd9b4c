"""Logs of a run: TensorBoard events, metrics.jsonl, loggers, console lines."""

import contextlib
import contextvars
import logging
import math
import types
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from absl import flags
from absl import logging as absl_logging
from etils import epath

from sam_jax.runs import metrics_file
from sam_jax.runs.event_file import EventFile
from sam_jax.runs.loggers import BackgroundLogger
from sam_jax.runs.metrics_file import MetricsFile
from sam_jax.runs.staged_logs import StagedLogs

logger = logging.getLogger(__name__)

_run = contextvars.ContextVar("run", default="")  # before each line

# Scalars of a console line in their order: name, label, format.
_CONSOLE = (
  ("loss", "loss", "{:.4f}"),
  ("error_rate", "error", "{:.2%}"),
  ("top_5_error_rate", "top-5 error", "{:.2%}"),
  ("sharpness", "sharpness", "{:.4f}"),
  ("m_sharpness", "m-sharpness", "{:.4f}"),
  ("lambda_max", "lambda_max", "{:.4g}"),
)


class MetricsWriter(EventFile):
  """Write what a run measures to TensorBoard, metrics.jsonl and loggers.

  Only process 0 of a run has a writer. A resumed run first removes what an
  earlier process logged after the checkpoint, so that the logs of a resumed run
  equal those of an uninterrupted one. In a bucket, readers find the files of
  the last upload: see `StagedLogs`.

  Attributes:
    lines: The file metrics.jsonl.
  """

  def __init__(
    self,
    directory: epath.PathLike,
    first_step: int,
    loggers: Sequence[BackgroundLogger] = (),
  ):
    """Open the files of a workdir.

    Args:
      directory: Local or gs:// path; it exists.
      first_step: Steps done so far; 0 for a new run.
      loggers: Further loggers, which `close` closes.
    """
    self._loggers = list(loggers)
    self._logs = StagedLogs(directory)
    self._logs.fetch(metrics_file.NAME)
    self.lines = MetricsFile(self._logs.path / metrics_file.NAME, first_step)
    earlier = self._logs.names()
    super().__init__(self._logs.path, earlier)
    # A kill may leave events of this step without their lines, or the reverse:
    # write them again. Steps before it were complete at the checkpoint.
    self.drop_from(first_step)
    for line in self.lines.last_lines:
      self.write_scalars(first_step, line)
    self.flush()
    # Loggers leave out what they have sent: this is what an earlier process had
    # lost, or everything if the logger is new.
    for logger in self._loggers:
      for step, scalars in self.lines.read():
        logger.write_scalars(step, scalars)

  def __enter__(self) -> "MetricsWriter":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: types.TracebackType | None,
  ) -> None:
    try:
      self.close()
    except OSError as second_error:
      if error is None:
        raise
      if str(error) == str(second_error):
        return  # a full disk, for example, which `error` reports
      logger.warning("The last lines of the logs are lost: %s", second_error)

  def scalars(
    self, step: int, prefix: str, values: Mapping[str, float]
  ) -> None:
    """Write scalars under the names `prefix/name`.

    Scalars that an earlier process wrote, at the step where this one resumes,
    are not written again.

    Args:
      step: Steps done so far.
      prefix: Group of the scalars, such as "train".
      values: Scalars by name; nan means not measured and is left out.
    """
    if self.lines.has(prefix, step):
      return
    scalars = {
      f"{prefix}/{name}": float(value)
      for name, value in values.items()
      if not math.isnan(value)
    }
    self.write_scalars(step, scalars)
    self.lines.write_scalars(step, scalars)
    for logger in self._loggers:  # last: they may fail
      logger.write_scalars(step, scalars)

  def publish(self) -> None:
    """Wait until readers find everything written so far, in a bucket, too."""
    self.flush()
    self._logs.upload()

  def close(self, is_finished: bool = False) -> None:
    """Write everything and close the files and the loggers.

    Args:
      is_finished: True for a run that did all its steps.

    Raises:
      OSError: Not everything could be written.
    """
    loggers, self._loggers = self._loggers, []
    try:
      super().close(is_finished)
    finally:
      try:
        self._logs.close()
      finally:
        for logger in loggers:
          logger.close(is_finished)


def log_line(
  step: int,
  total_steps: int,
  epoch: float,
  phase: str,
  values: Mapping[str, float],
  images_per_second: float = math.nan,
  seconds_left: float = math.nan,
) -> None:
  """Log one console line; numbers that are missing or nan are left out.

  Example of a line:

  step  110/330  epoch 10.0  train  loss 0.8123  error 30.10%  2,345 images/s

  Args:
    step: Steps done so far.
    total_steps: Steps of the run.
    epoch: Epochs done so far.
    phase: What was measured, such as "train".
    values: Scalars by name; those that the console does not show are ignored.
    images_per_second: Throughput.
    seconds_left: Estimated time until the end of the run.
  """
  width = len(str(total_steps))
  parts = [f"step {step:>{width}}/{total_steps}", f"epoch {epoch:.1f}", phase]
  parts += [
    f"{label} {form.format(values[name])}"
    for name, label, form in _CONSOLE
    if not math.isnan(values.get(name, math.nan))
  ]
  if not math.isnan(images_per_second):
    parts.append(f"{images_per_second:,.0f} images/s")
  if not math.isnan(seconds_left):
    minutes, seconds = divmod(round(seconds_left), 60)
    parts.append(f"ETA {minutes // 60}:{minutes % 60:02d}:{seconds:02d}")
  logger.info("%s", "  ".join(parts))


def image_grid(images: np.ndarray, columns: int = 8) -> np.ndarray:
  """Arrange images in a grid with a black line of one pixel between them.

  Args:
    images: uint8 [N, H, W, C].
    columns: Images in a row.

  Returns:
    uint8 [rows * (H + 1) - 1, columns * (W + 1) - 1, C].
  """
  count, height, width, channels = images.shape
  columns = min(columns, count)
  rows = -(-count // columns)
  grid = np.zeros((rows, height + 1, columns, width + 1, channels), np.uint8)
  for i, image in enumerate(images):
    grid[i // columns, :height, i % columns, :width] = image
  grid = grid.reshape(rows * (height + 1), columns * (width + 1), channels)
  return grid[:-1, :-1]


@contextlib.contextmanager
def lines_of(run: str) -> Iterator[None]:
  """Put the name of a run before the lines that this context logs."""
  token = _run.set(f"[{run}]  ")
  try:
    yield
  finally:
    _run.reset(token)


def _name_run(record: logging.LogRecord) -> bool:
  record.run = _run.get()
  return True


def show_on_stderr() -> None:
  """Show log lines of this package on stderr; only warnings of other packages.

  Call it after flags are parsed: `--verbosity` overrides the level of others.
  """
  if not flags.FLAGS["verbosity"].present:
    absl_logging.set_verbosity(absl_logging.WARNING)
  handler = logging.StreamHandler()
  handler.addFilter(_name_run)
  handler.setFormatter(
    logging.Formatter("%(asctime)s  %(run)s%(message)s", datefmt="%H:%M:%S")
  )
  package = logging.getLogger("sam_jax")
  package.setLevel(logging.INFO)
  package.addHandler(handler)
  package.propagate = False
