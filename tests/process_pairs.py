"""Pairs of training processes, in each of which something fails.

python -m tests.process_pairs DIRECTORY

All processes are forked from this one, which has imported everything, and
several pairs run at once. DIRECTORY/outcomes.json has for each fault, and for
both processes, the exit code, the output and the seconds until both had ended.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import time

import jax

import sam_jax.analysis.hook  # noqa: F401
from sam_jax.runs import distributed, watchdog
from sam_jax.training import (
  build,
  hooks,
  input_pipeline,
  loop,  # noqa: F401
  parallel,
)
from tests import garbage, processes, tiny

FLAGS = (
  "--config=configs/digits.py:sam",
  "--config.num_epochs=2",
  "--config.sam.m=8",
  "--config.batch_size=16",  # 4 steps an epoch
  "--config.log_every_steps=1",
  "--config.augment.policy=none",
  "--config.checkpoint_every_epochs=0.5",
  "--config.eval_every_epochs=2",
  f"--config.compilation_cache_dir={processes.CACHE}",
)
AT_ONCE = 4  # pairs
SMALL_DISK = "100k"
LIMIT = 180.0  # seconds until a pair that hangs is killed


def at_step(number, act):
  """Let a process act after a step."""
  log = hooks.LogMetrics.__call__

  def log_and_act(self, step, *args):
    log(self, step, *args)
    if step == number:
      act()

  hooks.LogMetrics.__call__ = log_and_act


def send(number):
  """Return an action: send this process a signal."""
  return lambda: os.kill(os.getpid(), number)


def raise_bug():
  raise KeyError("a bug")


def lose_data(process):
  """Give a process a data directory that it cannot use."""

  def lose(index, flags):
    if index == process:
      flags.append("--config.dataset.data_dir=/dev/null/tfds")

  return lose


def never_come(process):
  def stay_away(index, flags):
    del flags
    if index == process:
      os._exit(0)

  return stay_away


def use_port(index, flags):
  """Let another program listen on the port of process 0."""
  if index == 0:
    port = int(flags[-3].rpartition(":")[2])
    server = socket.create_server(("", port))
    server.set_inheritable(True)
    globals()["server"] = server  # until the end of the process


def act_at(process, step, act):
  """Let a process act after a step."""

  def prepare(index, flags):
    del flags
    if index == process:
      at_step(step, act)

  return prepare


def end_job(index, flags):
  """Announce to process 1 of a longer run that its job ends.

  The processes agree on a step to stop at, which takes some time.
  """
  flags.append("--config.num_epochs=100")
  act_at(1, 3, send(signal.SIGUSR1))(index, flags)


def stop_while_evaluating(index, flags):
  """Announce a preemption to process 1 in the second of three evaluations."""
  flags += [
    "--config.num_epochs=3",
    "--config.eval_every_epochs=1",
    "--config.eval_batch_size=2",  # 32 batches
    "--config.checkpoint_every_epochs=10",
  ]
  evaluate = hooks.Evaluate._evaluate

  def stop_and_evaluate(self, step, state):
    if step == 8:
      batches = self._run.dataset.eval_batches

      def slow_batches(split):  # the processes agree within two seconds
        for batch in batches(split):
          time.sleep(0.2)
          yield batch

      self._run.dataset.eval_batches = slow_batches
      if index == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    evaluate(self, step, state)

  hooks.Evaluate._evaluate = stop_and_evaluate


def on_second(act):
  """Let process 1 differ from process 0."""
  return lambda index, flags: act(flags) if index == 1 else None


def lose_result(index, flags):
  del index, flags

  def fail(*_):
    raise OSError(28, "No space left on device", "/some/result.json")

  hooks.write_result = fail


def other_jax(flags):
  del flags
  version = distributed.importlib.metadata.version
  distributed.importlib.metadata.version = lambda name: (
    "0.9.9" if name == "jax" else version(name)
  )


def other_code(flags):
  del flags
  code = distributed._code
  distributed._code = lambda: code() | {"code of sam_jax": "0123abcd"}


def measure_much(index, flags):
  """Let everything read the state: averages, analyses and evaluations."""
  del index
  flags += [
    "--config.ema.decay=0.9",
    "--config.eval_on_train=True",
    "--config.analysis.every_epochs=1",
    "--config.analysis.num_examples=32",
    "--config.analysis.m=16",
    "--config.analysis.lanczos_steps=2",
  ]


def use_pmap(index, flags):
  """Map functions onto the devices of both processes as one process does."""
  measure_much(index, flags)
  shard_map = parallel._shard_map

  def by_pmap(fn, mesh, in_axes, out_axes, donate_argnums):
    if len(mesh.local_devices) == mesh.size:  # of one process
      return shard_map(fn, mesh, in_axes, out_axes, donate_argnums)
    return jax.pmap(
      fn,
      axis_name=parallel.AXIS,
      in_axes=in_axes,
      out_axes=out_axes,
      donate_argnums=donate_argnums,
    )

  parallel._shard_map = by_pmap


# Pairs of which one process waits in vain for the other; first, as they only
# sleep.
ALONE = {
  "port in use": use_port,
  "first never comes": never_come(0),
  "second never comes": never_come(1),
}

FAULTS = ALONE | {
  "data of 0": lose_data(0),
  "data of 1": lose_data(1),
  "full disk": lambda index, flags: None,
  "devices": on_second(
    lambda flags: os.environ.update(XLA_FLAGS=processes.xla_flags(2))
  ),
  "jax version": on_second(other_jax),
  "code": on_second(other_code),
  "config": on_second(lambda flags: flags.append("--config.sam.rho=0.3")),
  "killed 0": act_at(0, 3, send(signal.SIGKILL)),
  "killed 1": act_at(1, 3, send(signal.SIGKILL)),
  "bug in 1": act_at(1, 3, raise_bug),
  "result": lose_result,
  "end of the job": end_job,
  "preempted in an evaluation": stop_while_evaluating,
  "none": measure_much,
  "pmap": use_pmap,
}


def create_dataset(config):
  """Return the view that one process has of a small data set."""
  return tiny.create_dataset(
    config,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def train(fault, index, address, workdir):
  """Train as one process of a pair."""
  os.environ["XLA_FLAGS"] = processes.xla_flags(1)
  # Processes of a machine that is busy may be slow, but are not lost.
  distributed._HEARTBEAT_SECONDS = 60
  distributed._JOIN_SECONDS = 3 if fault in ALONE else 60
  watchdog._SECONDS_OF_PATIENCE = 1
  watchdog._SECONDS_BETWEEN_LOOKS = 0.5
  if not fault.startswith("killed"):
    watchdog._SECONDS_TO_NOTICE = 60
  build.model = tiny.create_model
  flags = [
    *FLAGS,
    f"--workdir={workdir}",
    f"--coordinator_address={address}",
    "--num_processes=2",
    f"--process_id={index}",
  ]
  if not fault.startswith("data"):
    input_pipeline.create_dataset = create_dataset
  FAULTS[fault](index, flags)
  sys.argv = ["train", *flags]
  runpy.run_module("sam_jax.train", run_name="__main__")


def workdir_of(fault):
  return fault.replace(" ", "_")


class Pair:
  """Two processes, and what became of them."""

  def __init__(self, fault, root):
    self.started = time.monotonic()
    self.codes, self.seconds = [None, None], None
    self.ids, self.outputs = [], []
    workdir = root / workdir_of(fault)
    with socket.create_server(("", 0)) as server:
      address = f"localhost:{server.getsockname()[1]}"
    for index in range(2):
      output, end = os.pipe()
      fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, 2**20)  # nobody reads until later
      child = os.fork()
      if child == 0:
        os.dup2(end, 1)
        os.dup2(end, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        train(fault, index, address, workdir)
        sys.exit()
      os.close(end)
      self.ids.append(child)
      self.outputs.append(output)

  def has_ended(self):
    """Look once; kill what has run for too long."""
    seconds = time.monotonic() - self.started
    for i, child in enumerate(self.ids):
      if self.codes[i] is None:
        if seconds > LIMIT:
          os.kill(child, signal.SIGKILL)
        pid, status = os.waitpid(child, 0 if seconds > LIMIT else os.WNOHANG)
        if pid:
          self.codes[i] = os.waitstatus_to_exitcode(status)
    if None in self.codes:
      return False
    self.seconds = seconds
    return True

  def outcome(self):
    """Return codes, outputs and seconds as values of JSON."""
    said = []
    for output in self.outputs:
      with open(output) as file:
        said.append(file.read())
    return {"codes": self.codes, "said": said, "seconds": self.seconds}


@contextlib.contextmanager
def small_disk(directory):
  """Mount a disk that is too small for a run; yield False if that fails."""
  directory.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs"]
  done = subprocess.run([*mount, directory], capture_output=True, check=False)
  yield done.returncode == 0
  if done.returncode == 0:
    subprocess.run(["umount", "--lazy", directory], check=False)


def main(root, faults):
  """Run a pair for each fault."""
  garbage.collect_rarely()
  waiting, running, outcomes = list(faults), {}, {}
  with small_disk(root / workdir_of("full disk")) as can_mount:
    if not can_mount and "full disk" in waiting:
      waiting.remove("full disk")
    while waiting or running:
      while waiting and len(running) < AT_ONCE:
        fault = waiting.pop(0)
        running[fault] = Pair(fault, root)
      for fault in [f for f, pair in running.items() if pair.has_ended()]:
        outcomes[fault] = running.pop(fault).outcome()
      time.sleep(0.05)
  (root / "outcomes.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]), sys.argv[2:] or list(FAULTS))
