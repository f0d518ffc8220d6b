# %% [markdown]
# # From a laptop to many devices
#
# A model that trains on a laptop should train on a slice of TPUs without another line of code, survive the loss of that slice, and
# be read on the laptop again. Here you do all of it on one CPU, which pretends to be eight devices:
#
# 1. what it means to split a batch over devices, and what the devices have to tell each other;
# 2. the same training on one and on eight devices: same numbers?
# 3. when memory is short: gradients of parts of a batch, and arithmetic in bfloat16;
# 4. a run that is stopped and resumes, bitwise identically;
# 5. what several machines and a TPU slice need (told, not run);
# 6. reading a run elsewhere.
#
# Eight virtual devices on two cores save no time: this page is about getting the same results. It takes a minute or two.
#
# Some settings come before JAX starts. `jax_num_cpu_devices` makes virtual devices. `NPROC` is the number of threads that XLA
# gives them: while devices wait for each other, each holds a thread, so there should be more threads than devices. The
# others save time here, since most of it is compilation: compiled programs are kept for the processes to come, and
# few optimisations are asked for.

# %%
import os
import tempfile

# Runs and compiled programs go to a folder that is deleted at the end.
folder = tempfile.TemporaryDirectory()
os.chdir(folder.name)
os.environ.setdefault("NPROC", "24")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.abspath("compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import json
import pathlib
import re
import signal
import subprocess
import sys

import jax

jax.config.update("jax_num_cpu_devices", 8)

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn import datasets

import megjax
from megjax.learners import meg
from megjax.networks import mlp

print(len(jax.devices()), "devices:", jax.devices()[0], "...", jax.devices()[-1])

# %% [markdown]
# ## A batch, split
#
# *Data parallelism*: every device holds all parameters $\theta$ and a part of the batch. Device $k$ of $n$ computes the gradient
# of its part; the gradient of the whole batch is the mean,
#
# $$\nabla_\theta L = \frac1B \sum_{i=1}^{B} \nabla_\theta \ell(x_i; \theta)
#   = \frac1n \sum_{k=1}^{n} \Big[ \frac{n}{B} \sum_{i \in \text{part } k} \nabla_\theta \ell(x_i; \theta) \Big],$$
#
# and each applies the same update. In JAX nobody writes that mean. An array knows where its parts lie, code is written as
# if there were one device, and the compiler adds the communication. A *mesh* names the devices, here along one axis
# called `data`:


# %%
def mesh_of(num_devices):
    return jax.make_mesh(
        (num_devices,),
        ("data",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:num_devices],
    )


mesh = mesh_of(8)
split, whole = (jax.NamedSharding(mesh, jax.P(axis)) for axis in ("data", None))
x = jax.device_put(jax.random.normal(jax.random.key(0), (64, 3)), split)
theta = jax.device_put(jnp.ones(3), whole)
for part in x.addressable_shards[:2]:
    print("device", part.device.id, "has rows", part.index[0], part.data.shape)


@jax.jit
def gradient(theta, x):
    """Of the mean squared length of x - theta."""
    return jax.grad(lambda theta: jnp.mean(jnp.sum((x - theta) ** 2, axis=1)))(theta)


program = gradient.lower(theta, x).compile().as_text()
print("sums over devices in the program:", len(re.findall(r"all-reduce\(", program)))
on_one = gradient(jnp.ones(3), np.asarray(x))
print("largest difference to one device:", np.abs(gradient(theta, x) - on_one).max())

# %% [markdown]
# One `all-reduce`, of three numbers: each device sends its gradient and receives the sum. The results agree to rounding and not
# always bitwise, since eight partial sums are added in another order than one long sum.
#
# ## The same training on one and on eight devices
#
# A real step: a maximum entropy generator of scikit-learn's digits, with three networks (an energy, a generator, and one that
# estimates the generator's entropy). A `Learner` is a record of pure functions, and `step(key, state, x)` is one
# iteration. We compile it for a number of devices, state whole on each, batch split.

# %%
digits = (datasets.load_digits().data / 8 - 1).astype(np.float32)


def learner(dtype=jnp.float32, num_microbatches=1):
    adam = optax.adam(1e-3, 0.5, 0.9)
    return megjax.meg(
        meg.Spec(
            energy=megjax.Energy(mlp.Trunk((128, 64), dtype=dtype)),
            generator=mlp.Generator((128,), 64, dtype=dtype),
            statistics=mlp.Statistics((128, 64), dtype=dtype),
            latent_dim=16,
            num_energy_updates=1,
            num_microbatches=num_microbatches,
            energy_optimizer=adam,
            generator_optimizer=adam,
            statistics_optimizer=adam,
        )
    )


def compiled(learner, num_devices, batch_size):
    """A fresh state, and (key, state, x [1, batch_size, 64]) -> state, metrics."""
    mesh = mesh_of(num_devices)
    split, whole = (
        jax.NamedSharding(mesh, jax.P(*axes)) for axes in ((None, "data"), ())
    )
    with jax.set_mesh(mesh):
        init = jax.jit(learner.init, out_shardings=whole)
        state = init(jax.random.key(0), jnp.zeros((batch_size, 64)))
        x = jax.ShapeDtypeStruct((1, batch_size, 64), jnp.float32, sharding=split)
        key = jax.device_put(jax.random.key(0), whole)
        step = jax.jit(learner.step, out_shardings=whole)
        step = step.lower(key, state, x).compile()

    def call(key, state, x):
        return step(jax.device_put(key, whole), state, jax.device_put(x, split))

    return state, call, step


def trained(learner, num_devices, num_steps=60):
    """The state after training with batches of 64, and the energy gap of every step."""
    state, call, step = compiled(learner, num_devices, 64)
    rng, gaps = np.random.default_rng(0), []
    for t in range(num_steps):
        x = digits[rng.integers(len(digits), size=(1, 64))]
        state, metrics = call(jax.random.key(t), state, x)
        gaps.append(float(metrics["energy_gap"]))
    return jax.device_get(state), gaps, step


full = learner()
state_1, gaps_1, step_1 = trained(full, 1)
state_8, gaps_8, step_8 = trained(full, 8)
energies_1, energies_8 = (full.energy(s, digits[:256]) for s in (state_1, state_8))
print("energy gap of steps 1, 20, 40, 60")
for name, gaps in (("one device", gaps_1), ("eight", gaps_8)):
    print(f"{name:12}", *(f"{gaps[t]:.6f}" for t in (0, 19, 39, 59)))
print(f"energies of images: standard deviation {np.std(energies_1):.4f}")
print(f"largest difference {np.abs(energies_1 - energies_8).max():.1e}")

# %% [markdown]
# The first step agrees to all digits that are printed. Then the rounding of the sums, in the seventh digit, grows from step to
# step, as small differences do in any joint training of several networks: after 60 steps the energies still differ by far less
# than they vary from image to image. The same run up to rounding, then, and not bitwise. Nothing in
# `megjax.learners` mentions devices but for one thing: noise that is drawn at the size of the batch is split along `data`, lest every
# device draw and process all of it.
#
# From a config it is the same: `megjax.train("digits", devices=jax.devices())`, and `batch_size` is that of all devices together.
#
# ## What a device does and sends
#
# XLA counts the work of a compiled step on one device. *Strong* scaling keeps the batch, *weak* scaling the batch per device.


# %%
def work(step):
    """(million operations of one device, sums over devices)."""
    cost = step.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    return cost["flops"] / 1e6, len(re.findall(r"all-reduce\(", step.as_text()))


_, _, step_weak = compiled(full, 8, 512)
print("          devices  batch  per device   operations (million)  sums")
for name, num, batch, step in (
    ("", 1, 64, step_1),
    ("strong", 8, 64, step_8),
    ("weak", 8, 512, step_weak),
):
    million, sums = work(step)
    print(f"{name:9} {num:7} {batch:6} {batch // num:11} {million:22.1f} {sums:5}")

# %% [markdown]
# With the batch per device the work stays. With the batch kept it is divided by nearly seven, not by eight: the update of the
# parameters is done on every device. What is sent depends on the networks alone, so there is a batch per device below which a device waits more than it works. If it computes $R$ operations a second,
# sends $W$ bytes a second, an example costs $f$ operations, and $S$ bytes are summed around a ring of $n$ devices,
#
# $$\text{time} = \frac{b f}{R} + 2\, \frac{n-1}{n}\, \frac{S}{W}, \qquad
#   b^* = 2\, \frac{n-1}{n}\, \frac{S R}{W f} ,$$
#
# the device works for $b / (b + b^*)$ of its time. [Many devices](../scaling.md) works $b^*$ out from published peak rates, for
# the CIFAR-10 networks: about 20 examples on a TPU v5e slice, 400 on GPUs that talk over InfiniBand.

# %%
batch = np.geomspace(4, 4096, 50)
fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
for name, critical in {"TPU v5e, slice": 20, "H100, InfiniBand": 406}.items():
    ax.semilogx(batch, batch / (batch + critical), label=f"{name}: b* = {critical}")
ax.set(xlabel="examples per device", ylabel="share of time spent computing")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# Half of the time is lost at $b = b^*$. A batch of 64 pays on about three v5e chips; on more, one needs a larger batch. This is
# arithmetic from data sheets, not a measurement.
#
# ## When memory is short
#
# **Parts of a batch.** The mean of means works one part after the other, too, on one device: gradients of four parts are
# computed in turn and averaged, and only one part's intermediate values are in memory (`num_microbatches`; in a config
# `--config.meg.num_microbatches=4`).

# %%
for num in (1, 8):
    _, _, step = compiled(learner(num_microbatches=num), 1, 2048)
    memory = step.memory_analysis().temp_size_in_bytes / 2**20
    print(f"{num} parts of a batch of 2048: {memory:6.1f} MiB of temporary memory")

# %% [markdown]
# Samples for the energy are still made for the whole batch at once, so the saving has an end. Learning rates
# belong to the batch, not to its parts.
#
# **bfloat16** has the range of float32 and eight bits of precision: half the memory for what is computed in between, and the
# fast units of accelerators. Parameters and optimizers stay in float32, for a reason:

# %%
one = jnp.bfloat16(1)
print(
    "1 + 0.01 =", one + jnp.bfloat16(0.01), "  1 + 0.001 =", one + jnp.bfloat16(0.001)
)
_, gaps_half, _ = trained(learner(dtype=jnp.bfloat16), 1)

# %%
fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.plot(gaps_1, lw=4, alpha=0.4, label="float32, one device")
ax.plot(gaps_8, "k", lw=1, label="float32, eight devices")
ax.plot(gaps_half, lw=1, label="bfloat16")
ax.set(xlabel="step", ylabel="energy gap")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# A small update to a parameter of 1 would be lost in bfloat16: 1 + 0.001 is 1. As arithmetic inside the networks it changes the
# curve little. One and eight devices lie on top of each other, as far as the eye can tell. (The CPU has no fast units for bfloat16; here it saves no time.)
#
# ## Stopped, and resumed bitwise identically
#
# Runs get killed: by a scheduler, a preempted machine, a closed laptop. From here on we use the command line, in processes of
# its own, as a cluster would: `megjax train --config=rbm_digits --workdir=...` trains a restricted Boltzmann machine on the digits, with
# 16 hidden units. First a run that nobody disturbs.


# %%
def start(workdir, devices=1, **fields):
    """A process of `megjax train` on some virtual devices."""
    fields = {
        "batch_size": 96,
        "contrast.num_chains": 96,
        "train.num_steps": 3000,
        "train.log_every": 150,
        "train.save_every": 300,
        "train.evaluate_every": 3000,
    } | fields
    line = [sys.executable, "-m", "megjax.cli", "train", "--config=rbm_digits"]
    line += [f"--workdir={workdir}"]
    line += [f"--config.{name}={value}" for name, value in fields.items()]
    environment = {"JAX_NUM_CPU_DEVICES": str(devices), "MPLBACKEND": "Agg"}
    return subprocess.Popen(
        line, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )


def last_line(process):
    """Waits for the end; (exit status, the last line that it said)."""
    text = process.communicate(timeout=300)[1].strip()
    return process.returncode, text.splitlines()[-1] if text else ""


def digest(line):
    return re.search(r"sha256 (\w+)", line)[1]


status, line = last_line(start("undisturbed"))
print(status, line)
expected = digest(line)


# %% [markdown]
# The last line is a digest of all bits of the final state: parameters, chains, optimizer. Now the same run again. As soon as
# it reports a step it gets a SIGTERM, as from a scheduler; started again, a SIGKILL, which it cannot see coming; and then
# it may finish. The command is the same each time.


# %%
def struck(process, number):
    """Sends a signal after the first report of a step."""
    for line in process.stderr:
        if " step " in line:
            break
    process.send_signal(number)
    return last_line(process)


print(struck(start("disturbed"), signal.SIGTERM))
print(struck(start("disturbed"), signal.SIGKILL))
status, line = last_line(start("disturbed"))
print(status, line)
print("the same bits:", digest(line) == expected)


# %% [markdown]
# Status 143 is $128 + 15$, the number of SIGTERM: saved, and asking to be started again. After SIGKILL ($-9$) the next start takes the
# newest checkpoint whose digests are right, at most 300 iterations back. The final state has the bits of the undisturbed run. Nothing random is stored
# for that: iteration $t$ takes key and batch from (seed, $t$), whoever computes it and whenever. On other devices or
# other versions sums are ordered otherwise, and only the last digits agree.


# %%
def logged(workdir, name):
    """(steps, values) of a metric that a run wrote."""
    lines = pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if name in row]
    return [row["step"] for row in rows], [row[name] for row in rows]


fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.plot(
    *logged("undisturbed", "reconstruction_error"), lw=5, alpha=0.4, label="undisturbed"
)
ax.plot(*logged("disturbed", "reconstruction_error"), "k.-", lw=1, label="disturbed")
ax.set(xlabel="step", ylabel="reconstruction error")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# The curves agree but around the first stop: each point is a mean since the point before, and a run that is stopped logs
# where it stops. What a killed process wrote about iterations after its last checkpoint is dropped when they come again.
#
# ## Several processes
#
# One process cannot span machines. On two machines the same command is started twice, with the address of the first, the number
# of processes, and which one this is:
#
#     megjax train --config=cifar10 --workdir=/shared/run --coordinator=HOST0:8476 --num_processes=2 --process_id=0
#     megjax train --config=cifar10 --workdir=/shared/run --coordinator=HOST0:8476 --num_processes=2 --process_id=1
#
# Both run the same compiled step, over the devices of both; process 0 alone writes. On a TPU slice, under SLURM, Open MPI or
# Kubernetes, `--distributed` asks the cluster for addresses and numbers instead. (Two processes on *one* small CPU work
# as well, with `HOST0` its own address, but every sum then waits for the scheduler of the operating system, and minutes pass with little
# done; the tests of the package do it, this page does not.)
#
# If one of them gets a SIGTERM, all save at one step and end with 143; if one dies, the others end within
# `--heartbeat_timeout` seconds; an error in one ends all, each with the reason. [Kills, signals, damaged disks](../reliability.md)
# has the tests of that.
#
# ## A job on a TPU slice
#
# The `launch/` folder of the repository has scripts for TPU slices, SLURM and Kubernetes. On a TPU slice,
#
#     SHARE=10.0.0.2:/runs launch/tpu_vm.sh up NAME --config=configs/cifar10.py --config.dtype=bfloat16
#
# creates the slice `NAME`, copies the checkout, installs, mounts a share for runs (a preempted slice takes its disks along),
# and runs on every worker, in essence,
#
#     python train.py --distributed --config=configs/cifar10.py --config.dtype=bfloat16 --workdir=/mnt/runs/NAME
#
# When the slice is preempted, it makes it again and runs the same line; status 0 ends it, 143 means again, and another
# status means an error of the run itself. With `--dry_run` it prints its commands. In a checkout we can look:

