"""tpu_pod.sh with a fake gcloud that records its words and acts as a host.

The flags of each call are those of the true gcloud: gcloud_flags.py wrote its
flags to gcloud_flags.json.
"""

import json
import os
import pathlib
import re
import select
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]
SCRIPT = REPOSITORY / "scripts/tpu_pod.sh"

# Appends its words, each ended by a zero byte, and an empty one. Answers about
# states are the lines of $STATES. It fails where it is called to do $FAIL, runs
# commands for all hosts in $HOST, and copies files there.
GCLOUD = r"""#!/usr/bin/env bash
printf '%s\0' "$@" '' >> "$RECORD"
if [[ -n "${STATES:-}" && "$*" =~ ^(storage|.*\ describe\ ) ]]; then
  read -r answer < "$STATES" && sed -i 1d "$STATES"
  [[ "$answer" == no ]] && echo "ERROR: NOT_FOUND: no such thing" >&2 && exit 1
  echo "$answer"
fi
[[ "$4" != "${FAIL:-none}" ]] || exit 1
[[ -n "${HOST:-}" ]] || exit 0
if [[ "$4" == scp ]]; then
  for word; do
    [[ "$word" != *:* ]] || cp "$file" "$HOST/${word#*:}"
    file="$word"
  done
fi
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

TABLE = json.loads((REPOSITORY / "tests/scripts/gcloud_flags.json").read_text())
FLAGS = TABLE["flags"]
WIDE_FLAGS = {"--format": True, "--project": True, "--quiet": False}

TPU = {"TPU_NAME": "pod", "ZONE": "zone", "ACCELERATOR_TYPE": "v5litepod-32"}
QUEUE = TPU | {"QUEUED_RESOURCE_ID": "queue"}
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
    said = re.sub(r"sam_jax\.\w{6}\b", "sam_jax.1", record.read_text())
    calls = [call.split("\0") for call in said.split("\0\0") if call]
    for call in calls:
      check_flags(call)
    return done.returncode, done.stdout, done.stderr, calls

  return run


def check_flags(call):
  """Check that gcloud has the flags of a call, and with or without a value."""
  (command,) = [c for c in FLAGS if call[: len(c.split())] == c.split()]
  words = call[len(command.split()) :]
  flags = [word.partition("=") for word in words if word.startswith("--")]
  assert all(flag in FLAGS[command] | WIDE_FLAGS for flag, _, _ in flags), call
  for flag, equals, _ in flags:
    assert (FLAGS[command] | WIDE_FLAGS)[flag] == bool(equals), (call, flag)


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


@pytest.mark.parametrize("environment", [TPU, QUEUE], ids=["vm", "queue"])
@pytest.mark.parametrize("command", COMMANDS)
def test_dry_run_prints_the_same_commands(command, environment, pod, tmp_path):
  words = [command, "--project=mine", f"--output={tmp_path / 'logs'}"]
  training = ["--", *TRAINING] if command == "launch" else []
  code, printed, _, calls = pod(
    *words, "--dry_run", *training, environment=environment
  )
  assert (code, calls) == (0, [])
  assert not (tmp_path / "logs").exists()

  code, _, errors, calls = pod(*words, *training, environment=environment)
  assert code == 0, errors
  assert [call[3] for call in calls] == COMMANDS[command]
  is_queue = environment is QUEUE
  for call in calls:
    group = "queued-resources" if is_queue else "tpu-vm"
    assert call[:3] == ["compute", "tpus", group]
    assert call[-2:] == ["--zone=zone", "--project=mine"]
    assert ("--worker=all" in call) == (call[3] in ("ssh", "scp"))
    assert ("--node=all" in call) == (is_queue and call[3] in ("ssh", "scp"))
    if call[3] != "scp":
      assert call[4] == ("queue" if is_queue else "pod")
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


def test_queued_resources_of_one_and_of_several_slices(pod):
  until = "--valid-until-duration=6h"
  *_, (call,) = pod("create", "--spot", "--", until, environment=QUEUE)
  assert call == [
    *("compute", "tpus", "queued-resources", "create", "queue"),
    "--accelerator-type=v5litepod-32",
    *("--runtime-version=v2-alpha-tpuv5-lite", "--node-id=pod"),
    *("--spot", until, "--zone=zone"),
  ]
  *_, (call,) = pod("create", "--slices=4", environment=QUEUE)
  assert call[-3:] == ["--node-count=4", "--node-prefix=pod", "--zone=zone"]
  assert not [word for word in call if word.startswith("--node-id")]
  *_, (call,) = pod("delete", environment=QUEUE)
  assert call[4:] == ["queue", "--force", "--quiet", "--zone=zone"]


def test_logs_of_several_slices_do_not_replace_each_other(pod, tmp_path):
  environment = QUEUE | {"NODE_COUNT": "2"}
  *_, calls = pod("logs", f"--output={tmp_path}", environment=environment)
  for slice_, call in enumerate(calls):
    assert f"--node={slice_}" in call
    assert f"--output-directory={tmp_path}/{slice_}" in call
    assert (tmp_path / str(slice_)).is_dir()
  assert len(calls) == 2


def test_install_takes_the_tpu_extra_of_the_locked_jax(pod):
  *_, calls = pod("install")
  (command,) = [word for word in calls[0] if word.startswith("--command=")]
  assert " 'jax[tpu]' " in command
  assert re.search(r"pip install \S+ --user uv==[\d.]+ ", command)
  locked = re.search(r"--constraint=sam_jax/(\S+)", command)[1]
  assert re.search(r"^jax==", (REPOSITORY / locked).read_text(), re.M)
  assert "--python=3.12 " in command
  assert "py312" in locked


def test_copy_leaves_no_archive_and_reveals_no_name(pod, tmp_path):
  scp = re.compile(r" scp (\S+) ")
  names = {scp.search(pod("copy", "--dry_run")[1])[1] for _ in range(2)}
  assert len(names) == 2
  assert not list(tmp_path.glob("sam_jax.*"))
  code, *_ = pod("copy", environment=TPU | {"FAIL": "scp"})
  assert code == 1
  assert not list(tmp_path.glob("sam_jax.*"))


WATCHED = ["--workdir=gs://bucket/run", *TRAINING]


@pytest.fixture
def watch(pod, tmp_path):
  """Watch a run with these answers of gcloud; return code, output, calls."""

  def run(*answers, environment=TPU, host=None):
    states = tmp_path / "states"
    states.write_text("".join(f"{answer}\n" for answer in answers))
    environment = environment | {"STATES": str(states)}
    words = ["watch", "--interval=0", "--spot", "--", *WATCHED]
    code, said, errors, calls = pod(*words, environment=environment, host=host)
    assert states.read_text() == ""
    steps = [c[3] if c[0] == "compute" else c[1] for c in calls]
    return code, said + errors, steps, calls

  return run


# To copy, install and launch.
TO_LAUNCH = ["ssh", "scp", "ssh", "ssh", "ssh"]
LOOK = ["ls", "describe"]


@pytest.mark.parametrize(
  ("environment", "is_there", "preempted"),
  [(TPU, "READY", "PREEMPTED"), (QUEUE, "ACTIVE", "SUSPENDED")],
  ids=["vm", "queue"],
)
def test_watch_creates_slices_until_the_run_is_finished(
  watch, environment, is_there, preempted
):
  code, said, steps, calls = watch(
    *("no", "no"),  # no result, no slices
    *("no", "CREATING"),
    *("no", is_there),
    *("no", preempted),
    *("no", is_there),
    "gs://bucket/run/result.json",
    environment=environment,
  )
  assert code == 0, said
  expected = [*LOOK, "create", *LOOK]
  expected += [*LOOK, "ssh", *TO_LAUNCH]  # whether a run is in progress
  expected += [*LOOK, "delete", "create", *LOOK, "ssh", *TO_LAUNCH, "ls"]
  assert steps == expected
  assert all("--spot" in call for call in calls if "create" in call)
  assert "gs://bucket/run/result.json" in calls[0]
  launches = [call for call in calls if "sam_jax.train" in str(call)]
  flags = "--workdir=gs://bucket/run --config=configs/imagenet.py:sam "
  assert any(flags in word for word in launches[-1])
  assert "The slices were preempted." in said
  assert "The run is finished." in said


def test_watch_gives_up_a_run_that_fails(watch):
  code, said, steps, _ = watch(*["no", "READY"] * 4)
  assert code == 1
  assert said.endswith(
    "error: The run ended 3 times, and not because of a preemption; see"
    " scripts/tpu_pod.sh status and logs.\n"
  )
  assert steps == [*LOOK, "ssh", *TO_LAUNCH] * 3 + [*LOOK, "ssh"]


def test_watch_leaves_a_run_in_progress_alone(watch, tmp_path):
  host = tmp_path / "host"
  host.mkdir()
  with subprocess.Popen(
    ["bash", "-c", "read", "sam_jax.train"], stdin=subprocess.PIPE
  ) as process:
    (host / "sam_jax.pid").write_text(str(process.pid))
    code, said, steps, _ = watch("no", "READY", "found", host=host)
    process.stdin.close()
  assert code == 0
  assert "The run is in progress." in said
  assert steps == [*LOOK, "ssh", "ls"]


def test_dry_run_of_watch_prints_the_commands(pod):
  words = ["watch", "--dry_run", "--", *WATCHED]
  code, said, _, calls = pod(*words)
  assert (code, calls) == (0, [])
  *_, calls = pod("-c", said, program="bash")
  steps = [c[3] if c[0] == "compute" else c[1] for c in calls]
  assert steps == [*LOOK, "delete", "create", *TO_LAUNCH]


def test_a_run_on_a_host(pod, tmp_path):
  """Run all commands for hosts on this machine."""
  host = tmp_path / "host"
  write_program(host / "sam_jax_venv/bin/python", PYTHON)
  code, _, said, _ = pod("copy", host=host)
  assert code == 0, said
  assert (host / "sam_jax/sam_jax/train.py").exists()
  assert not (host / "sam_jax/.git").exists()
  assert not list(tmp_path.glob("sam_jax.*"))
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
  (
    ["launch", "--", *TRAINING, "--dry_run"],
    TPU,
    "--dry_run goes before --.",
  ),
  (["create", "--slices=0"], QUEUE, "--slices=0 is no number"),
  (["create", "--slices=2"], TPU, "--slices needs --queued_resource"),
  (["watch", "--type=", "--", *TRAINING], TPU, "--type (or $ACCELERATOR_TYPE)"),
  (["watch", "--", *TRAINING], TPU, "watch needs -- --workdir=gs://..."),
  (["watch", "--interval=x"], TPU, "--interval=x is no number"),
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
