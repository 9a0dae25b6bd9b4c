"""Set-up scripts with an interpreter that only writes down what it is to do."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.processes import REPOSITORY

# `-m venv` copies this file. `-m pip` appends its arguments to $RECORD, then
# waits while $RECORD.slow exists, and fails if $RECORD.fails does. Commands of
# sam_jax append theirs to $RECORD.commands, and wait for Ctrl-C if
# $RECORD.trains exists; they end as if nothing had happened.
PYTHON = r"""#!/usr/bin/env bash
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip")
    echo "$0 ${*:3}" >> "$RECORD"
    while [[ -e "$RECORD.slow" ]]; do sleep 0.02; done
    [[ ! -e "$RECORD.fails" ]] ;;
  "-m sam_jax"*)
    trap 'exit 0' INT
    echo "$PWD ${*:2}" >> "$RECORD.commands"
    while [[ -e "$RECORD.trains" ]]; do sleep 0.02; done ;;
  *) exec REAL -c "import sys
sys._base_executable = '$0'
sys.version_info = VERSION
$2" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
  """Return a copy of what environment.sh reads."""
  checkout = tmp_path / "checkout"
  shutil.copytree(REPOSITORY / "constraints", checkout / "constraints")
  (checkout / "scripts").mkdir()
  for name in ("environment.sh", "quickstart.sh"):
    shutil.copy(REPOSITORY / "scripts" / name, checkout / "scripts")
  shutil.copy(REPOSITORY / "pyproject.toml", checkout)
  monkeypatch.setenv("RECORD", str(tmp_path / "record"))
  monkeypatch.setenv("PYTHON", interpreter(tmp_path / "python", (3, 12, 1)))
  for name in ("VENV", "VERSIONS"):
    monkeypatch.delenv(name, raising=False)
  return checkout


def interpreter(path, version):
  text = PYTHON.replace("REAL", sys.executable)
  path.write_text(text.replace("VERSION", str(version)))
  path.chmod(0o755)
  return str(path)


def start(checkout, **environment):
  return start_script(checkout / "scripts/environment.sh", **environment)