# %%
script = pathlib.Path(megjax.__file__).parents[1] / "launch" / "tpu_vm.sh"
if script.exists():
    found = subprocess.run(
        ["bash", script, "--dry_run", "up", "demo", "--config=configs/cifar10.py"],
        env=os.environ | {"SHARE": "10.0.0.2:/runs"},
        capture_output=True,
        check=True,
        text=True,
    )
    for line in found.stdout.splitlines():
        print(line[:110])

# %% [markdown]
# These scripts are tested against stand-ins for `gcloud`, `srun` and `scontrol`; none has run on its cluster yet.
#
# ## Reading a run elsewhere
#
# A run directory has `config.json`, checkpoints and metrics. `megjax.load` reads it without the training set and without the
# checkout, on whatever devices are there, and executes nothing that it finds. `save` writes one `.safetensors` file, which
# other programs read, too.

# %%
model = megjax.load("disturbed")
model.save("machine.safetensors")
same = megjax.load_weights("machine.safetensors")
images = np.where(datasets.load_digits().images >= 8, 1.0, -1.0)[..., None]
print(model)
print(f"log-likelihood {model.log_prob(images).mean():.2f} nats per image")
assert np.array_equal(model.energy(images), same.energy(images))
size = pathlib.Path("machine.safetensors").stat().st_size
print("safetensors:", size, "bytes; run directory:", sorted(os.listdir("disturbed")))

