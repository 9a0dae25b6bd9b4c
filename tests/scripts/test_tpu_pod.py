"""tpu_pod.sh with a fake gcloud that records its words and acts as a host."""

import os
import pathlib
import re
import select
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]
SCRIPT = REPOSITORY / "scripts/tpu_pod.sh"

# Appends its words, each ended by a zero byte, and an empty one. It runs
# commands for all hosts in $HOST, and copies files there.
GCLOUD = r"""#!/usr/bin/env bash
printf '%s\0' "$@" '' >> "$RECORD"
[[ -n "${HOST:-}" ]] || exit 0
if [[ "$4" == scp ]]; then cp "$5" "$HOST/${6#*:}"; fi
for word; do
  if [[ "$word" == --output-directory=* ]]; then exec >"${word#*=}/0.log"; fi
done
for word; do
  if [[ "$word" == --command=* ]]; then
    cd "$HOST" && exec bash -c "${word#--command=}"
  fi
done
"""

# Takes the place of Python on a host: prints its words, writes to the pipe
# `started`, and runs until SIGTERM.
PYTHON = r"""#!/usr/bin/env bash
printf '<%s>' "$@"; echo
trap 'echo saved; exit' TERM
echo > ../started
while :; do sleep 0.05; done
"""

TPU = {"TPU_NAME": "pod", "ZONE": "zone", "ACCELERATOR_TYPE": "v5litepod-32"}
TRAINING = ["--config=configs/imagenet.py:sam", '--config.x=it\'s "$HOME" a b']


@pytest.fixture
def pod(tmp_path):
  """Run the script; return its exit code, output, errors, gcloud calls."""
  write_program(tmp_path / "bin/gcloud", GCLOUD)
  record = tmp_path / "record"

  def run(*words, program=SCRIPT, environment=TPU, host=None):
    record.write_text("")
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    env = {"PATH": path, "RECORD": str(record), "TMPDIR": str(tmp_path)}
    env |= environment | ({"HOST": str(host)} if host else {})
    done = subprocess.run(
      [program, *words],
      cwd=REPOSITORY,
      env=env,
      capture_output=True,
      text=True,
      timeout=60,
    )
    said = re.sub(r"sam_jax-\d+", "sam_jax-1", record.read_text())
    calls = [call.split("\0") for call in said.split("\0\0") if call]
    return done.returncode, done.stdout, done.stderr, calls

  return run


def write_program(path, text):
  path.parent.mkdir(parents=True)
  path.write_text(text)
  path.chmod(0o755)


