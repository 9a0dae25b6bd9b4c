#!/usr/bin/env bash
# Run SLURM on this machine alone, as a cluster of one node, for
# tests/test_slurm.py. For Debian or Ubuntu, as root, without systemd: a
# container, or a machine to throw away.
#   bash scripts/slurm_node.sh start   # installs what is missing
#   bash scripts/slurm_node.sh stop    # cancels all jobs; the packages stay
# Exit codes: 1, SLURM does not answer; 2, not possible on this machine.
set -euo pipefail

readonly CONFIG=/etc/slurm/slurm.conf MARK="# Written by scripts/slurm_node.sh."
readonly STATE=/var/lib/slurm LOGS=/var/log/slurm

main() {
  local command="${1:-}"
  [[ "$command" == start || "$command" == stop ]] ||
    refuse "'$command' is not one of start, stop."
  [[ "$(id -u)" == 0 ]] || refuse "SLURM's daemons need root."
  if [[ -e "$CONFIG" ]] && ! grep -qxF "$MARK" "$CONFIG"; then
    refuse "$CONFIG belongs to another SLURM: use that one, or remove the file."
  fi
  "$command"
}

refuse() {
  echo "error: $1" >&2
  exit 2
}

start() {
  install_packages
  configure
  # A restarted container has lost /run.
  install -d -o munge -g munge -m 755 /run/munge
  install -d "$STATE/slurmctld" "$STATE/slurmd" "$LOGS"
  is_alive munged || runuser -u munge -- munged
  is_alive slurmctld || slurmctld
  is_alive slurmd || slurmd
  wait_until "SLURM does not answer; see $LOGS." is_up_or_resumed
  echo "SLURM $(sinfo --version | cut -d ' ' -f 2) is running."
}

stop() {
  if sinfo >/dev/null 2>&1; then
    scancel --user=root
    scontrol shutdown
  fi
  [[ ! -S /run/munge/munge.socket.2 ]] || runuser -u munge -- munged --stop
  local program
  for program in slurmd slurmctld munged; do
    wait_until "$program does not end; see $LOGS." has_ended "$program"
  done
  echo "SLURM is not running."
}

install_packages() {
  type -P srun slurmctld slurmd munged >/dev/null && return
  type -P apt-get >/dev/null || refuse "SLURM is missing, and so is apt-get."
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends \
    slurm-wlm munge >/dev/null
}

# Eight CPUs, however many there are: jobs of the tests wait for each other. A
# job that was requeued waits for cred_expire seconds, at least 5.
configure() {
  local host
  host="$(hostname -s)"
  cat >"$CONFIG" <<END
$MARK
ClusterName=single
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation=$STATE/slurmctld
SlurmdSpoolDir=$STATE/slurmd
SlurmctldLogFile=$LOGS/slurmctld.log
SlurmdLogFile=$LOGS/slurmd.log
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
}

# A node that was lost stays down until it is set to resume.
is_up_or_resumed() {
  case "$(sinfo --noheader --format=%T 2>/dev/null)" in
    idle | mixed | allocated | completing) ;;
    down* | drain*) scontrol update nodename="$(hostname -s)" state=resume &&
      false ;;
    *) false ;;
  esac
}

has_ended() {
  ! is_alive "$1"
}

# Not by pidfile: one of a previous boot names another process. Without zombies,
# which stay where process 1 does not wait for orphans.
is_alive() {
  pgrep --exact --runstates=D,R,S "$1" >/dev/null
}

wait_until() {
  local message="$1" deadline=$((SECONDS + 60))
  shift
  until "$@"; do
    if ((SECONDS >= deadline)); then
      echo "error: $message" >&2
      exit 1
    fi
    sleep 0.2
  done
}

main "$@"
