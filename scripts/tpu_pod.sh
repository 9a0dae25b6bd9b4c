#!/usr/bin/env bash
# Train on every host of a Cloud TPU slice, from this machine.
#
#   export TPU_NAME=pod ZONE=europe-west4-b ACCELERATOR_TYPE=v5litepod-32
#   scripts/tpu_pod.sh create
#   scripts/tpu_pod.sh copy      # this working tree, to ~/sam_jax on each host;
#                                # other files there, such as runs, stay
#   scripts/tpu_pod.sh install   # Python, jax[tpu] and sam_jax
#   scripts/tpu_pod.sh launch -- --config=configs/imagenet.py \
#     --config.dataset.data_dir=gs://bucket/tfds --workdir=gs://bucket/run
#   scripts/tpu_pod.sh status    # of each host: running or not, its last line
#   scripts/tpu_pod.sh logs      # the output of each host, to --output here
#   scripts/tpu_pod.sh stop      # saves a checkpoint; launch resumes from it
#   scripts/tpu_pod.sh delete
#
# Options, or the environment variables of Google's guides:
#   --name     $TPU_NAME
#   --zone     $ZONE
#   --project  $PROJECT_ID; default: gcloud's own
#   --type     $ACCELERATOR_TYPE, to create
#   --version  $RUNTIME_VERSION, to create; default: the one for the type
#   --output   directory for logs; default: runs/NAME-logs
#   --dry_run  only print the commands
# Arguments after -- are flags of training (launch) or of gcloud (create, for
# example --spot). Exit codes: 2, wrong arguments; otherwise that of gcloud.
set -euo pipefail
cd "$(dirname "$0")/.."

# Paths on each host, relative to the home directory.
readonly CODE=sam_jax VENV=sam_jax_venv LOG=sam_jax.log PID=sam_jax.pid

# A condition in the shell of a host: the process launched last is alive. Check
# its command too, because its number may by now belong to another process.
readonly IS_RUNNING="ps -o args= -p \"\$(cat $PID 2>/dev/null)\" 2>/dev/null \
| grep -q sam_jax.train"
readonly REFUSE_IF_RUNNING="if $IS_RUNNING; then \
echo \"\$(hostname): a run is in progress; stop it first\" >&2; exit 1; fi"

readonly QUOTED_QUOTE="'\\''"

refuse() {
  echo "error: $1" >&2
  exit 2
}

main() {
  local command="${1:-}"
  case "$command" in
    create | copy | install | launch | status | logs | stop | delete) shift ;;
    -h | --help) usage && exit ;;
    *) refuse "'$command' is not one of create, copy, install, launch, status,\
 logs, stop, delete; see --help." ;;
  esac
  parse_options "$@"
  [[ -n "$name" ]] || refuse "--name (or \$TPU_NAME) is missing."
  [[ -n "$zone" ]] || refuse "--zone (or \$ZONE) is missing."
  if ((${#rest[@]})) && [[ "$command" != create && "$command" != launch ]]; then
    refuse "$command takes no arguments after --."
  fi
  if ! $dry_run && [[ -z "$(type -P gcloud)" ]]; then
    refuse "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
  fi
  "run_$command"
}

# Print the comment at the top of this file.
usage() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' scripts/tpu_pod.sh
}

parse_options() {
  name="${TPU_NAME:-}" zone="${ZONE:-}" project="${PROJECT_ID:-}"
  accelerator="${ACCELERATOR_TYPE:-}" version="${RUNTIME_VERSION:-}"
  output="" dry_run=false rest=()
  while (($#)); do
    case "$1" in
      --name=*) name="${1#*=}" ;;
      --zone=*) zone="${1#*=}" ;;
      --project=*) project="${1#*=}" ;;
      --type=*) accelerator="${1#*=}" ;;
      --version=*) version="${1#*=}" ;;
      --output=*) output="${1#*=}" ;;
      --dry_run) dry_run=true ;;
      --) shift && rest=("$@") && return ;;
      --name | --zone | --project | --type | --version | --output)
        refuse "$1 needs a value: $1=..." ;;
      *) refuse "Unknown argument $1; training flags come after --." ;;
    esac
    shift
  done
}

