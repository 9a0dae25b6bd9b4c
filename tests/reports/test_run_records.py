"""Reading runs: whole, unfinished and damaged ones."""

import json
import math

import pytest

from sam_jax.config.schema import default_config
from sam_jax.reports import run_records
from tests.reports.written_runs import append_metrics, groups_of, write_run


def unfinished(root):
  """Return what is said of runs that are missing from the table, or damaged."""
  runs, _ = run_records.read_runs([root])
  return run_records.describe_unfinished(runs, [root])


def test_scalars_of_a_run_by_epoch(tmp_path):
  write_run(tmp_path / "run", [0.5, 0.2, 0.3], num_epochs=3)
  append_metrics(
    tmp_path / "run",
    {"step": 10, "analysis/sharpness": 2.0},
    {"step": 30, "analysis/sharpness": 1.5},
  )
  run = run_records.read_run(tmp_path / "run")
  assert run.curve("test/error_rate") == {1: 0.5, 2: 0.2, 3: 0.3}
  assert run.curve("train/error_rate") == {
    1: pytest.approx(0.6),
    2: pytest.approx(0.3),
    3: pytest.approx(0.4),
  }
  assert (run.last(), run.best()) == (30, 20)
  assert run.last("top_5_error_rate") == pytest.approx(3)
  assert run.last_logged("analysis/sharpness") == 1.5
  assert math.isnan(run.last_logged("analysis/lambda_max"))
  assert run.state == "finished"


def test_a_field_that_config_json_lacks_has_its_default(tmp_path):
  for name in ("old", "new"):
    write_run(tmp_path / name, [0.1])
  file = tmp_path / "old/config.json"
  config = json.loads(file.read_text())
  del config["sam"]["eta"], config["notes"]
  file.write_text(json.dumps(config))
  (group,) = groups_of(tmp_path)
  assert len(group.runs) == 2
  assert group.fields["sam.eta"] == default_config().sam.eta


def test_every_unfinished_run_is_listed(tmp_path):
  write_run(tmp_path / "done", [0.1])
  write_run(tmp_path / "running", [0.5, 0.4], is_finished=False, seed=1)
  with (tmp_path / "running/metrics.jsonl").open("a") as file:
    file.write('{"step": 2100, "test/err')  # being written
  (tmp_path / "running/checkpoints").mkdir()
  (tmp_path / "broken").mkdir()
  log = tmp_path / "broken/log.txt"
  log.write_text("error: no data\n")
  assert unfinished(tmp_path) == [
    "1 of 3 runs is finished. Missing or damaged:",
    f"- {tmp_path}/broken: failed before its first step, see {log}",
    f"- {tmp_path}/running: not finished, logged up to step 2000",
  ]


def test_runs_that_a_sweep_has_not_started_are_missing(tmp_path):
  plan = tmp_path / "sweep/sweep.json"
  write_run(plan.parent / "a", [0.1])
  plan.write_text('{"runs": ["a", "b,seed=1"]}')
  assert unfinished(tmp_path) == [
    "1 of 2 runs is finished. Missing or damaged:",
    f"- {plan.parent}/b,seed=1: not started",
  ]


def test_no_runs_no_problem(tmp_path):
  assert unfinished(tmp_path) == [f"There are no runs in {tmp_path}."]
  write_run(tmp_path / "run", [0.5])
  assert unfinished(tmp_path) == []


LINE = b'{"step": 1000, "test/error_rate": 0.4}\n'
LAST = b'{"step": 2000, "test/error_rate": 0.3}\n'


@pytest.mark.parametrize(
  ("content", "problem", "errors"),
  [
    (None, "metrics.jsonl is missing", []),
    (
      LINE + b"\x80\xff\x00\x01\n" + LAST,
      "metrics.jsonl: 1 of 3 lines is damaged, the first is line 2",
      [0.4, 0.3],
    ),
    (
      b"3\n[]\n" + LINE + b'{"test/error_rate": 0.3}\n{"step": "two"}\n',
      "metrics.jsonl: 4 of 5 lines are damaged, the first is line 1",
      [0.4],
    ),
    (
      LINE + LAST[:20],
      "metrics.jsonl: 1 of 2 lines is damaged, the first is line 2",
      [0.4],
    ),
    (LINE + b'{"step": 2000, "test/error_rate": null}\n', None, [0.4]),
  ],
)
def test_whole_lines_of_damaged_metrics_are_kept(
  tmp_path, content, problem, errors
):
  write_run(tmp_path / "run", [0.3])
  file = tmp_path / "run/metrics.jsonl"
  file.unlink()
  if content is not None:
    file.write_bytes(content)
  run = run_records.read_run(tmp_path / "run")
  assert list(run.curve("test/error_rate").values()) == errors
  assert (run.last(), run.best()) == (30, 30)
  expected = []
  if problem:
    expected = [
      "1 of 1 run is finished. Missing or damaged:",
      f"- {run.path}: finished; {problem}",
    ]
  assert unfinished(tmp_path) == expected