def start_script(*command, cwd=None, start_new_session=False, **environment):
  return subprocess.Popen(
    ["bash", *command],
    cwd=cwd,
    start_new_session=start_new_session,
    env=os.environ | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def make(checkout, **environment):
  process = start(checkout, **environment)
  stdout, stderr = process.communicate(timeout=60)
  return process.returncode, stdout, stderr


def installations():
  record = pathlib.Path(os.environ["RECORD"])
  return record.read_text().splitlines() if record.exists() else []


def wait_for(is_true):
  deadline = time.monotonic() + 60
  while not is_true():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def test_installs_locked_versions_once(checkout):
  code, stdout, stderr = make(checkout)
  assert (code, stderr) == (0, "")
  assert stdout.startswith("Installing sam_jax into .venv ")
  (installed,) = installations()
  assert installed.startswith(".venv/bin/python install ")
  assert "--constraint=constraints/py312.txt --editable=.[test]" in installed
  assert make(checkout) == (0, "", "")
  assert len(installations()) == 1


def test_other_requirements_are_installed_into_the_environment(checkout):
  make(checkout)
  (checkout / ".venv/own").touch()
  with (checkout / "pyproject.toml").open("a") as file:
    file.write("# another requirement\n")
  make(checkout)
  assert len(installations()) == 2
  make(checkout, VERSIONS="oldest")
  assert "--constraint=constraints/py312-oldest.txt" in installations()[2]
  assert (checkout / ".venv/own").exists()


def test_another_interpreter_makes_another_environment(checkout, tmp_path):
  make(checkout)
  (checkout / ".venv/own").touch()
  python = interpreter(tmp_path / "python3.13", (3, 13, 0))
  make(checkout, PYTHON=python)
  assert "--constraint=constraints/py313.txt" in installations()[1]
  assert not (checkout / ".venv/own").exists()


def test_interpreter_of_the_environment_itself(checkout):
  """An activated environment changes nothing."""
  make(checkout)
  own = checkout / ".venv/bin/python"
  own.write_text(own.read_text().replace("'$0'", repr(os.environ["PYTHON"])))
  assert make(checkout, PYTHON=str(own)) == (0, "", "")
  (checkout / ".venv/.installed-from").write_text("of an older interpreter")
  assert make(checkout, PYTHON=str(own))[0] == 0
  assert len(installations()) == 2


def test_moved_checkout_makes_another_environment(checkout):
  make(checkout)
  (checkout / ".venv/own").touch()
  moved = checkout.rename(checkout.with_name("moved"))
  make(moved)
  assert len(installations()) == 2
  assert not (moved / ".venv/own").exists()


def test_copied_checkout_makes_an_environment_of_its_own(checkout, tmp_path):
  make(checkout)
  copied = tmp_path / "copied"
  shutil.copytree(checkout, copied)
  make(copied)
  assert len(installations()) == 2
  assert make(checkout) == make(copied) == (0, "", "")


def test_environment_whose_interpreter_is_gone_is_made_again(checkout):
  make(checkout)
  (checkout / ".venv/bin/python").unlink()
  code, _, stderr = make(checkout)
  assert (code, stderr) == (0, "")
  assert len(installations()) == 2
  assert make(checkout) == (0, "", "")


@pytest.mark.parametrize("first_works", [False, True])
def test_interrupted_installation_starts_over(checkout, tmp_path, first_works):
  if first_works:
    make(checkout)
    with (checkout / "pyproject.toml").open("a") as file:
      file.write("# another requirement\n")
  (tmp_path / "record.fails").touch()
  assert make(checkout)[0] != 0
  (checkout / ".venv/broken").touch()
  (tmp_path / "record.fails").unlink()
  assert make(checkout)[0] == 0
  assert not (checkout / ".venv/broken").exists()
  assert make(checkout) == (0, "", "")


def test_two_at_once_install_once(checkout, tmp_path):
  slow = tmp_path / "record.slow"
  slow.touch()
  first = start(checkout)
  wait_for(installations)
  second = start(checkout)
  assert second.stdout.readline().startswith("Waiting for another")
  slow.unlink()
  for process in (first, second):
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0
  assert len(installations()) == 1


def test_environment_of_others_stays(checkout):
  (checkout / ".venv").mkdir()
  (checkout / ".venv/own").touch()
  code, _, stderr = make(checkout)
  assert code == 2
  assert stderr.startswith(
    "error: .venv was not made by scripts/environment.sh"
  )
  assert (checkout / ".venv/own").exists()
  assert make(checkout, VENV=str(checkout / "other/venv"))[0] == 0
  assert (checkout / "other/venv/bin/python").exists()


def test_relative_paths_are_those_of_where_they_were_typed(checkout, tmp_path):
  elsewhere = tmp_path / "else where"
  elsewhere.mkdir()
  interpreter(elsewhere / "python", (3, 12, 1))
  process = start_script(
    *(checkout / "scripts/quickstart.sh", "my runs"),
    cwd=elsewhere,
    VENV="venv",
    PYTHON="./python",
  )
  stdout, stderr = process.communicate(timeout=60)
  assert (process.returncode, stderr) == (0, "")
  assert not (checkout / ".venv").exists()
  runs = elsewhere / "my runs"
  assert f"source {elsewhere}/venv/bin/activate" in stdout
  commands = (tmp_path / "record.commands").read_text().splitlines()
  assert commands[0] == (
    f"{checkout} sam_jax.train --config=configs/digits.py:sgd"
    f" --workdir={runs}/sgd"
  )
  assert commands[2:] == [
    f"{checkout} sam_jax.report --root={runs} --output={runs}"
  ]


@pytest.mark.parametrize(
  ("arguments", "runs"),
  [([], "runs/quickstart"), (["/a"], "/a"), (["gs://b/c"], "gs://b/c")],
)
def test_directory_of_the_quickstart(arguments, runs, checkout, tmp_path):
  process = start_script(checkout / "scripts/quickstart.sh", *arguments)
  assert process.communicate(timeout=60)[1] == ""
  commands = (tmp_path / "record.commands").read_text().splitlines()
  assert commands[1].endswith(f" --workdir={runs}/sam")


def test_ctrl_c_starts_no_other_run_of_the_quickstart(checkout, tmp_path):
  make(checkout)
  (tmp_path / "record.trains").touch()
  commands = tmp_path / "record.commands"
  # Tests in the background of a script ignore Ctrl-C, and Bash would, too.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    process = start_script(
      checkout / "scripts/quickstart.sh", start_new_session=True
    )
  finally:
    signal.signal(signal.SIGINT, before)
  try:
    wait_for(commands.exists)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
  finally:
    with contextlib.suppress(ProcessLookupError):  # all have ended
      os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
  assert len(commands.read_text().splitlines()) == 1


def test_unsuitable_interpreters(checkout, tmp_path):
  old = interpreter(tmp_path / "python3.10", (3, 10, 0))
  code, _, stderr = make(checkout, PYTHON=old)
  assert code == 2
  assert "constraints/py310.txt does not exist" in stderr
  assert f"PYTHON={old} is Python 3.10" in stderr
  code, _, stderr = make(checkout, PYTHON="no_python")
  assert code == 2
  assert stderr.startswith("error: PYTHON=no_python is no Python; choose")
