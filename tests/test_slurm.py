"""Training and sweeps as jobs of a real SLURM, where one answers.

On a machine that has none: sudo bash scripts/slurm_node.sh start
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time

import pytest
import submitit  # here: logging is configured, which a test would not survive

from tests.in_process import run_script
from tests.processes import (
  CACHE,
  REPOSITORY,
  finish,
  read_metrics,
  start_training,
  wait_for_step,
  xla_flags,
)


def slurm_answers():
  """Return True if `sinfo` lists a partition."""
  if not shutil.which("sinfo"):
    return False
  done = subprocess.run(["sinfo", "--noheader"], capture_output=True)
  return done.returncode == 0 and bool(done.stdout.strip())


pytestmark = pytest.mark.skipif(
  not slurm_answers(),
  reason="no SLURM answers here; scripts/slurm_node.sh starts one",
)

# 3 steps an epoch: long enough for three interruptions.
STEPS = 60
SMALL = (
  "--config.model.name=wrn10_1",
  "--config.batch_size=32",
  "--config.dataset.validation_size=1346",
  "--config.num_epochs=20",
  "--config.log_every_steps=1",
  "--config.eval_every_epochs=10",
  "--config.checkpoint_every_epochs=10",
  "--config.augment.policy=basic",
  f"--config.compilation_cache_dir={CACHE}",
)
CONFIG = "--config=configs/digits.py:sam"
INTERRUPTIONS = (
  ["scontrol", "requeue"],
  ["scancel", "--signal=USR1"],
  ["scancel", "--signal=TERM"],
)
TRAIN = f"{sys.executable} -m sam_jax.train"


def final_state(workdir):
  """Return the checksum of the last checkpoint, and metrics.jsonl."""
  (file,) = (workdir / f"checkpoints/{STEPS}/checksum").glob("*metadata*")
  return json.loads(file.read_text())["crc32"], read_metrics(workdir)


@pytest.fixture(scope="module", autouse=True)
def one_device():
  """Give jobs, which inherit the environment, one device a process."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XLA_FLAGS", xla_flags(1))
    patch.chdir(REPOSITORY)
    yield


