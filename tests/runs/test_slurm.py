"""Submissions to SLURM, with fake programs of SLURM in $PATH."""

import json
import os
import subprocess
import sys

import pytest
import submitit.slurm.slurm
from etils import epath

from sam_jax.config.schema import ConfigError, default_config
from sam_jax.runs import slurm, slurm_job, workdir
from sam_jax.runs.sweep import PlannedRun

# Keeps the batch script, and gives its job the number 12.
SBATCH = """#!/bin/bash
[ ! -e "$RECORD/refuse" ] || { cat "$RECORD/refuse" >&2; exit 1; }
cp "$1" "$RECORD/script"
echo "Submitted batch job 12"
"""
SQUEUE = """#!/bin/bash
[ "$*" = "--me --array --noheader --format=%i|%k" ] || exit 1
cat "$RECORD/queue"
"""
# Runs a command after its options, as the first task.
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do
  [[ "$1" == --unbuffered ]] || shift
  shift
done
SLURM_PROCID=0 exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "$@" >>"$RECORD/requeued"
"""

FINISH = "pass"
RESULT = '{"error_rate": 0.125, "step": 9}'
FAIL = "import sys; print('out of memory', file=sys.stderr); sys.exit(3)"
STOP_ON_REQUEST = "print('saved')"

OPTIONS = [
  "time=1-12:00:00",
  "partition=gpu",
  "account=007",
  "array_parallelism=2",
]


@pytest.fixture
def record(tmp_path, monkeypatch):
  """Put the fake programs into $PATH; return the directory of their files."""
  directory = tmp_path / "record"
  directory.mkdir()
  (directory / "queue").write_text("7|a job of another program\n8|(null)\n")
  (tmp_path / "bin").mkdir()
  programs = {
    "sbatch": SBATCH,
    "squeue": SQUEUE,
    "srun": SRUN,
    "scontrol": SCONTROL,
  }
  for name, text in programs.items():
    (tmp_path / "bin" / name).write_text(text)
    (tmp_path / "bin" / name).chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
  monkeypatch.setenv("RECORD", str(directory))
  return directory


@pytest.fixture
def submit(record, tmp_path):
  """Submit runs that are these programs; return failures and messages."""

  def submit_programs(**programs):
    runs = [
      make_run(tmp_path / "root" / name, program)
      for name, program in programs.items()
    ]
    said = []
    submitter = slurm.Submitter(
      tmp_path / "root/slurm", slurm.parse_options(OPTIONS)
    )
    return submitter.submit_all(runs, said.append), said

  return submit_programs


def make_run(path, program):
  path.mkdir(parents=True, exist_ok=True)
  command = [sys.executable, "-c", program, str(path)]
  return PlannedRun(
    path.name, epath.Path(path), path / "log.txt", command, default_config()
  )


def queue_of(script, *tasks):
  """Return what squeue prints about tasks of the array of a batch script."""
  (comment,) = [
    line.partition("=")[2].strip("'")
    for line in script.read_text().splitlines()
    if line.startswith("#SBATCH --comment=")
  ]
  return "".join(f"12_{task}|{comment}\n" for task in tasks)


def test_runs_are_submitted_once(submit, record, tmp_path):
  failures, said = submit(a=FINISH, b=FINISH, c=FINISH)
  assert failures == []
  assert said == [
    "[1/3] a: submitted, job 12_0",
    "[2/3] b: submitted, job 12_1",
    "[3/3] c: submitted, job 12_2",
  ]
  lines = (record / "script").read_text().splitlines()
  options = [line for line in lines if line.startswith("#SBATCH")]
  assert {
    "#SBATCH --account=007",
    "#SBATCH --array=0-2%2",
    "#SBATCH --partition=gpu",
    "#SBATCH --requeue",
    "#SBATCH --signal=USR2@90",
    "#SBATCH --time=1-12:00:00",
  } <= set(options)

  # a is finished, b is queued or running, c has failed, d is another config.
  (record / "queue").write_text("7|(null)\n" + queue_of(record / "script", 1))
  (tmp_path / "root/a/result.json").write_text(RESULT)
  write_run_of_another_config(tmp_path / "root/d")
  failures, said = submit(a=FINISH, b=FINISH, c=FINISH, d=FINISH)
  reason = "holds a run with another config: seed was 7 and is now 0"
  assert failures == [("d", reason)]
  assert said == [
    "[1/4] a: finished before",
    "[2/4] b: queued or running, job 12_1",
    "[3/4] c: submitted, job 12",
    f"[4/4] d: {reason}",
  ]
  assert "--array" not in (record / "script").read_text()

  (record / "queue").write_text(queue_of(record / "script", 0))
  (record / "script").unlink()
  _, said = submit(a=FINISH, c=FINISH)
  assert said[1] == "[2/2] c: queued or running, job 12_0"
  assert not (record / "script").exists()


def write_run_of_another_config(path):
  config = default_config()
  config.seed = 7
  (path / "checkpoints/1").mkdir(parents=True)
  (path / "config.json").write_text(json.dumps(workdir.to_dict(config)))


def test_job_is_requeued_only_after_a_stop_on_request(submit, record, tmp_path):
  programs = {"fail": FAIL, "stop": STOP_ON_REQUEST}
  submit(**programs)
  jobs = {
    name: subprocess.Popen(
      ["bash", record / "script"],
      env=os.environ | job_environment(index),
      stdout=subprocess.PIPE,
      text=True,
    )
    for index, name in enumerate(programs)
  }
  outputs = {name: job.communicate()[0] for name, job in jobs.items()}
  codes = {name: job.returncode for name, job in jobs.items()}
  assert codes == {"fail": 3, "stop": 0}
  logs = {
    name: (tmp_path / f"root/{name}/log.txt").read_text().splitlines()
    for name in programs
  }
  assert all(log[0].startswith("$ ") for log in logs.values())
  assert [logs[n][-1] for n in programs] == ["out of memory", "saved"]
  assert outputs["stop"].endswith("stop is not finished: requeue the job.\n")
  assert (record / "requeued").read_text() == "requeue 21\n"


def job_environment(index):
  """Return the variables of a task of an array."""
  return {
    "SLURM_ARRAY_JOB_ID": "12",
    "SLURM_ARRAY_TASK_ID": str(index),
    "SLURM_JOB_ID": str(20 + index),
  }


def test_job_of_a_finished_run_is_not_requeued(
  submit, record, tmp_path, monkeypatch
):
  submit(a=FINISH, b=FINISH)
  (file,) = (tmp_path / "root/slurm").glob("*.json")
  (tmp_path / "root/a/result.json").write_text(RESULT)
  for index in range(2):
    for name, value in job_environment(index).items():
      monkeypatch.setenv(name, value)
    slurm_job.requeue_unfinished(file)
  assert (record / "requeued").read_text() == "requeue 21\n"


def test_what_slurm_refuses_gives_one_line(submit, record, capfd):
  (record / "refuse").write_text("sbatch: error: no\nsbatch: such partition\n")
  with pytest.raises(ConfigError, match=r"^sbatch fails: sbatch: error: no"):
    submit(a=FINISH)
  assert capfd.readouterr() == ("", "")
  (record / "queue").unlink()
  with pytest.raises(ConfigError, match=r"^squeue fails: cat: .*No such file"):
    submit(a=FINISH)


@pytest.mark.parametrize(
  "content", [None, b"", b"\xff", b"{}", b"[]", b'{"runs": []}', b"3"]
)
def test_job_whose_runs_are_unknown_is_named(content, submit, record, tmp_path):
  submit(a=FINISH)
  (record / "queue").write_text(queue_of(record / "script", 0))
  (file,) = (tmp_path / "root/slurm").glob("*.json")
  file.unlink()
  if content is not None:
    file.write_bytes(content)
  message = rf"^{file} is missing or damaged \(.*\), but .*scancel 12_0$"
  with pytest.raises(ConfigError, match=message):
    submit(a=FINISH)


BAD_OPTIONS = {
  "key": (["tim=5"], "--slurm=tim=5: unknown key 'tim'."),
  "value": (["time"], "--slurm=time must look like key=value."),
  "twice": (["time=5", "time=6"], "--slurm gives time twice."),
  "number": (["time=5", "nodes=two"], "--slurm=nodes=two must be a positive"),
  "zero": (["time=5", "nodes=0"], "--slurm=nodes=0 must be a positive"),
  "no time": (["nodes=1"], "--slurm=time=... is missing"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_are_refused(name):
  texts, message = BAD_OPTIONS[name]
  with pytest.raises(ConfigError) as refused:
    slurm.parse_options(texts)
  assert str(refused.value).startswith(message)


def test_submitit_and_slurm_are_missed_by_name(record, tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", "/none")
  with pytest.raises(ConfigError, match="sbatch is not in"):
    slurm.Submitter(tmp_path, {})
  monkeypatch.setitem(sys.modules, "submitit", None)
  with pytest.raises(ConfigError, match=r"pip install 'sam-jax\[slurm\]'"):
    slurm.Submitter(tmp_path, {})


def test_submitit_takes_every_option():
  values = dict.fromkeys(slurm.OPTIONS, 1)
  script = submitit.slurm.slurm._make_sbatch_string("run", "folder", **values)
  for name in set(slurm.OPTIONS) - {"array_parallelism", "signal_delay_s"}:
    assert f"\n#SBATCH --{name.replace('_', '-')}=1\n" in script
