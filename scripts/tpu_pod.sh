#!/usr/bin/env bash
# Train on every host of Cloud TPU slices, from this machine.
#
#   export TPU_NAME=pod ZONE=europe-west4-b ACCELERATOR_TYPE=v5litepod-32
#   scripts/tpu_pod.sh create
#   scripts/tpu_pod.sh copy      # this working tree, to ~/sam_jax on each host;
#                                # other files there, such as runs, stay
#   scripts/tpu_pod.sh install   # Python, and sam_jax with jax[tpu] and [gcs]
#   scripts/tpu_pod.sh launch -- --config=configs/imagenet.py \
#     --config.dataset.data_dir=gs://bucket/tfds --workdir=gs://bucket/run
#   scripts/tpu_pod.sh status    # of each host: running or not, its last line
#   scripts/tpu_pod.sh logs      # the output of each host, to --output here
#   scripts/tpu_pod.sh stop      # saves a checkpoint; launch resumes from it
#   scripts/tpu_pod.sh delete
#
# To wait in a queue for the TPU, and for several slices (multislice), name a
# queued resource for each command. Its hosts know the other slices.
#
#   export QUEUED_RESOURCE_ID=request NODE_COUNT=2
#   scripts/tpu_pod.sh create
#
# To train to the end on spot capacity: create the slices, copy, install and
# launch, and after each preemption once more, until the run has its result.
#
#   scripts/tpu_pod.sh watch --spot -- --config=configs/imagenet.py \
#     --config.dataset.data_dir=gs://bucket/tfds --workdir=gs://bucket/run
#
# Options, or the environment variables of Google's guides:
#   --name             $TPU_NAME
#   --queued_resource  $QUEUED_RESOURCE_ID; without it, no queue
#   --slices           $NODE_COUNT, of a queued resource; default: 1
#   --zone             $ZONE
#   --project          $PROJECT_ID; default: gcloud's own
#   --type             $ACCELERATOR_TYPE, to create
#   --version          $RUNTIME_VERSION, to create; default: that of the type
#   --spot             create slices that may be preempted
#   --interval         seconds between two looks of watch; default: 60
#   --output           directory for logs; default: runs/NAME-logs
#   --dry_run          only print the commands
# Arguments after -- are flags of training (launch, watch) or of gcloud (create,
# for example --valid-until-duration=6h). Exit codes: 2, wrong arguments; 1,
# watch gave up; otherwise that of gcloud.
set -euo pipefail
cd "$(dirname "$0")/.."

# Paths on each host, relative to the home directory.
readonly CODE=sam_jax VENV=sam_jax_venv LOG=sam_jax.log PID=sam_jax.pid

# jax and all other packages have the versions of this file, uv has this one.
readonly CONSTRAINTS=constraints/py312.txt UV=0.13.9

# A run that ends so often on healthy slices does not end because of them.
readonly MAX_LAUNCHES=3

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
    create | copy | install | launch | watch | status | logs | stop | delete)
      shift ;;
    -h | --help) usage && exit ;;
    *) refuse "'$command' is not one of create, copy, install, launch, watch,\
 status, logs, stop, delete; see --help." ;;
  esac
  parse_options "$@"
  name="${name:-$queue}"
  [[ -n "$name" ]] || refuse "--name (or \$TPU_NAME) is missing."
  [[ -n "$zone" ]] || refuse "--zone (or \$ZONE) is missing."
  [[ "$slices" =~ ^[1-9][0-9]*$ ]] || refuse "--slices=$slices is no number."
  [[ "$interval" =~ ^[0-9]+$ ]] || refuse "--interval=$interval is no number."
  if ((slices > 1)) && [[ -z "$queue" ]]; then
    refuse "--slices needs --queued_resource (or \$QUEUED_RESOURCE_ID)."
  fi
  if ((${#rest[@]})) && [[ ! "$command" =~ ^(create|launch|watch)$ ]]; then
    refuse "$command takes no arguments after --."
  fi
  [[ " ${rest[*]-} " != *" --dry_run "* ]] || refuse "--dry_run goes before --."
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
  queue="${QUEUED_RESOURCE_ID:-}" slices="${NODE_COUNT:-1}" node=all
  spot="" interval=60
  output="" dry_run=false options=() rest=()
  while (($#)); do
    case "$1" in
      --name=*) name="${1#*=}" ;;
      --zone=*) zone="${1#*=}" ;;
      --project=*) project="${1#*=}" ;;
      --type=*) accelerator="${1#*=}" ;;
      --version=*) version="${1#*=}" ;;
      --output=*) output="${1#*=}" ;;
      --queued_resource=*) queue="${1#*=}" ;;
      --slices=*) slices="${1#*=}" ;;
      --interval=*) interval="${1#*=}" ;;
      --spot) spot=--spot ;;
      --dry_run) dry_run=true ;;
      --) shift && rest=("$@") && return ;;
      --name | --zone | --project | --type | --version | --output | \
        --queued_resource | --slices | --interval)
        refuse "$1 needs a value: $1=..." ;;
      *) refuse "Unknown argument $1; training flags come after --." ;;
    esac
    options+=("$1")
    shift
  done
}

