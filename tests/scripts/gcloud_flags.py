"""Print the flags of the gcloud commands that tpu_pod.sh uses, as JSON.

Reads the help of the installed gcloud:
python -m tests.scripts.gcloud_flags > tests/scripts/gcloud_flags.json
"""

import json
import re
import subprocess

COMMANDS = (
  *(f"compute tpus tpu-vm {c}" for c in ("create", "delete", "describe")),
  *(f"compute tpus tpu-vm {c}" for c in ("scp", "ssh")),
  *(f"compute tpus queued-resources {c}" for c in ("create", "delete")),
  *(f"compute tpus queued-resources {c}" for c in ("describe", "scp", "ssh")),
  "storage ls",
)


def gcloud(*words: str) -> str:
  """Return the output of gcloud, without the codes of a terminal."""
  done = subprocess.run(
    ["gcloud", *words], capture_output=True, text=True, check=True
  )
  return re.sub(r"\x1b\[[\d;]*m", "", done.stdout)


def own_flags(text: str) -> dict[str, bool]:
  """Return {flag: True if it takes a value} of the synopsis of a help text."""
  synopsis = text.partition("\nSYNOPSIS\n")[2].partition("\nDESCRIPTION\n")[0]
  found = re.findall(r"--(?:\[no-\])?([a-z-]+)(=?)", synopsis)
  return {f"--{name}": bool(value) for name, value in sorted(found)}


if __name__ == "__main__":
  version = json.loads(gcloud("version", "--format=json"))["Google Cloud SDK"]
  table = {
    "made_by": "python -m tests.scripts.gcloud_flags",
    "version": version,
    "flags": {c: own_flags(gcloud(*c.split(), "--help")) for c in COMMANDS},
  }
  print(json.dumps(table, indent=1))