@pytest.fixture
def sbatch(tmp_path):
  """Submit a script; return the job. Cancel the jobs when the test ends."""
  jobs = []

  def submit(script, *options):
    path = tmp_path / "job.sh"
    path.write_text(script)
    command = ["sbatch", "--parsable", *options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    jobs.append(done.stdout.strip())
    return jobs[-1]

  yield submit
  subprocess.run(["scancel", *jobs], check=bool(jobs))


def wait_for_end(job):
  """Wait until a job, with all its tasks and requeues, has left the queue."""
  command = ["squeue", "--noheader", f"--jobs={job}"]
  wait_until(
    lambda: not subprocess.run(command, capture_output=True).stdout.strip(),
    f"the end of job {job}",
  )


def wait_until(condition, name):
  """Wait until a condition holds."""
  deadline = time.monotonic() + 300
  while not condition():
    assert time.monotonic() < deadline, f"{name} did not come"
    time.sleep(0.1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  """Train seeds 0 and 1 as an array of shards; return the root."""
  root = tmp_path_factory.mktemp("shards") / "root"
  script = root.with_suffix(".sh")
  arguments = " ".join(SMALL)
  script.write_text(f"""#!/bin/bash
{sys.executable} -m sam_jax.sweep {CONFIG} --root={root} --grid=seed=0,1 \\
  --shard=$SLURM_ARRAY_TASK_ID/2 -- {arguments}
""")
  output = f"--output={root.parent}/%a.out"
  command = ["sbatch", "--wait", "--array=0-1", output, str(script)]
  subprocess.run(command, check=True, timeout=600)
  return root


def test_array_of_shards_trains_every_run_once(undisturbed):
  for seed in range(2):
    log = (undisturbed / f"seed={seed}/log.txt").read_text()
    assert re.findall(r"^\$ .*--config.seed=(\d)", log, re.M) == [str(seed)]
    said = (undisturbed.parent / f"{seed}.out").read_text()
    assert said.endswith("1 of 1 run is finished.\n")
  first, second = (final_state(undisturbed / f"seed={s}") for s in range(2))
  assert first != second


def test_srun_trains_as_processes_started_by_hand(tmp_path, data_dir):
  flags = [CONFIG, *SMALL, "--config.num_epochs=4"]
  slurm, by_hand = tmp_path / "slurm", tmp_path / "by_hand"
  command = ["srun", "--ntasks=2", *TRAIN.split(), f"--workdir={slurm}", *flags]
  done = subprocess.run(command, capture_output=True, text=True, timeout=600)
  assert done.returncode == 0, done.stderr

  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"--coordinator_address=localhost:{free.getsockname()[1]}"
  processes = [
    start_training(
      *(by_hand, data_dir, *flags, address),
      *("--num_processes=2", f"--process_id={i}"),
    )
    for i in range(2)
  ]
  for process in processes:
    code, said = finish(process)
    assert code == 0, said
  results = [(w / "result.json").read_text() for w in (slurm, by_hand)]
  assert results[0] == results[1]
  assert read_metrics(slurm) == read_metrics(by_hand)


def test_scripts_of_the_documentation_have_options_of_sbatch(tmp_path):
  text = (REPOSITORY / "docs/devices.md").read_text()
  scripts = re.findall(r"^```bash\n(#!.*?)^```$", text, re.DOTALL | re.M)
  assert len(scripts) == 2
  for script in scripts:
    # This node is the only one and has no GPUs.
    script = re.sub(r"--gpus-per-node=\d", "", script)
    path = tmp_path / "job.sh"
    path.write_text(script.replace("--nodes=2", "--nodes=1"))
    subprocess.run(["sbatch", "--test-only", path], check=True)


JOB = """#!/bin/bash -e
#SBATCH --requeue --open-mode=append
echo "start ${{SLURM_RESTART_COUNT:-0}}"
srun {train} --workdir={workdir} {flags}
[ -e {workdir}/result.json ] || scontrol requeue "$SLURM_JOB_ID"
"""


@pytest.fixture
def job(sbatch, tmp_path):
  """Start a job that trains seed 0 in the directory `run`."""
  flags = " ".join([CONFIG, *SMALL])
  return sbatch(
    JOB.format(train=TRAIN, workdir=tmp_path / "run", flags=flags),
    f"--output={tmp_path}/job.out",
  )


def wait_for_steps_of_start(number, tmp_path):
  """Wait until a job has started that often and has trained some steps."""
  output = tmp_path / "job.out"
  wait_until(
    lambda: output.exists() and f"start {number}\n" in output.read_text(),
    f"start {number}",
  )
  lines = read_metrics(tmp_path / "run")
  wait_for_step(tmp_path / "run", lines[-1]["step"] + 3 if lines else 3)


def test_requeued_job_ends_with_the_same_bits(undisturbed, job, tmp_path):
  for number, command in enumerate(INTERRUPTIONS):
    wait_for_steps_of_start(number, tmp_path)
    subprocess.run([*command, job], check=True)
  wait_for_end(job)
  said = (tmp_path / "job.out").read_text()
  assert re.findall(r"start (\d)", said) == ["0", "1", "2", "3"], said
  assert final_state(tmp_path / "run") == final_state(undisturbed / "seed=0")


def test_canceled_job_saves_and_is_not_requeued(job, tmp_path):
  wait_for_steps_of_start(0, tmp_path)
  subprocess.run(["scancel", job], check=True)
  wait_for_end(job)
  (stopped,) = (tmp_path / "run/checkpoints").iterdir()
  assert 3 <= int(stopped.name) < STEPS
  assert not (tmp_path / "run/result.json").exists()


@pytest.fixture
def sweep(tmp_path, capsys):
  """Submit seeds 0 and 1; return the exit code and the output."""
  jobs = set()

  def run():
    code = 0
    try:
      run_script(
        *("sweep", CONFIG, f"--root={tmp_path}", "--grid=seed=0,1"),
        *("--launcher=slurm", "--slurm=time=60", "--", *SMALL),
      )
    except SystemExit as end:
      code = end.code or 0
    said, error = capsys.readouterr()
    jobs.update(re.findall(r"submitted, job (\d+)", said))
    return code, said, error

  yield run
  subprocess.run(["scancel", *jobs], check=bool(jobs))


def test_sweep_submits_each_run_once_until_it_is_finished(
  undisturbed, sweep, tmp_path
):
  code, said, error = sweep()
  assert (code, error) == (0, "")
  job = re.search(r"seed=0: submitted, job (\d+)_0\n", said)[1]
  assert f"[2/2] seed=1: submitted, job {job}_1\n" in said

  wait_for_step(tmp_path / "seed=0", 3)
  warning = submitit.JobEnvironment.USR_SIG
  subprocess.run(["scancel", f"--signal={warning}", f"{job}_0"], check=True)
  code, said, _ = sweep()
  assert code == 0
  assert f"[1/2] seed=0: queued or running, job {job}_0\n" in said
  wait_for_end(job)

  code, said, _ = sweep()
  assert code == 0
  assert said.count("finished before") == 2
  for name in ("seed=0", "seed=1"):
    assert final_state(tmp_path / name) == final_state(undisturbed / name)
  log = (tmp_path / "seed=0/log.txt").read_text()
  assert log.count("$ ") == 2  # before and after the requeue
  assert os.listdir(tmp_path / "slurm")