run_create() {
  check_type
  local version="${version:-$(runtime_version)}" flags=()
  if [[ -z "$queue" ]]; then
    flags=(--version="$version")
  elif ((slices == 1)); then
    flags=(--runtime-version="$version" --node-id="$name")
  else
    flags=(--runtime-version="$version" --node-count="$slices"
      --node-prefix="$name")
  fi
  tpus create --accelerator-type="$accelerator" "${flags[@]}" \
    ${spot:+"$spot"} ${rest[@]+"${rest[@]}"}
}

check_type() {
  [[ -n "$accelerator" ]] ||
    refuse "--type (or \$ACCELERATOR_TYPE) is missing, such as v5litepod-32."
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
  on_all_hosts "$REFUSE_IF_RUNNING"
  archive="$(make_temporary)"
  trap 'rm -f "$archive"' EXIT
  execute bash -c 'git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d "" f; do [[ ! -e $f ]] || printf "%s\0" "$f"; done |
    tar -czf "$0" --null -T -' "$archive"
  tpus scp "$archive" "${queue:-$name}:$CODE.new.tar.gz" --worker=all
  execute rm "$archive"
  on_all_hosts "mkdir -p $CODE && cd $CODE && if [ -e ../$CODE.tar.gz ]; then \
tar -tzf ../$CODE.tar.gz --quoting-style=literal | xargs -rd '\n' rm -f --; fi \
&& mv ../$CODE.new.tar.gz ../$CODE.tar.gz && tar -xzf ../$CODE.tar.gz"
}

# Create a file whose name no other user can guess; a dry run creates none.
make_temporary() {
  local flags=()
  $dry_run && flags=(-u)
  mktemp ${flags[@]+"${flags[@]}"} "${TMPDIR:-/tmp}/sam_jax.XXXXXX"
}

# Install with uv, because the Python of most TPU runtimes is too old.
run_install() {
  on_all_hosts "python3 -m pip install --quiet --user uv==$UV \
&& python3 -m uv venv --quiet --allow-existing --python=3.12 $VENV \
&& python3 -m uv pip install --quiet --python=$VENV \
--constraint=$CODE/$CONSTRAINTS 'jax[tpu]' -e './$CODE[train,gcs]' \
&& $VENV/bin/python -c 'import jax; print(jax.__version__)'"
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

# Loop over the states of the slices, and act on each of them. The actions are
# safe to repeat: training resumes, and copying and installing take seconds.
run_watch() {
  check_type
  local word workdir="" launches=0
  for word in ${rest[@]+"${rest[@]}"}; do
    if [[ "$word" == --workdir=* ]]; then workdir="${word#*=}"; fi
  done
  [[ "$workdir" == gs://* ]] ||
    refuse "watch needs -- --workdir=gs://...: slices lose their disks."
  if $dry_run; then
    print_commands_of_watch
    return
  fi
  until is_finished; do
    case "$(state)" in
      READY | ACTIVE) launch_unless_running ;;
      PREEMPTED | TERMINATED | SUSPENDED)
        report "The slices were preempted."
        itself delete && itself create || report "Trying again."
        launches=0 ;;
      NOT_FOUND)
        itself create || report "Trying again."
        launches=0 ;;
      FAILED) give_up "The queued resource failed" ;;
      *) report "Waiting for the slices." ;;
    esac
    sleep "$interval"
  done
  report "The run is finished. To free the slices: scripts/tpu_pod.sh delete"
}

