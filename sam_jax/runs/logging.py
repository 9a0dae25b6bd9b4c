"""Logs of a run: TensorBoard events, metrics.jsonl and console lines.

Events are built and framed by TensorBoard's own package, without TensorFlow.
tensorboardX 2.6.5 does not replace this: its `flush` returned before the events
were in the file (20 times of 20), a full disk ended its writer thread and then
blocked training forever instead of raising, and a run that resumed within a
second overwrote its own event file. It also puts hyperparameters into a second
run, without start and end times, and needs google-cloud-storage for gs:// paths
where this module writes through etils, as the rest of a workdir does.
"""

import contextlib
import io
import json
import logging
import math
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import flags
from absl import logging as absl_logging
from etils import epath
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # no TensorFlow
from tensorboard.plugins.text.summary import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from sam_jax import paths
from sam_jax.runs import files, workdir

logger = logging.getLogger(__name__)

# Scalars of a console line in their order: name, label, format.
_CONSOLE = (
  ("loss", "loss", "{:.4f}"),
  ("error_rate", "error", "{:.2%}"),
  ("top_5_error_rate", "top-5 error", "{:.2%}"),
  ("sharpness", "sharpness", "{:.4f}"),
  ("m_sharpness", "m-sharpness", "{:.4f}"),
  ("lambda_max", "lambda_max", "{:.4g}"),
)


class MetricsWriter:
  """Write what a run measures to TensorBoard events and to metrics.jsonl.

  Only process 0 of a run has a writer. A resumed run first removes what an
  earlier process logged after the checkpoint, so that the logs of a resumed run
  equal those of an uninterrupted one.
  """

  def __init__(self, directory: epath.PathLike, first_step: int):
    """Open the files of a workdir.

    Args:
      directory: Local or gs:// path; it exists.
      first_step: Steps done so far; 0 for a new run.
    """
    directory = paths.resolve(directory)
    self._jsonl = directory / "metrics.jsonl"
    self._drop_lines_after(first_step)
    name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
    self._open_files = contextlib.ExitStack()
    file = self._open_files.enter_context(
      (directory / f"{name}.{os.getpid()}").open("wb")
    )
    self._records = RecordWriter(file)
    self._write(event_pb2.Event(file_version="brain.Event:2"))
    if first_step:
      # Readers of the events drop all points from this step on.
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._write(event_pb2.Event(step=first_step + 1, session_log=start))
    self.flush()

  def scalars(
    self, step: int, prefix: str, values: Mapping[str, float]
  ) -> None:
    """Write scalars under the names `prefix/name`.

    Args:
      step: Steps done so far.
      prefix: Group of the scalars, such as "train".
      values: Scalars by name; nan means not measured and is left out.
    """
    scalars = {
      f"{prefix}/{name}": float(value)
      for name, value in values.items()
      if not math.isnan(value)
    }
    self._write_summary(
      step,
      summary_pb2.Summary(
        value=[
          summary_pb2.Summary.Value(tag=tag, simple_value=value)
          for tag, value in scalars.items()
        ]
      ),
    )
    with self._jsonl.open("a") as f:
      f.write(json.dumps({"step": step, **scalars}) + "\n")

  def image(self, step: int, tag: str, image: np.ndarray) -> None:
    """Write an image, uint8 [H, W, 3] or [H, W, 1], as PNG."""
    png = io.BytesIO()
    pixels = image.squeeze(-1) if image.shape[-1] == 1 else image
    Image.fromarray(pixels).save(png, "PNG")
    value = summary_pb2.Summary.Image(
      height=image.shape[0],
      width=image.shape[1],
      colorspace=image.shape[2],
      encoded_image_string=png.getvalue(),
    )
    summary = summary_pb2.Summary()
    summary.value.add(tag=tag, image=value)
    self._write_summary(step, summary)

  def config(self, config: Mapping[str, Any]) -> None:
    """Write a config as text, and as hyperparameters of a session that starts.

    Args:
      config: A config as `workdir.to_dict` returns it.
    """
    text = json.dumps(config, indent=2, sort_keys=True)
    self._write_summary(0, text_pb("config", f"```json\n{text}\n```"))
    # An empty trial_id shows each run as a trial under its own name.
    session = hparams_pb(_hyperparameters(config), trial_id="")
    self._write_summary(0, session)

  def flush(self) -> None:
    """Make everything written so far visible to readers."""
    self._records.flush()

  def mark_finished(self) -> None:
    """Mark the session of hyperparameters as successful.

    TensorBoard keeps the first mark only: a run that may resume must not set
    it.
    """
    end = plugin_data_pb2.SessionEndInfo(
      status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time()
    )
    data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
    summary = summary_pb2.Summary()
    summary.value.add(
      tag=metadata.SESSION_END_INFO_TAG,
      metadata=metadata.create_summary_metadata(data),
      tensor=metadata.NULL_TENSOR,
    )
    self._write_summary(0, summary)

  def close(self) -> None:
    """Write everything and close the files."""
    self.flush()
    self._open_files.close()

  def _drop_lines_after(self, step: int) -> None:
    if not self._jsonl.exists():
      return
    kept = [
      line
      for line in self._jsonl.read_text().splitlines()
      if _step_of_line(line) <= step
    ]
    files.write_atomically(self._jsonl, "".join(f"{k}\n" for k in kept))

  def _write_summary(self, step: int, summary: summary_pb2.Summary) -> None:
    self._write(event_pb2.Event(step=step, summary=summary))

  def _write(self, event: event_pb2.Event) -> None:
    event.wall_time = time.time()
    self._records.write(event.SerializeToString())


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


def show_on_stderr() -> None:
  """Show log lines of this package on stderr; only warnings of other packages.

  Call it after flags are parsed: `--verbosity` overrides the level of others.
  """
  if not flags.FLAGS["verbosity"].present:
    absl_logging.set_verbosity(absl_logging.WARNING)
  handler = logging.StreamHandler()
  handler.setFormatter(
    logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S")
  )
  package = logging.getLogger("sam_jax")
  package.setLevel(logging.INFO)
  package.addHandler(handler)
  package.propagate = False


def _step_of_line(line: str) -> float:
  """Return the step of a line of metrics.jsonl; infinity if it is damaged."""
  try:
    return json.loads(line)["step"]
  except (ValueError, KeyError, TypeError):
    return math.inf


def _hyperparameters(
  config: Mapping[str, Any],
) -> dict[str, bool | float | str]:
  """Return the fields that may change a result, as TensorBoard's types.

  A field that is None is left out: the text "None" would turn the numbers of
  its column into texts, which sort as texts and have no range filter. sam.m is
  the number that None stands for, the batch of a device.
  """
  fields = workdir.deciding_fields(config)
  if fields["sam.m"] is None:
    fields["sam.m"] = fields["batch_size"] // jax.device_count()
  return {
    name: value if isinstance(value, bool | int | float) else str(value)
    for name, value in fields.items()
    if value is not None
  }
