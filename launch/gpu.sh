#!/usr/bin/env bash
# Runs what waits for a GPU, in order of value, and gathers the figures in one JSON file.
#
#   launch/gpu.sh [--dry_run] [JOB...]
#
# Jobs: install speed digits cifar10 mnist table1 table3 table4 proposals large; without
# a name all of them, in this order. A job that is done is skipped, one that was stopped
# resumes. docs/gpu.md says what each is for.
#
# Environment: DATA (TFDS folder), RUNS (for runs, logs and results.json), LIMIT (seconds
# a job may take; the next call continues it), PYTHON, JAX (what pip is to install), BIN
# (of the environment).
#
# Jobs are called by their names.
# shellcheck disable=SC2329
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

: "${DATA:=../shared/data/tfds}" "${RUNS:=runs/gpu}" "${LIMIT:=86400}"
: "${PYTHON:=python3}" "${JAX:=jax[cuda13]}" "${BIN:=.venv/bin}"
RUNS=$(realpath -m "$RUNS")
ALL=(install speed digits cifar10 mnist table1 table3 table4 proposals large)
DRY_RUN=0
if [[ ${1:-} == --dry_run ]]; then
  DRY_RUN=1
  shift
fi

# Runs a command within what is left of LIMIT; SIGTERM lets a run save before it ends.
run() {
  if ((DRY_RUN)); then
    printf '%q ' "$@"
    echo
  else
    timeout --signal=TERM --kill-after=120 "$((LIMIT - SECONDS > 1 ? LIMIT - SECONDS : 1))" "$@"
  fi
}

python() {
  run "$BIN/python" "$@"
}

reproduce() {
  python -m benchmarks.reproduce "$@" --data_dir="$DATA" --runs="$RUNS"
}

# The classifier of a set, whose features the evaluations of its images compare.
classifier() {
  [[ -e $RUNS/$1_classifier/classifier.npz ]] ||
    python -m megjax.evaluation.classifier --data="$1" --data_dir="$DATA" --out="$RUNS/$1_classifier"
}

install() {
  [[ -x $BIN/python ]] || run "$PYTHON" -m venv "${BIN%/bin}" &&
    python -m pip install --quiet "$JAX" -c constraints.txt &&
    run make install PYTHON="$PYTHON" &&
    python -c 'import jax; print(jax.devices())'
}

speed() {
  local dtype config
  for dtype in float32 bfloat16; do
    python -m benchmarks.step --config=toy_25gaussians --config.dtype="$dtype" || return
    for config in kdd99 stacked_mnist cifar10; do
      python -m benchmarks.step --config="$config" --config.dtype="$dtype" --config.data_dir="$DATA" || return
    done
  done
  python -m benchmarks.step --config=cifar10 --config.dtype=bfloat16 --config.data_dir="$DATA" \
    --config.batch_size=1024
}

digits() {
  python train.py --config=digits --workdir="$RUNS/digits" &&
    python sample.py --workdir="$RUNS/digits" --steps=100 &&
    python evaluate.py --workdir="$RUNS/digits"
}

cifar10() {
  python train.py --config=cifar10 --config.dtype=bfloat16 --config.data_dir="$DATA" --workdir="$RUNS/cifar10" &&
    python sample.py --workdir="$RUNS/cifar10" --steps=100 &&
    classifier cifar10 &&
    python evaluate.py --workdir="$RUNS/cifar10" \
      --set=evaluation.classifier="$RUNS/cifar10_classifier/classifier.npz"
}

mnist() {
  classifier mnist &&
    reproduce images --classifier="$RUNS/mnist_classifier/classifier.npz"
}

table1() {
  classifier mnist &&
    reproduce table1 --budget=full --classifier="$RUNS/mnist_classifier/classifier.npz"
}

table3() { reproduce table3 --budget=full; }

table4() { reproduce table4 --budget=full; }

proposals() { reproduce proposal_table1 --budget=full --rows=funnel1,funnel3; }

large() {
  python -m benchmarks.scaling --config=cifar10 --config.data_dir="$DATA" --devices=1 --seconds=5 &&
    python -m benchmarks.scaling --config=flowers --config.image_size=64 --config.data_dir="$DATA" \
      --devices=1 --seconds=5 --config.meg.num_microbatches=4
}

# Every line of JSON that the jobs printed and every evaluation, by the job's name.
gather() {
  ((DRY_RUN)) || "$PYTHON" - "$RUNS" <<'PYTHON'
import json, pathlib, sys
runs = pathlib.Path(sys.argv[1])
found = {}
for log in sorted(runs.glob("*.log")):
    lines = [line for line in log.read_text(errors="replace").splitlines() if line[:1] == "{"]
    found[log.stem] = [json.loads(line) for line in lines]
for path in sorted(runs.glob("*/evaluation/evaluation.json")):
    found[f"evaluation of {path.parts[-3]}"] = json.loads(path.read_text())
(runs / "results.json").write_text(json.dumps(found, indent=2) + "\n")
print(f"{runs / 'results.json'}: {len(found)} entries")
PYTHON
}

jobs=("${@:-${ALL[@]}}")
for job in "${jobs[@]}"; do
  [[ " ${ALL[*]} " == *" $job "* ]] || {
    echo "error: no job $job: give some of ${ALL[*]}" >&2
    exit 2
  }
done
failed=0
((DRY_RUN)) || mkdir -p "$RUNS"
for job in "${jobs[@]}"; do
  if ((DRY_RUN)); then
    echo "# $job"
    "$job"
  elif [[ ! -e $RUNS/$job.done ]]; then
    SECONDS=0
    "$job" 2>&1 | tee -a "$RUNS/$job.log"
    status=${PIPESTATUS[0]}
    if ((status == 0)); then
      touch "$RUNS/$job.done"
    else
      echo "error: $job ended with status $status after $SECONDS s; the same command resumes it" >&2
      failed=1
    fi
  fi
done
gather
exit $failed