COMMANDS = {
  "create": ["create"],
  "copy": ["ssh", "scp", "ssh"],
  "install": ["ssh"],
  "launch": ["ssh"],
  "status": ["describe", "ssh"],
  "logs": ["ssh"],
  "stop": ["ssh"],
  "delete": ["delete"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_dry_run_prints_the_same_commands(command, pod, tmp_path):
  words = [command, "--project=mine", f"--output={tmp_path / 'logs'}"]
  training = ["--", *TRAINING] if command == "launch" else []
  code, printed, _, calls = pod(*words, "--dry_run", *training)
  assert (code, calls) == (0, [])
  assert not (tmp_path / "logs").exists()

  code, _, errors, calls = pod(*words, *training)
  assert code == 0, errors
  assert [call[3] for call in calls] == COMMANDS[command]
  for call in calls:
    assert call[:3] == ["compute", "tpus", "tpu-vm"]
    assert call[-2:] == ["--zone=zone", "--project=mine"]
    assert ("--worker=all" in call) == (call[3] in ("ssh", "scp"))
  *_, from_print = pod("-c", printed, program="bash")
  assert from_print == calls


def test_create_and_delete(pod):
  *_, calls = pod("create", "--", "--spot")
  assert calls == [
    [
      *("compute", "tpus", "tpu-vm", "create", "pod"),
      "--accelerator-type=v5litepod-32",
      "--version=v2-alpha-tpuv5-lite",
      *("--spot", "--zone=zone"),
    ]
  ]
  *_, calls = pod("create", "--type=v4-32", "--version=mine")
  assert {"--accelerator-type=v4-32", "--version=mine"} <= set(calls[0])
  *_, calls = pod("delete", "--name=other")
  assert calls[0][3:] == ["delete", "other", "--quiet", "--zone=zone"]


def test_install_takes_the_tpu_extra(pod):
  *_, calls = pod("install")
  (command,) = [word for word in calls[0] if word.startswith("--command=")]
  assert " 'jax[tpu]' " in command


def test_a_run_on_a_host(pod, tmp_path):
  """Run all commands for hosts on this machine."""
  host = tmp_path / "host"
  write_program(host / "sam_jax_venv/bin/python", PYTHON)
  code, _, said, _ = pod("copy", host=host)
  assert code == 0, said
  assert (host / "sam_jax/sam_jax/train.py").exists()
  assert not (host / "sam_jax/.git").exists()
  assert not list(tmp_path.glob("*.tar.gz"))
  check_that_a_copy_keeps_runs(host, pod)

  assert "not running" in pod("status", host=host)[1]
  os.mkfifo(host / "started")
  pipe = os.open(host / "started", os.O_RDONLY | os.O_NONBLOCK)
  assert pod("launch", "--", *TRAINING, host=host)[0] == 0
  try:
    assert select.select([pipe], [], [], 60)[0]
    words = ["-m", "sam_jax.train", "--coordinator_address=auto", *TRAINING]
    line = "".join(f"<{word}>" for word in words)
    said = (host / "sam_jax.log").read_text()
    assert line in said
    (host / "sam_jax.log").write_text("first\n" * 100 + said)
    pod("logs", f"--output={tmp_path / 'logs'}", host=host)
    log = tmp_path / "logs/0.log"
    assert log.read_text() == (host / "sam_jax.log").read_text()
    assert f": running: {line}" in pod("status", host=host)[1]
    for command in (["launch", "--", *TRAINING], ["copy"]):
      code, _, said, _ = pod(*command, host=host)
      assert code == 1
      assert "a run is in progress" in said
  finally:
    code, said, *_ = pod("stop", host=host)
    os.close(pipe)
  assert (code, said) == (0, "saved\n")
  assert "not running: saved" in pod("status", host=host)[1]


def check_that_a_copy_keeps_runs(host, pod):
  """Check that a copy replaces or removes only files of the previous copy."""
  code = host / "sam_jax"
  (code / "runs/a").mkdir(parents=True)
  (code / "runs/a/metrics.jsonl").write_text("{}")
  (code / "pyproject.toml").write_text("old")
  (code / "gone now").write_text("old")
  archive = host / "sam_jax.tar.gz"  # of the previous copy
  subprocess.run(
    ["tar", "-czf", archive, "-C", code, "pyproject.toml", "gone now"],
    check=True,
  )
  assert pod("copy", host=host)[0] == 0
  assert (code / "runs/a/metrics.jsonl").exists()
  assert (code / "pyproject.toml").read_text() != "old"
  assert not (code / "gone now").exists()


REFUSED = [
  ([], TPU, "'' is not one of create, copy"),
  (["start"], TPU, "'start' is not one of create, copy"),
  (["status"], {"ZONE": "zone"}, "--name (or $TPU_NAME) is missing."),
  (["status"], {"TPU_NAME": "pod"}, "--zone (or $ZONE) is missing."),
  (["create", "--type="], TPU, "--type (or $ACCELERATOR_TYPE) is missing"),
  (["launch"], TPU, "launch needs training flags"),
  (["launch", "--config=x"], TPU, "training flags come after --"),
  (["status", "--name"], TPU, "--name needs a value"),
  (["stop", "--", "now"], TPU, "stop takes no arguments after --"),
]


@pytest.mark.parametrize(("words", "environment", "message"), REFUSED)
def test_wrong_arguments_give_one_line(words, environment, message, pod):
  code, _, said, calls = pod(*words, environment=environment)
  assert (code, calls) == (2, [])
  assert said.startswith("error: ")
  assert said.count("\n") == 1
  assert message in said


def test_missing_gcloud_gives_one_line(tmp_path):
  for name in ("bash", "dirname", "env"):
    (tmp_path / name).symlink_to(f"/usr/bin/{name}")
  done = subprocess.run(
    [SCRIPT, "status"],
    env=TPU | {"PATH": str(tmp_path)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert done.stderr.startswith("error: gcloud is not installed")
