"""Training processes that start at once: forks of one that imported everything.

python -m tests.process_server

Each line of its input is a request, in JSON: the arguments and the environment
of a process of `sam_jax.train`, and a file for its stderr. A line of its output
is the id of a process that has started, or an id and the status of its end.
"""

import contextlib
import json
import os
import pathlib
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time

from tests import garbage

TRAIN = "sam_jax.train"


class Server:
  """A process that forks training processes; it ends with this one.

  It is to be used from one thread.
  """

  def __init__(self):
    self._process = subprocess.Popen(
      [sys.executable, "-m", "tests.process_server"],
      cwd=pathlib.Path(__file__).parent.parent,  # whatever the test is in
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      bufsize=0,
    )
    self._statuses = {}

  def start(self, arguments, environment):
    """Start `python -m sam_jax.train`; return the process."""
    stderr = tempfile.NamedTemporaryFile("r", errors="replace")  # noqa: SIM115
    request = [arguments, dict(environment), stderr.name]
    self._process.stdin.write(json.dumps(request).encode() + b"\n")
    while (line := self._read()) is None or len(line) > 1:
      pass
    return Process(self, line[0], stderr)

  def status(self, pid, timeout):
    """Return the status of a process that ended; None if it has not."""
    deadline = time.monotonic() + timeout
    while pid not in self._statuses:
      left = max(0, deadline - time.monotonic())
      if not select.select([self._process.stdout], [], [], left)[0]:
        return None
      self._read()
    return self._statuses[pid]

  def _read(self):
    line = json.loads(self._process.stdout.readline())
    if len(line) == 2:
      self._statuses[line[0]] = line[1]
    return line


class Process:
  """A training process, with the interface of `subprocess.Popen`."""

  def __init__(self, server, pid, stderr):
    self.pid, self.returncode = pid, None
    self._server, self._stderr = server, stderr

  def poll(self, timeout=0):
    if self.returncode is None:
      status = self._server.status(self.pid, timeout)
      if status is not None:
        self.returncode = os.waitstatus_to_exitcode(status)
    return self.returncode

  def communicate(self, timeout=300):
    """Wait for the end; return None and what the process wrote to stderr."""
    if self.poll(timeout) is None:
      raise subprocess.TimeoutExpired(TRAIN, timeout)
    self._stderr.seek(0)
    return None, self._stderr.read()

  def send_signal(self, number):
    if self.poll() is None:
      os.kill(self.pid, number)

  def kill(self):
    self.send_signal(signal.SIGKILL)


def serve():
  """Fork a process for each request, and return the request in it."""
  ended, end = os.pipe()
  os.set_blocking(end, False)
  signal.set_wakeup_fd(end)
  signal.signal(signal.SIGCHLD, lambda *_: None)  # or nothing would be written
  requests = open(0, "rb", buffering=0)  # noqa: SIM115
  while True:
    ready, _, _ = select.select([requests, ended], [], [])
    if ended in ready:
      os.read(ended, 1000)
      with contextlib.suppress(ChildProcessError):
        while (outcome := os.waitpid(-1, os.WNOHANG))[0]:
          print(json.dumps(outcome), flush=True)
    if requests in ready:
      line = requests.readline()
      if not line:
        os._exit(0)
      pid = os.fork()
      if not pid:
        break
      print(json.dumps([pid]), flush=True)
  signal.set_wakeup_fd(-1)
  signal.signal(signal.SIGCHLD, signal.SIG_DFL)
  for descriptor in (requests.fileno(), ended, end):
    os.close(descriptor)
  return json.loads(line)


def main():
  # All that a run imports; none of it starts a thread or looks for devices.
  import sam_jax.analysis.hook  # noqa: F401
  from sam_jax.runs import distributed, watchdog
  from sam_jax.training import loop  # noqa: F401

  garbage.collect_rarely()
  arguments, environment, stderr = serve()
  nothing = os.open(os.devnull, os.O_RDWR)
  os.dup2(nothing, 0)
  os.dup2(nothing, 1)
  os.dup2(os.open(stderr, os.O_WRONLY), 2)
  os.environ.clear()
  os.environ.update(environment)
  sys.argv = ["train", *arguments]
  # A lost process is noticed sooner, and a killed one is not waited for long.
  distributed._HEARTBEAT_SECONDS = 15
  watchdog._SECONDS_BETWEEN_LOOKS = 0.25
  watchdog._SECONDS_TO_NOTICE = 1
  runpy.run_module(TRAIN, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  main()
