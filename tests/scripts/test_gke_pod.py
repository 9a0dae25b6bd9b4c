"""The Job of GKE: valid, consistent, and complete only with a result."""

import math
import pathlib
import signal
import subprocess
import sys

import pytest

yaml = pytest.importorskip("yaml")

FILE = pathlib.Path(__file__).parents[2] / "scripts/gke_pod.yaml"
SERVICE, JOB = yaml.safe_load_all(FILE.read_text())
POD = JOB["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]

# Takes the place of training: ends with $CODE, or by SIGTERM as a run does.
PYTHON = f"""#!/usr/bin/env bash
[[ "$1" != -c ]] || exec {sys.executable} "$@"
trap 'sleep 0.2; echo saved; exit 0' TERM
echo started
[[ "$CODE" != wait ]] || while :; do sleep 0.05; done
exit "$CODE"
"""


def test_manifests_are_valid():
  validator = pytest.importorskip("kubernetes_validate")
  for manifest in (SERVICE, JOB):
    validator.validate(manifest, "1.37", strict=True)


def test_hosts_are_those_of_the_slice():
  selector = POD["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  chips = math.prod(map(int, selector.split("x")))
  hosts = JOB["spec"]["completions"]
  assert hosts == JOB["spec"]["parallelism"]
  for kind in ("requests", "limits"):
    assert hosts * int(CONTAINER["resources"][kind]["google.com/tpu"]) == chips
  assert POD["subdomain"] == SERVICE["metadata"]["name"]
  assert SERVICE["spec"]["selector"]["job-name"] == JOB["metadata"]["name"]


@pytest.mark.parametrize(
  ("code", "has_result", "expected"),
  [("0", True, 0), ("0", False, 1), ("2", False, 2), ("wait", False, 1)],
)
def test_only_a_result_completes_the_job(code, has_result, expected, tmp_path):
  (tmp_path / "python").write_text(PYTHON)
  (tmp_path / "python").chmod(0o755)
  if has_result:
    (tmp_path / "result.json").touch()
  env = {
    "PATH": f"{tmp_path}:/usr/bin:/bin",
    "WORKDIR": str(tmp_path),
    "CODE": code,
  }
  process = subprocess.Popen(
    [*CONTAINER["command"], *CONTAINER["args"]],
    env=env,
    cwd=FILE.parents[1],
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "started\n"
  if code == "wait":  # preempted: training saves and exits with 0
    process.send_signal(signal.SIGTERM)
  said, _ = process.communicate(timeout=60)
  assert process.returncode == expected
  assert ("saved" in said) == (code == "wait")