# %%
samples = model.generate(jax.random.key(0), 24)
fig, axes = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
for ax, x, title in ((axes[0], images[:24], "data"), (axes[1], samples, "samples")):
    padding = ((0, 0), (1, 1), (1, 1))
    grid = np.pad(np.asarray(x)[..., 0], padding, constant_values=np.nan)
    grid = grid.reshape(3, 8, 10, 10).swapaxes(1, 2).reshape(30, 80)
    ax.imshow(grid, cmap="gray", vmin=-1, vmax=1)
    ax.set(title=title, xticks=[], yticks=[])
plt.show()

# %% [markdown]
# The machine that was stopped and killed has sixteen hidden units, and draws ragged digits. (A setting that would change the
# iterations of a run that exists is refused, naming the field, lest two runs end up in one directory.)
#
# ## Exercises
#
# 1. Compile the step for two and four devices, too, with batches of 64 and of 64 per device. Where is the work not
#    divided evenly, and what part of a step does not depend on the batch?
# 2. Let `num_microbatches` go from 1 to 64 at a batch of 2048. Where does memory stop falling, and why?
# 3. Flip a byte in a file below `disturbed/checkpoints/` and load the run. What does the warning say? Which step is read?
# 4. Resume a run of one device on eight (`start("disturbed", devices=8)` with more steps). Is the first metric after the
#    move the same? Why is nobody promised the same bits?
#
# ## References
#
# - J. Dean et al., *Large scale distributed deep networks*, NeurIPS 2012; P. Goyal et al., *Accurate, large minibatch SGD*, 2017.
# - Y. Xu et al., *GSPMD: general and scalable parallelization for ML computation graphs*, 2021: how XLA splits a program.
# - P. Patarasuk, X. Yuan, *Bandwidth optimal all-reduce algorithms for clusters of workstations*, 2009: the ring.
# - P. Micikevicius et al., *Mixed precision training*, ICLR 2018; D. Kalamkar et al., *A study of bfloat16 for deep learning
#   training*, 2019.
# - R. Kumar et al., *Maximum entropy generators for energy-based models*, 2019.
