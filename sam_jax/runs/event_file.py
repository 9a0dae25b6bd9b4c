"""Event files of TensorBoard.

Events are built and framed by TensorBoard's own package, without TensorFlow.
tensorboardX 2.6.5 does not replace this: its `flush` returned before the events
were in the file (20 times of 20), a full disk ended its writer thread and then
blocked training forever instead of raising, and a run that resumed within a
second overwrote its own event file. It also puts hyperparameters into a second
run, without start and end times, and needs google-cloud-storage for gs:// paths
where this module writes local files, which `StagedLogs` uploads.
"""

import io
import json
import os
import pathlib
import re
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # no TensorFlow
from tensorboard.plugins.text.summary import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from sam_jax.runs import workdir
from sam_jax.runs.staged_logs import one_line_errors

# The time in the name of an event file; TensorBoard sorts files by name.
_TIME = re.compile(r"events\.out\.tfevents\.(\d+(?:\.\d+)?)\.")


class EventFile:
  """Write the events of one process.

  TensorBoard reads the files of a directory one after another, by their names.
  Methods that write raise an OSError that names the file.
  """

  def __init__(self, directory: pathlib.Path, earlier: Iterable[str]):
    """Create a file.

    Args:
      directory: Local directory; it exists.
      earlier: Names of files, among which those of earlier processes are. They
        sort before the new one even if the clock of this host is behind.
    """
    name = f"{_time_after(earlier):.6f}.{socket.gethostname()}.{os.getpid()}"
    self._path = directory / f"events.out.tfevents.{name}"
    self._file = self._path.open("wb")
    self._records = RecordWriter(self._file)
    self._write(event_pb2.Event(file_version="brain.Event:2"))

  def drop_from(self, step: int) -> None:
    """Let readers drop all points of earlier files from a step on."""
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(event_pb2.Event(step=step, session_log=start))

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Write scalars.

    Args:
      step: Steps done so far.
      scalars: Numbers by name, such as "train/loss".
    """
    summary = summary_pb2.Summary()
    for tag, value in scalars.items():
      summary.value.add(tag=tag, simple_value=value)
    self._write_summary(step, summary)

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
    self.write_hparams(hyperparameters(config))

  def write_hparams(self, hparams: Mapping[str, bool | float | str]) -> None:
    """Write the hyperparameters of a session that starts."""
    # An empty trial_id shows each run as a trial under its own name.
    self._write_summary(0, hparams_pb(hparams, trial_id=""))

  def flush(self) -> None:
    """Make everything written so far visible to readers."""
    with one_line_errors("can't be written", self._path):
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

  def close(self, is_finished: bool = False) -> None:
    """Write everything and close the file; a finished session is marked."""
    if is_finished:
      self.mark_finished()
    with one_line_errors("can't be written", self._path):
      self._file.close()

  def _write_summary(self, step: int, summary: summary_pb2.Summary) -> None:
    self._write(event_pb2.Event(step=step, summary=summary))

  def _write(self, event: event_pb2.Event) -> None:
    event.wall_time = time.time()
    data = event.SerializeToString()
    with one_line_errors("can't be written", self._path):
      self._records.write(data)


def _time_after(names: Iterable[str]) -> float:
  """Return the time, or one second after the newest event file if later."""
  times = [float(match[1]) for match in map(_TIME.match, names) if match]
  return max([time.time(), *(each + 1 for each in times)])


def hyperparameters(
  config: Mapping[str, Any],
) -> dict[str, bool | float | str]:
  """Return the fields that may change a result, as TensorBoard's types.

  A field that is None is left out: the text "None" would turn the numbers of
  its column into texts, which sort as texts and have no range filter.
  """
  fields = workdir.deciding_fields(config)
  return {
    name: value if isinstance(value, bool | int | float) else str(value)
    for name, value in fields.items()
    if value is not None
  }