run_create() {
  [[ -n "$accelerator" ]] ||
    refuse "--type (or \$ACCELERATOR_TYPE) is missing, for example v5litepod-32."
  tpu_vm create "$name" --accelerator-type="$accelerator" \
    --version="${version:-$(runtime_version)}" ${rest[@]+"${rest[@]}"}
}

# Print the runtime version that Google documents for a type of TPU.
runtime_version() {
  case "$accelerator" in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

# Copy the files that git tracks or would add, as they are now, without virtual
# environments and runs. On the hosts, only files of the previous copy are
# removed.
run_copy() {
  local archive="${TMPDIR:-/tmp}/sam_jax-$$.tar.gz"
  on_all_hosts "$REFUSE_IF_RUNNING"
  execute bash -c 'git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d "" f; do [[ ! -e $f ]] || printf "%s\0" "$f"; done |
    tar -czf "$0" --null -T -' "$archive"
  tpu_vm scp "$archive" "$name:$CODE.new.tar.gz" --worker=all
  execute rm "$archive"
  on_all_hosts "mkdir -p $CODE && cd $CODE && if [ -e ../$CODE.tar.gz ]; then \
tar -tzf ../$CODE.tar.gz --quoting-style=literal | xargs -rd '\n' rm -f --; fi \
&& mv ../$CODE.new.tar.gz ../$CODE.tar.gz && tar -xzf ../$CODE.tar.gz"
}

# Install with uv, because the Python of most TPU runtimes is too old.
run_install() {
  on_all_hosts "python3 -m pip install --quiet --user --upgrade uv \
&& python3 -m uv venv --quiet --allow-existing --python=3.12 $VENV \
&& python3 -m uv pip install --quiet --python=$VENV 'jax[tpu]' \
-e './$CODE[train]' && $VENV/bin/python -c 'import jax; print(jax.__version__)'"
}

run_launch() {
  ((${#rest[@]})) ||
    refuse "launch needs training flags: launch -- --config=... --workdir=..."
  local training
  training="$(quote "../$VENV/bin/python" -m sam_jax.train \
    --coordinator_address=auto "${rest[@]}")"
  # Detach all streams from ssh, or gcloud would wait for the end of training.
  on_all_hosts "$REFUSE_IF_RUNNING; cd $CODE && \
{ nohup $training >>../$LOG 2>&1 </dev/null & echo \$! >../$PID; }"
}

run_status() {
  tpu_vm describe "$name" --format='value(state,health)'
  on_all_hosts "if $IS_RUNNING; then state=running; else state='not running'; \
fi; echo \"\$(hostname): \$state: \$(tail -n 1 $LOG 2>/dev/null)\""
}

run_logs() {
  local directory="${output:-runs/$name-logs}"
  execute mkdir -p "$directory"
  on_all_hosts "cat $LOG" --output-directory="$directory"
  $dry_run || echo "The output of each host is in $directory."
}

# Training saves a checkpoint on SIGTERM; wait for it, however long it takes.
run_stop() {
  on_all_hosts "if $IS_RUNNING; then kill -TERM \$(cat $PID) \
&& tail --pid=\$(cat $PID) -f /dev/null; fi; tail -n 1 $LOG"
}

run_delete() {
  tpu_vm delete "$name" --quiet
}

on_all_hosts() {
  tpu_vm ssh "$name" --worker=all --command="$1" "${@:2}"
}

tpu_vm() {
  execute gcloud compute tpus tpu-vm "$@" --zone="$zone" \
    ${project:+"--project=$project"}
}

# Run a command, or print it as a line that a shell splits into the same words.
execute() {
  if $dry_run; then
    quote "$@"
  else
    "$@"
  fi
}

# Print words as one line of shell input, quoted where necessary.
quote() {
  local word line=""
  for word; do
    if [[ ! "$word" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      word="'${word//\'/$QUOTED_QUOTE}'"
    fi
    line+=" $word"
  done
  echo "${line# }"
}

main "$@"
