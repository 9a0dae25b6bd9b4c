"""Child processes of tests: flags that their jaxlib knows, and signals."""

import json
import subprocess
import sys

from tests import processes

# Prints the signals to stop that a process ignores.
IGNORED = """
import signal
numbers = signal.SIGINT, signal.SIGHUP
print([n.name for n in numbers if signal.getsignal(n) is signal.SIG_IGN])
"""


def test_flags_that_jaxlib_does_not_know_are_not_set(tmp_path, monkeypatch):
  monkeypatch.setattr(processes, "CACHE", tmp_path)
  known, first, second = (
    "--xla_backend_optimization_level=0",
    "--xla_no_such_flag=0",
    "--xla_nor_this_one=true",
  )
  assert processes.known_flags((first, known, second)) == [known]
  (file,) = tmp_path.iterdir()
  answers = {first: False, known: True, second: False}
  assert json.loads(file.read_text()) == answers

  # The file answers for the next process, and another flag joins it.
  file.write_text(json.dumps({known: False, "--flag": True}))
  processes.known_flags.cache_clear()
  assert processes.known_flags((known, "--flag")) == ["--flag"]


def test_children_ignore_no_signal_to_stop():
  child = subprocess.run([sys.executable, "-c", IGNORED], capture_output=True)
  assert child.stdout == b"[]\n"


def test_children_ignore_no_signal_to_stop_under_nohup():
  """Repeat the test before in a process that ignores both signals."""
  test = f"{__file__}::{test_children_ignore_no_signal_to_stop.__name__}"
  command = f'trap "" INT HUP; {sys.executable} -c "$0"; exec "$@"'
  pytest_of_one_process = [sys.executable, "-m", "pytest", "-p", "no:xdist"]
  process = subprocess.run(
    ["bash", "-c", command, IGNORED, *pytest_of_one_process, test],
    cwd=processes.REPOSITORY,
    capture_output=True,
    text=True,
  )
  assert process.stdout.startswith("['SIGINT', 'SIGHUP']\n")
  assert "1 passed" in process.stdout, process.stdout
