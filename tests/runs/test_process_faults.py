"""A fault of one of two processes ends both, with one line and one code."""

import json
import re
import subprocess
import sys

import pytest

from sam_jax.runs import watchdog
from sam_jax.runs.workdir import WorkdirLostError
from scripts.kill_runs.outcome import differences, outcome
from tests import process_pairs
from tests.processes import REPOSITORY

pytestmark = pytest.mark.long

# Exit codes, and what the line of each process contains; None: no line.
_FULL = "can no longer be written"
OUTCOMES = {
  "data of 0": ((2, 2), "Data set 'digits' can't be", "process 0 failed: Data"),
  "data of 1": ((2, 2), "process 1 failed: Data", "Data set 'digits' can't be"),
  "port in use": ((2, 1), r"localhost:\d+ is in use", "from process 0 of 2"),
  "first never comes": ((0, 1), None, "from process 0 of 2 at localhost:"),
  "second never comes": ((1, 0), "from process 1 of 2 at localhost:", None),
  "full disk": ((1, 1), "space|EXHAUSTED", "process 0 failed: .*"),
  "devices": (
    (2, 2),
    *["number of devices .1 on process 0, 2 on process 1"] * 2,
  ),
  "jax version": (
    (2, 2),
    *["jax .'.*' on process 0, '0.9.9' on process 1"] * 2,
  ),
  "code": ((2, 2), *["code of sam_jax .'.*' on process 0, '0123abcd' on"] * 2),
  "config": ((2, 2), *["config.sam.rho .0.5 on process 0, 0.3 on"] * 2),
  "killed 0": ((-9, 1), None, "process 1 lost"),
  "killed 1": ((1, -9), "process 0 lost", None),
  "bug in 1": ((1, 1), "process 1 failed: KeyError: 'a bug'", "KeyError"),
  "result": ((1, 1), _FULL, f"process 0 failed: .*{_FULL}"),
  "end of the job": ((0, 0), None, None),
  "preempted in an evaluation": ((0, 0), None, None),
  "none": ((0, 0), None, None),
  "pmap": ((0, 0), None, None),
}

# Those who wait say so before they give up.
WAITING = {
  ("port in use", 1): "waiting for process 0 of 2 at localhost:",
  ("first never comes", 1): "waiting for process 0 of 2 at localhost:",
  ("second never comes", 0): "waiting for process 1 of 2 at localhost:",
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
  """Run all pairs once: they share the import of their programs."""
  directory = tmp_path_factory.mktemp("pairs")
  subprocess.run(
    [sys.executable, "-m", "tests.process_pairs", directory],
    cwd=REPOSITORY,
    check=True,
    timeout=900,
  )
  return directory


@pytest.fixture(scope="module")
def outcomes(pairs):
  return json.loads((pairs / "outcomes.json").read_text())


def test_every_fault_has_an_outcome():
  assert OUTCOMES.keys() == process_pairs.FAULTS.keys()


@pytest.mark.parametrize("fault", OUTCOMES)
def test_a_fault_ends_both_processes(fault, outcomes):
  if fault not in outcomes:
    pytest.skip("this machine does not let us mount a small disk")
  pair = outcomes[fault]
  codes, *expected = OUTCOMES[fault]
  assert pair["codes"] == list(codes), pair
  for process, (said, line) in enumerate(
    zip(pair["said"], expected, strict=True)
  ):
    lines = [s for s in said.splitlines() if s.startswith("error: ")]
    assert len(lines) == (line is not None), said
    assert line is None or re.search(line, lines[0]), lines
    assert WAITING.get((fault, process), "") in said
    assert "stack trace" not in said
    if (fault, process) != ("bug in 1", 1):
      assert "Traceback" not in said, said


def test_signals_end_a_job_with_a_checkpoint(outcomes):
  """SIGUSR1 at process 1 stops both."""
  first, second = outcomes["end of the job"]["said"]
  assert re.search(
    r"Stopped at step \d+ of 400; the same command resumes", first
  )
  assert "Stopped" not in second  # only process 0 logs


def test_a_preemption_within_an_evaluation_saves_the_state(pairs, outcomes):
  fault = "preempted in an evaluation"
  first, second = outcomes[fault]["said"]
  assert "Stopped at step 8 of 12; the same command resumes" in first
  assert "Stopped" not in second
  workdir = pairs / process_pairs.workdir_of(fault)
  # Without the request: before the first evaluation, and at the end.
  names = {path.name for path in (workdir / "checkpoints").iterdir()}
  assert names == {"4", "8"}
  assert not (workdir / "result.json").exists()


def test_pmap_over_two_processes_gives_the_same_bits(pairs):
  expected, found = (outcome(pairs / name) for name in ("pmap", "none"))
  assert differences(expected, found) == []


def test_a_lost_connection_is_not_taken_for_a_full_disk():
  gloo = ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset")
  save = WorkdirLostError(f"checkpoints can no longer be written: {gloo}")
  save.__cause__ = gloo
  end = SystemExit(f"error: {save}")
  end.__cause__ = save  # as `sam_jax.train` ends
  for error in (save, end):
    code, line, _ = watchdog._outcome(error, process_id=1)
    assert code == 1
    assert line.startswith(
      f"process 1 lost the others, or failed itself: {gloo}"
    )

  full = OSError(28, "No space left on device")
  save = WorkdirLostError(f"checkpoints can no longer be written: {full}")
  save.__cause__ = full
  end = SystemExit(f"error: {save}")
  end.__cause__ = save
  for error in (save, end):
    assert watchdog._outcome(error, process_id=1) == (1, str(save), None)
