"""Lines of metrics.jsonl survive a resume; damage is reported and removed."""

import json
import resource

import pytest

from sam_jax.config.schema import default_config
from sam_jax.runs import workdir
from sam_jax.runs.metrics_file import MetricsFile

LINES = [b'{"step": %d, "train/loss": 0.5}' % step for step in (2, 4, 6)]

REASON = "they were lost, or were not due with the config of that time."

DAMAGED = {
  "one byte": LINES[1].replace(b"loss", b"lo\xffs"),
  "binary": b"\x80\xff\x00{",
  "no object": b"[4]",
  "no step": b'{"train/loss": 0.5}',
  "a step that is no number": b'{"step": "4", "train/loss": 0.5}',
  "a scalar that is no number": b'{"step": 4, "train/loss": null}',
  "two lines in one": LINES[1] + LINES[1],
  "empty": b"",
  "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_lines_are_removed_with_a_warning(kind, tmp_path, caplog):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b"\n".join([LINES[0], DAMAGED[kind], LINES[2], b""]))
  lines = MetricsFile(path, 6)
  assert caplog.messages == [
    "metrics.jsonl: 1 of 3 lines is damaged, and removed."
  ]
  assert path.read_bytes() == b"\n".join([LINES[0], LINES[2], b""])
  caplog.clear()
  lines.warn_of_missing("train", range(2, 7, 2))
  assert caplog.messages == [
    f"metrics.jsonl lacks 1 of 3 lines of train, those of steps 4: {REASON}"
  ]


def test_a_line_that_a_kill_cut_is_removed_without_a_warning(tmp_path, caplog):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b"\n".join([*LINES, b'{"step": 8, "tra']))
  lines = MetricsFile(path, 7)
  lines.write_scalars(8, {"train/loss": 0.25})
  assert path.read_bytes().splitlines() == [
    *LINES,
    b'{"step": 8, "train/loss": 0.25}',
  ]
  lines.warn_of_missing("train", range(2, 8, 2))
  assert not caplog.messages


def test_lines_after_the_checkpoint_are_removed(tmp_path, caplog):
  path = tmp_path / "metrics.jsonl"
  test = b'{"step": 4, "test/loss": 1.5, "test/error_rate": 0.5}'
  path.write_bytes(b"\n".join([LINES[0], LINES[1], test, LINES[2], b""]))
  lines = MetricsFile(path, 4)
  assert path.read_bytes().splitlines() == [LINES[0], LINES[1], test]
  assert lines.last_lines == [
    {"train/loss": 0.5},
    {"test/loss": 1.5, "test/error_rate": 0.5},
  ]
  assert lines.has("test", 4)
  assert not lines.has("test", 2)
  assert not lines.has("train", 6)
  assert not caplog.messages


def test_missing_lines_are_named(tmp_path, caplog):
  path = tmp_path / "metrics.jsonl"
  found = {10, 20, 60, 80}
  path.write_text("".join(f'{{"step": {s}, "train/a": 1}}\n' for s in found))
  MetricsFile(path, 100).warn_of_missing("train", range(10, 101, 10))
  path.unlink()
  MetricsFile(path, 100).warn_of_missing("train", range(10, 101, 10))
  many = MetricsFile(path, 100)
  for step in range(10, 101, 20):
    many.write_scalars(step, {"train/a": 1})
  MetricsFile(path, 100).warn_of_missing("train", range(5, 101, 5))
  assert caplog.messages == [
    f"metrics.jsonl lacks {count} lines of train, those of steps {steps}:"
    f" {REASON}"
    for count, steps in (
      ("6 of 10", "30 to 50, 70, 90 to 100"),
      ("10 of 10", "10 to 100"),
      ("15 of 20", "5, 15 to 25, 35 to 45, 55 to 65, 75 to 85 and more"),
    )
  ]


def test_a_full_disk_is_one_line_and_leaves_no_damage(
  tmp_path, limit_file_size, caplog
):
  with (
    pytest.raises(workdir.WorkdirLostError) as raised,
    workdir.claim(tmp_path, default_config()) as path,
  ):
    lines = MetricsFile(path / "metrics.jsonl", 0)
    limit_file_size(100)
    for step in range(1, 9):
      lines.write_scalars(step, {"train/loss": 0.5})
  limit_file_size(resource.RLIM_INFINITY)
  assert str(raised.value).startswith(
    f"--workdir={tmp_path} can no longer be written: [Errno 27] File too"
    f" large: '{tmp_path}/metrics.jsonl'."
  )
  text = (tmp_path / "metrics.jsonl").read_text()
  assert len(text) == 100  # half a line
  assert not text.endswith("\n")
  lines = MetricsFile(tmp_path / "metrics.jsonl", 2)
  lines.write_scalars(3, {"train/loss": 0.5})
  text = (tmp_path / "metrics.jsonl").read_text()
  steps = [json.loads(line)["step"] for line in text.splitlines()]
  assert steps == [1, 2, 3]
  assert not caplog.messages
