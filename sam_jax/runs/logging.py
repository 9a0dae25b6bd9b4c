"""Where the numbers of a run go: TensorBoard, metrics.jsonl, the console."""

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

import numpy as np
from etils import epath
from PIL import Image
from tensorboard.compat.proto import (
  event_pb2,
  summary_pb2,
  tensor_pb2,
  tensor_shape_pb2,
  types_pb2,
)
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from sam_jax.runs import files, workdir

logger = logging.getLogger(__name__)

# The order of a log line: (scalar, label, format).
_CONSOLE = (
  ("loss", "loss", "{:.4f}"),
  ("error_rate", "error", "{:.2%}"),
  ("top_5_error_rate", "top-5 error", "{:.2%}"),
  ("sharpness", "sharpness", "{:.4f}"),
  ("m_sharpness", "m-sharpness", "{:.4f}"),
  ("lambda_max", "lambda_max", "{:.4g}"),
)


class MetricsWriter:
  """Writes the scalars of a run to TensorBoard and to metrics.jsonl.

  TensorBoard's own record writer is used directly: it needs no TensorFlow.
  A resumed run first drops what an earlier process wrote past its checkpoint,
  so that the files end as those of an undisturbed run do.
  """

  def __init__(self, directory: epath.PathLike, first_step: int):
    """Opens the files of a workdir.

    Args:
      directory: Local or gs:// path; it exists.
      first_step: The run goes on after this step.
    """
    directory = epath.Path(directory)
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
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._write(event_pb2.Event(step=first_step + 1, session_log=start))
    self.flush()

  def scalars(
    self, step: int, prefix: str, values: Mapping[str, float]
  ) -> None:
    """Writes scalars as `prefix/name`; a nan was not measured: left out."""
    values = {
      f"{prefix}/{name}": float(value)
      for name, value in values.items()
      if not math.isnan(value)
    }
    self._summary(
      step,
      [
        summary_pb2.Summary.Value(tag=tag, simple_value=value)
        for tag, value in values.items()
      ],
    )
    with self._jsonl.open("a") as f:
      f.write(json.dumps({"step": step, **values}) + "\n")

  def image(self, step: int, tag: str, image: np.ndarray) -> None:
    """Writes an image, uint8 [H, W, 3] or [H, W, 1]."""
    png = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
      png, "PNG"
    )
    value = summary_pb2.Summary.Image(
      height=image.shape[0],
      width=image.shape[1],
      colorspace=image.shape[2],
      encoded_image_string=png.getvalue(),
    )
    self._summary(step, [summary_pb2.Summary.Value(tag=tag, image=value)])

  def config(self, config: Mapping[str, Any]) -> None:
    """Writes the config as text, and its fields as hyperparameters."""
    text = "```json\n" + json.dumps(config, indent=2, sort_keys=True) + "\n```"
    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
    tensor = tensor_pb2.TensorProto(
      dtype=types_pb2.DT_STRING,
      string_val=[text.encode()],
      tensor_shape=tensor_shape_pb2.TensorShapeProto(
        dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)]
      ),
    )
    value = summary_pb2.Summary.Value(
      tag="config",
      tensor=tensor,
      metadata=summary_pb2.SummaryMetadata(plugin_data=plugin),
    )
    self._summary(0, [value, _hparams_value(config)])

  def flush(self) -> None:
    """Makes everything written so far visible to readers."""
    self._records.flush()

  def close(self) -> None:
    """Marks the session as ended and closes the files."""
    end = plugin_data_pb2.SessionEndInfo(
      status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time()
    )
    data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
    self._summary(0, [_hparams_summary("_hparams_/session_end_info", data)])
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

  def _summary(self, step: int, values: list[Any]) -> None:
    summary = summary_pb2.Summary(value=values)
    self._write(event_pb2.Event(step=step, summary=summary))

  def _write(self, event: event_pb2.Event) -> None:
    event.wall_time = time.time()
    self._records.write(event.SerializeToString())


class NullWriter:
  """Writes nothing: the writer of every process but the first."""

  def __getattr__(self, name: str):
    return lambda *args, **kwargs: None


class Throughput:
  """Images per second and time to go, without compilation and pauses."""

  def __init__(self, batch_size: int, total_steps: int):
    """Starts with a clock that stands still."""
    self._batch_size = batch_size
    self._total_steps = total_steps
    self._active_seconds = 0.0
    self._active_steps = 0
    self._since = None
    self._step = 0

  def restart(self, step: int) -> None:
    """Leaves out what happened since the last reading, up to a step."""
    self._since, self._step = time.monotonic(), step

  def read(self, step: int) -> tuple[float, float]:
    """Reads the clock at a step that is done.

    Args:
      step: Steps done so far.

    Returns:
      Images per second since the last reading, and an estimate of the seconds
      that remain; nan where it can't be known yet.
    """
    since, steps = self._since, step - self._step
    self.restart(step)
    if since is None or steps <= 0:
      return math.nan, math.nan
    seconds = max(self._since - since, 1e-9)
    self._active_seconds += seconds
    self._active_steps += steps
    seconds_per_step = self._active_seconds / self._active_steps
    seconds_left = seconds_per_step * (self._total_steps - step)
    return self._batch_size * steps / seconds, seconds_left


def log_line(
  step: int,
  total_steps: int,
  epoch: float,
  what: str,
  values: Mapping[str, float],
  images_per_second: float = math.nan,
  seconds_left: float = math.nan,
) -> None:
  """Logs one readable line, for example

  step  110/330  epoch 10.0  train  loss 0.8123  error 30.10%  2,345 images/s
  """
  width = len(str(total_steps))
  parts = [f"step {step:>{width}}/{total_steps}", f"epoch {epoch:.1f}", what]
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
  """Puts images side by side, one pixel apart.

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


def _step_of_line(line: str) -> float:
  """The step of a line of metrics.jsonl; infinite if it was cut short."""
  try:
    return json.loads(line)["step"]
  except (ValueError, KeyError, TypeError):
    return math.inf


def _hparams_value(config: Mapping[str, Any]) -> summary_pb2.Summary.Value:
  """The start of a session of TensorBoard's HParams tab."""
  start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
  for name, value in sorted(workdir.flatten(config)):
    if isinstance(value, bool):
      start.hparams[name].bool_value = value
    elif isinstance(value, (int, float)):
      start.hparams[name].number_value = value
    else:
      start.hparams[name].string_value = str(value)
  data = plugin_data_pb2.HParamsPluginData(session_start_info=start)
  return _hparams_summary("_hparams_/session_start_info", data)


def _hparams_summary(tag, data) -> summary_pb2.Summary.Value:
  plugin = summary_pb2.SummaryMetadata.PluginData(
    plugin_name="hparams", content=data.SerializeToString()
  )
  metadata = summary_pb2.SummaryMetadata(plugin_data=plugin)
  return summary_pb2.Summary.Value(tag=tag, metadata=metadata)
