#!/usr/bin/env bash
# Trains on all workers of a TPU VM slice, and again whenever the slice is preempted.
#
#   SHARE=10.0.0.2:/runs launch/tpu_vm.sh [--dry_run] up NAME --config=configs/cifar10.py
#   launch/tpu_vm.sh [--dry_run] run|delete NAME [flags of train.py]
#
# up: create, copy the checkout, install, run; when the slice is gone, delete what is left
# of it and begin again. run: the last step alone. delete: give the slice back.
#
# Environment: ZONE, ACCELERATOR, RUNTIME, SPOT (1 or 0), MAX_RESTARTS, POLL (seconds), and
# SHARE, an NFS export (Filestore) for runs, which outlives the slice. gcloud's own
# configuration names the project.
set -euo pipefail

: "${ZONE:=us-west4-a}" "${ACCELERATOR:=v5litepod-8}" "${RUNTIME:=v2-alpha-tpuv5-lite}"
: "${SPOT:=1}" "${MAX_RESTARTS:=20}" "${POLL:=30}" "${SHARE:=}"
PREEMPTED=143

die() {
  echo "error: $*" >&2
  exit 1
}

DRY_RUN=0
if [[ ${1:-} == --dry_run ]]; then
  DRY_RUN=1
  shift
fi
ACTION=${1:-} NAME=${2:-}
[[ $ACTION =~ ^(up|run|delete)$ && -n $NAME && $NAME != -* ]] ||
  die "give up, run or delete, then a name: launch/tpu_vm.sh up NAME --config=FILE"
shift 2
[[ $SPOT == 0 || -n $SHARE || $ACTION == delete ]] ||
  die "SHARE is empty: a preempted slice takes its disks along; set SHARE or SPOT=0"
ARCHIVE=${TMPDIR:-/tmp}/megjax-$NAME.tgz
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Runs a command, or prints it in a form that a shell reads back.
run() {
  if ((DRY_RUN)); then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

queued() {
  local verb=$1
  shift
  run gcloud compute tpus queued-resources "$verb" "$NAME" --zone="$ZONE" "$@"
}

on_all() {
  run gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}

state() {
  if ((DRY_RUN)); then
    queued describe --format='value(state.state)' >&2
    echo ACTIVE
  else
    queued describe --format='value(state.state)' 2>/dev/null || echo NONE
  fi
}

create() {
  local options=(--node-id="$NAME" --accelerator-type="$ACCELERATOR")
  options+=(--runtime-version="$RUNTIME")
  ((SPOT)) && options+=(--spot)
  queued create "${options[@]}"
}

# Until the slice is there; fails where it will never be.
wait_until_active() {
  local now
  while now=$(state); [[ $now != ACTIVE ]]; do
    [[ $now =~ ^(FAILED|SUSPENDING|SUSPENDED|NONE)$ ]] && return 1
    echo "$NAME: $now" >&2
    sleep "$POLL"
  done
}

copy() {
  # tar fails where a file changes while it reads, as caches do.
  run tar -czf "$ARCHIVE" -C "$ROOT" --exclude={.git,.venv,runs,build,.*_cache} \
    --exclude={__pycache__,*.egg-info} . &&
    run gcloud compute tpus tpu-vm scp "$ARCHIVE" "$NAME:megjax.tgz" \
      --zone="$ZONE" --worker=all
}

# The runtime images have an older Python than megjax needs; uv brings one.
install() {
  on_all 'mkdir -p megjax && tar -xzf megjax.tgz -C megjax && cd megjax &&
    python3 -m pip install --quiet --user uv &&
    ~/.local/bin/uv venv --allow-existing --python 3.12 .venv &&
    ~/.local/bin/uv pip install --python .venv/bin/python "jax[tpu]" \
      -r requirements.txt -c constraints.txt'
}

mount_share() {
  [[ -z $SHARE ]] || on_all "sudo apt-get install -y -q nfs-common &&
    sudo mkdir -p /mnt/runs &&
    { mountpoint -q /mnt/runs || sudo mount -t nfs $SHARE /mnt/runs; } &&
    sudo chown \$USER /mnt/runs"
}

# A connection that broke may have left the last one running: it saves and ends first.
train() {
  local flags
  flags=$(printf '%q ' --distributed "$@")
  [[ -z $SHARE || $flags == *--workdir=* ]] || flags+=" --workdir=/mnt/runs/$NAME"
  on_all "cd megjax &&
    if kill -TERM \$(cat job.pid) 2>/dev/null; then
      while kill -0 \$(cat job.pid) 2>/dev/null; do sleep 1; done
    fi
    echo \$\$ > job.pid && exec .venv/bin/python train.py $flags"
}

delete() {
  queued delete --quiet --force
}

# The status of training, once it has ended by itself.
up() {
  local restart status
  for ((restart = 0; restart <= MAX_RESTARTS; restart++)); do
    if [[ $(state) == NONE ]] || ((DRY_RUN)); then
      create
    fi
    if wait_until_active && copy && install && mount_share; then
      status=0
      train "$@" || status=$?
      if ((status == 0)); then
        return 0
      fi
      echo "$NAME: training ended with $status" >&2
      # Neither preempted nor asked to stop: an error of the run itself.
      if [[ $(state) == ACTIVE ]] && ((status != PREEMPTED && status != 255)); then
        return "$status"
      fi
    fi
    # Of a slice that was preempted its request is left, under the same name.
    if [[ ! $(state) =~ ^(ACTIVE|NONE)$ ]]; then
      delete
    fi
  done
  die "$NAME: gave up after $MAX_RESTARTS restarts"
}

case $ACTION in
  up) up "$@" ;;
  run) train "$@" ;;
  delete) delete ;;
esac