print_commands_of_watch() {
  is_finished
  state
  local command
  for command in delete create copy install; do
    itself "$command"
  done
  itself launch -- "${rest[@]}"
}

is_finished() {
  local look=(gcloud storage ls "${workdir%/}/result.json"
    ${project:+"--project=$project"})
  if $dry_run; then execute "${look[@]}"; else "${look[@]}" >/dev/null 2>&1; fi
}

# Print the state of the slices: NOT_FOUND without any, UNKNOWN after an error.
state() {
  local said
  if $dry_run; then
    describe
  elif said="$(describe 2>&1)"; then
    said="${said##*$'\n'}" # after warnings
    echo "${said%%$'\t'*}" # before the health
  elif [[ "$said" == *NOT_FOUND* ]]; then
    echo NOT_FOUND
  else
    echo "$said" >&2
    echo UNKNOWN
  fi
}

launch_unless_running() {
  local said
  said="$(on_all_hosts "if $IS_RUNNING; then echo RUNNING; fi")" || true
  if [[ "$said" == *RUNNING* ]]; then
    report "The run is in progress."
    return
  fi
  ((launches < MAX_LAUNCHES)) ||
    give_up "The run ended $launches times, and not because of a preemption"
  report "Launching the run."
  if itself copy && itself install && itself launch -- "${rest[@]}"; then
    launches=$((launches + 1))
  else
    report "Trying again."
  fi
}

give_up() {
  echo "error: $1; see scripts/tpu_pod.sh status and logs." >&2
  exit 1
}

# Run another command of this script, which ends at its first error.
itself() {
  local command="$1"
  shift
  scripts/tpu_pod.sh "$command" ${options[@]+"${options[@]}"} "$@"
}

report() {
  echo "$(date +%H:%M:%S) $1"
}

run_status() {
  describe
  on_all_hosts "if $IS_RUNNING; then state=running; else state='not running'; \
fi; echo \"\$(hostname): \$state: \$(tail -n 1 $LOG 2>/dev/null)\""
}

describe() {
  if [[ -n "$queue" ]]; then
    tpus describe --format='value(state.state)'
  else
    tpus describe --format='value(state,health)'
  fi
}

# gcloud names the files by the number of a host in its slice, so each of several
# slices needs a directory.
run_logs() {
  local directory="${output:-runs/$name-logs}" place slice
  for ((slice = 0; slice < slices; slice++)); do
    place="$directory"
    if ((slices > 1)); then node="$slice" place+="/$slice"; fi
    execute mkdir -p "$place"
    on_all_hosts "cat $LOG" --output-directory="$place"
  done
  $dry_run || echo "The output of each host is in $directory."
}

# Training saves a checkpoint on SIGTERM; wait for it, however long it takes.
run_stop() {
  on_all_hosts "if $IS_RUNNING; then kill -TERM \$(cat $PID) \
&& tail --pid=\$(cat $PID) -f /dev/null; fi; tail -n 1 $LOG"
}

# Deleting a queued resource takes --force to delete its slices too.
run_delete() {
  tpus delete ${queue:+--force} --quiet
}

on_all_hosts() {
  tpus ssh --worker=all --command="$1" "${@:2}"
}

# Call gcloud for the TPU, or for all slices of the queued resource.
tpus() {
  local command="$1" group=tpu-vm resource="$name" flags=()
  shift
  if [[ -n "$queue" ]]; then
    group=queued-resources resource="$queue"
    [[ ! "$command" =~ ^(ssh|scp)$ ]] || flags=(--node="$node")
  fi
  [[ "$command" == scp ]] || flags=("$resource" ${flags[@]+"${flags[@]}"})
  execute gcloud compute tpus "$group" "$command" \
    ${flags[@]+"${flags[@]}"} "$@" --zone="$zone" \
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
