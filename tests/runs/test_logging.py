"""Event files, metrics.jsonl and console lines contain what was logged."""

import io
import json
import logging
import math
import resource
import time

import numpy as np
import pytest
from absl import flags
from absl import logging as absl_logging
from PIL import Image
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import (
  EventAccumulator,
)
from tensorboard.plugins.hparams import api_pb2, metadata

from sam_jax.config.schema import default_config
from sam_jax.runs import workdir
from sam_jax.runs.logging import (
  MetricsWriter,
  image_grid,
  log_line,
  show_on_stderr,
)

SESSION_START = "_hparams_/session_start_info"
SESSION_END = "_hparams_/session_end_info"


def read_events(directory):
  """Read a run's events as TensorBoard does."""
  return EventAccumulator(str(directory)).Reload()


def read_lines(directory):
  text = (directory / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def small_config(**fields):
  config = default_config()
  config.update_from_flattened_dict(fields)
  return workdir.to_dict(config)


def hyperparameters(directory):
  """Return the hyperparameters of a run: TensorBoard's type and value."""
  found = read_events(directory).SummaryMetadata(SESSION_START)
  start = metadata.parse_session_start_info_plugin_data(
    found.plugin_data.content
  )
  kinds = {name: v.WhichOneof("kind") for name, v in start.hparams.items()}
  return {k: (kinds[k], getattr(start.hparams[k], kinds[k])) for k in kinds}


def test_scalars_are_in_events_and_lines(tmp_path):
  writer = MetricsWriter(tmp_path, 0)
  writer.scalars(3, "train", {"loss": 0.5, "sharpness": math.nan})
  writer.scalars(3, "test", {"error_rate": np.float32(0.25)})
  writer.scalars(6, "train", {"loss": 0.125, "sharpness": 2.0})
  writer.flush()  # what readers see while the run continues
  events = read_events(tmp_path)
  assert events.Tags()["scalars"] == [
    *("train/loss", "test/error_rate", "train/sharpness")
  ]
  points = [(e.step, e.value) for e in events.Scalars("train/loss")]
  assert points == [(3, 0.5), (6, 0.125)]
  assert [e.step for e in events.Scalars("train/sharpness")] == [6]
  assert read_lines(tmp_path) == [
    {"step": 3, "train/loss": 0.5},
    {"step": 3, "test/error_rate": 0.25},
    {"step": 6, "train/loss": 0.125, "train/sharpness": 2.0},
  ]
  writer.close()


def test_resumed_run_has_no_point_twice(tmp_path):
  """The first process dies after step 4 and the checkpoint of step 2."""
  first = MetricsWriter(tmp_path, 0)
  for step in (1, 2, 3, 4):
    first.scalars(step, "train", {"loss": step})
  first.flush()  # and no close, as after a kill
  with (tmp_path / "metrics.jsonl").open("a") as f:
    f.write('{"step": 4, "tra')  # the kill cut a line

  second = MetricsWriter(tmp_path, 2)
  for step in (3, 4, 5):
    second.scalars(step, "train", {"loss": 10 * step})
  second.close()
  expected = [(1, 1), (2, 2), (3, 30), (4, 40), (5, 50)]
  points = read_events(tmp_path).Scalars("train/loss")
  assert [(p.step, p.value) for p in points] == expected
  lines = read_lines(tmp_path)
  assert [(x["step"], x["train/loss"]) for x in lines] == expected


def test_run_killed_before_its_first_checkpoint_has_no_point_twice(tmp_path):
  image = np.zeros((4, 4, 3), np.uint8)
  for _ in range(3):
    writer = MetricsWriter(tmp_path, 0)
    writer.config(small_config())
    writer.image(0, "train/augmented_images", image)
    for step in (3, 6):
      writer.scalars(step, "train", {"loss": step})
    writer.flush()  # and no close, as after a kill
  # The reader behind the dashboards, where all points are tensors.
  events = plugin_event_accumulator.EventAccumulator(str(tmp_path)).Reload()
  tags = {"train/loss", "train/augmented_images", "config", SESSION_START}
  assert set(events.Tags()["tensors"]) == tags
  for tag in tags:
    steps = [point.step for point in events.Tensors(tag)]
    assert steps == ([3, 6] if tag == "train/loss" else [0]), tag
  assert [line["step"] for line in read_lines(tmp_path)] == [3, 6]


def test_points_at_the_checkpoint_are_those_of_its_lines(tmp_path):
  """A kill may cut the events or the lines of an evaluation at its step."""
  writer = MetricsWriter(tmp_path, 0)
  writer.scalars(2, "train", {"loss": 0.5})
  writer.scalars(2, "test", {"loss": 0.25})
  writer.close()
  path = tmp_path / "metrics.jsonl"
  path.write_text(path.read_text().splitlines()[0] + "\n")  # test is missing
  (events,) = tmp_path.glob("events.*")
  events.write_bytes(events.read_bytes()[:-9])  # cut within a record

  writer = MetricsWriter(tmp_path, 2)
  assert writer.lines.has("train", 2)
  assert not writer.lines.has("test", 2)
  for loss in (0.125, 1.0):
    writer.scalars(2, "train", {"loss": loss})  # is there already
  writer.scalars(2, "test", {"loss": 0.25})
  writer.scalars(4, "train", {"loss": 0.375})
  writer.close()
  found = read_events(tmp_path)
  points = [(p.step, p.value) for p in found.Scalars("train/loss")]
  assert points == [(2, 0.5), (4, 0.375)]
  points = [(p.step, p.value) for p in found.Scalars("test/loss")]
  assert points == [(2, 0.25)]
  assert read_lines(tmp_path) == [
    {"step": 2, "train/loss": 0.5},
    {"step": 2, "test/loss": 0.25},
    {"step": 4, "train/loss": 0.375},
  ]


def test_clock_of_a_resumed_run_may_be_behind(tmp_path, monkeypatch):
  """Another host's clock is a day behind: its events are read last."""
  now = time.time()
  for day, first_step in enumerate((0, 2, 4)):
    monkeypatch.setattr(time, "time", lambda day=day: now - 86400 * day)
    writer = MetricsWriter(tmp_path, first_step)
    for step in range(first_step + 1, first_step + 4):
      writer.scalars(step, "train", {"loss": 10 * day + step})
    writer.close()
  points = read_events(tmp_path).Scalars("train/loss")
  expected = [(1, 1), (2, 2), (3, 13), (4, 14), (5, 25), (6, 26), (7, 27)]
  assert [(p.step, p.value) for p in points] == expected


def test_a_full_disk_is_reported_with_the_file(
  tmp_path, limit_file_size, caplog
):
  with pytest.raises(OSError) as raised, MetricsWriter(tmp_path, 0) as writer:
    limit_file_size(500)
    for step in range(1, 99):
      writer.scalars(step, "train", {"loss": step})
      writer.flush()
  limit_file_size(resource.RLIM_INFINITY)
  (events,) = tmp_path.glob("events.*")
  assert raised.value.filename == str(events)
  assert not caplog.messages  # the error says it all
  points = read_events(tmp_path).Scalars("train/loss")  # the last one is cut
  assert [p.step for p in points] == list(range(1, len(points) + 1))
  assert points


@pytest.mark.parametrize("shape", [(5, 7, 3), (4, 6, 1)])
def test_image_has_its_pixels(shape, tmp_path):
  image = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
  writer = MetricsWriter(tmp_path, 0)
  writer.image(9, "train/augmented_images", image)
  writer.close()
  (event,) = read_events(tmp_path).Images("train/augmented_images")
  assert (event.step, event.height, event.width) == (9, *shape[:2])
  pixels = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
  np.testing.assert_array_equal(pixels.reshape(shape), image)


def test_config_is_readable_text(tmp_path):
  config = small_config(**{"sam.rho": 0.3, "dataset.data_dir": "/data"})
  writer = MetricsWriter(tmp_path, 0)
  writer.config(config)
  writer.close()
  (event,) = read_events(tmp_path).Tensors("config")
  (text,) = event.tensor_proto.string_val
  head, *lines, end = text.decode().splitlines()
  assert (event.step, head, end) == (0, "```json", "```")
  assert json.loads("\n".join(lines)) == config


def test_hyperparameters_have_types_and_a_session(tmp_path):
  config = small_config(
    **{"model.name": "wrn10_1", "sam.rho": 0.3, "sam.m": 8, "seed": 2},
    **{"sam.adaptive": True, "keep_checkpoints_at_epochs": (1, 2)},
  )
  writer = MetricsWriter(tmp_path, 0)
  writer.config(config)
  writer.mark_finished()
  writer.close()
  found = hyperparameters(tmp_path)
  expected = {
    "model.name": ("string_value", "wrn10_1"),
    "dataset.name": ("string_value", "cifar10"),
    "sam.rho": ("number_value", 0.3),
    "sam.m": ("number_value", 8),
    "sam.adaptive": ("bool_value", True),
    "optimizer.learning_rate": ("number_value", 0.1),
    "seed": ("number_value", 2),
  }
  assert {name: found[name] for name in expected} == expected
  # Fields that change no result do not fill the tab.
  assert not [name for name in found if name.startswith("analysis.")]
  assert "compilation_cache_dir" not in found

  (run,) = tmp_path.glob("events.*")  # one file: one run
  assert [p.name for p in tmp_path.iterdir()] == [run.name]
  events = read_events(tmp_path)
  start = metadata.parse_session_start_info_plugin_data(
    events.SummaryMetadata(SESSION_START).plugin_data.content
  )
  end = metadata.parse_session_end_info_plugin_data(
    events.SummaryMetadata(SESSION_END).plugin_data.content
  )
  assert end.status == api_pb2.STATUS_SUCCESS
  assert 0 < start.start_time_secs <= end.end_time_secs


def test_unfinished_run_has_an_open_session(tmp_path):
  """TensorBoard keeps the first end of a session: no resume could undo it."""
  writer = MetricsWriter(tmp_path, 0)
  writer.config(small_config())
  writer.close()
  tags = read_events(tmp_path).Tags()["tensors"]
  assert SESSION_START in tags
  assert SESSION_END not in tags
  writer = MetricsWriter(tmp_path, 5)
  writer.mark_finished()
  writer.close()
  assert SESSION_END in read_events(tmp_path).Tags()["tensors"]


def test_optional_numbers_stay_numbers(tmp_path):
  """None is left out."""
  found = []
  for i, rate in enumerate([None, 0.5]):
    (tmp_path / str(i)).mkdir()
    writer = MetricsWriter(tmp_path / str(i), 0)
    writer.config(small_config(**{"model.dropout_rate": rate}))
    writer.close()
    found.append(hyperparameters(tmp_path / str(i)))
  assert "model.dropout_rate" not in found[0]
  assert found[1]["model.dropout_rate"] == ("number_value", 0.5)


LINES = [
  (
    (110, 330, 10.0, "train", {"loss": 0.81234, "error_rate": 0.301}, 2345.4),
    "step 110/330  epoch 10.0  train  loss 0.8123  error 30.10%"
    "  2,345 images/s",
  ),
  (
    (7, 1000, 0.04, "train", {"sharpness": 1.5, "loss": 2.0}, 99.6, 3725.2),
    "step    7/1000  epoch 0.0  train  loss 2.0000  sharpness 1.5000"
    "  100 images/s  ETA 1:02:05",
  ),
  (
    (
      *(5, 5, 1.0, "analysis"),
      {"m_sharpness": 0.25, "lambda_max": 123.456, "other": 1.0},
    ),
    "step 5/5  epoch 1.0  analysis  m-sharpness 0.2500  lambda_max 123.5",
  ),
  (
    (5, 5, 1.0, "test", {"top_5_error_rate": 0.05, "loss": math.nan}),
    "step 5/5  epoch 1.0  test  top-5 error 5.00%",
  ),
]


@pytest.mark.parametrize(("arguments", "expected"), LINES)
def test_console_line(arguments, expected, caplog):
  caplog.set_level(logging.INFO, "sam_jax")
  log_line(*arguments)
  assert caplog.messages == [expected]


def test_image_grid_places_every_pixel():
  images = np.arange(1, 1 + 5 * 2 * 3 * 3, dtype=np.uint8).reshape(5, 2, 3, 3)
  grid = image_grid(images, columns=2)
  assert grid.shape == (3 * 3 - 1, 2 * 4 - 1, 3)
  expected = np.zeros_like(grid)
  for i, (top, left) in enumerate([(0, 0), (0, 4), (3, 0), (3, 4), (6, 0)]):
    for y in range(2):
      for x in range(3):
        expected[top + y, left + x] = images[i, y, x]
  np.testing.assert_array_equal(grid, expected)
  one_row = image_grid(images)  # fewer images than columns
  assert one_row.shape == (2, 5 * 4 - 1, 3)
  np.testing.assert_array_equal(one_row[:, 16:], images[4])


@pytest.fixture
def package_logger():
  """Restore the logging that `show_on_stderr` sets up."""
  package = logging.getLogger("sam_jax")
  before = package.level, package.propagate, list(package.handlers)
  verbosity = absl_logging.get_verbosity()
  yield package
  package.level, package.propagate, package.handlers[:] = before
  absl_logging.set_verbosity(verbosity)


def test_own_lines_are_shown_and_those_of_libraries_are_not(
  package_logger, capsys, caplog
):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  absl_logging.set_verbosity(absl_logging.INFO)
  absl_logging.info("noise")
  show_on_stderr()
  absl_logging.info("more noise")
  absl_logging.warning("a warning")
  assert caplog.messages == ["noise", "a warning"]

  logging.getLogger("sam_jax.runs.somewhere").info("step %d", 5)
  (line,) = capsys.readouterr().err.splitlines()[-1:]
  clock, message = line.split("  ")
  assert message == "step 5"
  assert [part.isdigit() for part in clock.split(":")] == [True] * 3
