"""What people and disks get wrong: cases for `tests.robustness.fuzz`.

A case is data: the flags of a script, what was done to the files before, and what must
come of it. In flags {root} is the directory of the case, a copy of one of `RUNS`.
"""

import contextlib
import fcntl
import json
import pathlib
import random
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from configs import rbm_digits, toy_8gaussians
from megjax.training import experiment

TOY = (
    "--config=configs/toy_8gaussians.py",
    "--config.width=16",
    "--config.batch_size=16",
    "--config.meg.num_energy_updates=1",
    "--config.train.num_steps=20",
    "--config.train.save_every=10",
    "--config.train.log_every=10",
    "--config.train.evaluate_every=20",
    "--config.train.iterations_per_call_cpu=10",
)
RBM = (
    "--config=configs/rbm_digits.py",
    "--config.num_hidden=4",
    "--config.contrast.num_sample_sweeps=2",
    "--config.evaluation.num_examples=20",
    "--config.train.num_steps=20",
    "--config.train.save_every=10",
    "--config.train.log_every=10",
    "--config.train.evaluate_every=20",
    "--config.train.iterations_per_call_cpu=10",
)
DRAW = ("--space=none", "--num=4")
# Shorter ones make room for others once they are done.
WALK = ("--num=2", "--steps=10500", "--keep_draws", "--step_size=0.1", "--space=data")
GARBAGE = bytes(range(256)) * 8


def nothing(root: pathlib.Path, stack: contextlib.ExitStack) -> None:
    """No damage."""
    del root, stack


def unchecked(home: pathlib.Path, intact: pathlib.Path) -> str | None:
    """Nothing is asked of the result."""
    del home, intact


def halved(root: pathlib.Path, stack: contextlib.ExitStack) -> None:
    """Puts a copy of the run without its newest checkpoint beside it."""
    del stack
    shutil.copytree(root / "run", root / "half")
    shutil.rmtree(root / "half/checkpoints/20")


RUNS = {
    "toy": ("", nothing, [("train.py", *TOY, "--workdir={root}/run")]),
    "rbm": ("", nothing, [("train.py", *RBM, "--workdir={root}/run")]),
    "drawn": (
        "rbm",
        halved,
        [
            ("sample.py", "--workdir={root}/run", *DRAW, "--out={root}/newest"),
            ("sample.py", "--workdir={root}/half", *DRAW, "--out={root}/older"),
        ],
    ),
    "walked": (
        "toy",
        nothing,
        [("sample.py", "--workdir={root}/run", *WALK, "--out={root}/out")],
    ),
}
"""name -> (the run it starts from, what is done to it, the scripts that go on)."""


class Case(NamedTuple):
    """Something wrong, and what must come of it.

    run: of `RUNS`, copied to {root}. damage: (root, stack) -> None, before the script
    starts; the stack is closed after it. refused: whether one line and a status other
    than 0 must come; None where either may. says: a regular expression in that line.
    writes: whether new files may be left where it is refused. check: (root, the copied
    run) -> what is wrong with the result of a script that succeeded.
    """

    kind: str
    name: str
    script: str
    arguments: Sequence[str]
    run: str = ""
    damage: Callable = nothing
    refused: bool | None = True
    says: str = ""
    writes: bool = False
    check: Callable = unchecked

    @property
    def title(self) -> str:
        """Kind and name."""
        return f"{self.kind}: {self.name}"


def cases(seed: int = 0) -> list[Case]:
    """All cases; seed: of the bits that are flipped."""
    parts = [
        *(training_flags(), config_arguments(), config_fields(), config_files()),
        *(own_data(), model_files(), missing_data(), process_flags(), sampling_flags()),
        *(evaluation_flags(), other_commands(), run_records(), run_directories()),
        *(checkpoint_files(seed), walk_files(seed), walk_settings(), full_disks()),
    ]
    return [case for part in parts for case in part]


def training_flags() -> Iterator[Case]:
    """Flags of train.py, misspelt, misplaced or out of place."""
    alone = [
        ["--config=configs/nope.py"],
        ["--config="],
        ["--config"],
        ["--config=configs"],
        ["--config=/proc/nowhere/a.py"],
        ["--config=README.md"],
        ["--config=docs/demo.png"],
        ["configs/toy_8gaussians.py"],
        ["--confg=configs/toy_8gaussians.py"],
    ]
    more = [
        *("extra", "-", "--", "--nope", "--nope=3", "--work_dir=run", "--num_steps=3"),
        *("--config.nope=3", "--config.meg.nope=3", "--config.Width=3"),
        *("--config.meg=5", "--config.meg.learning_rate.x=1", "--config.=1"),
        *("--config..width=1", "--config.build=3", "--config.train={}"),
        *("--config.meg.num-marginals=3", "--config:width=3", "--config.width"),
        *("--config.__class__=3", "--config.lock=3", "--config.items=3"),
        *("--config.width.real=3", "--config.width=16 16", "--config.width=(1,2)"),
        *("--config.width=None", "--config.width=1e2"),
        *("--config.dtype=float64", "--config.dtype=Float32", "--config.seed=1"),
        *("--config.meg.bound=jsd", "--config.batch_size=16,32", "--nocolor"),
    ]
    after_dashes = ("--", "-")
    yield Case("train flags", "none", "train.py", [], says="--config")
    for arguments in alone:
        name, says = " ".join(arguments), "nope.py" if "nope" in arguments[0] else ""
        yield Case("train flags", name, "train.py", arguments, says=says)
    for argument in more:
        given = [*TOY, "--workdir={root}/new", argument]
        if argument in after_dashes:
            given = [*given, "extra"]
        yield Case("train flags", argument, "train.py", given)
    for workdir in ("/proc/nowhere/run", "/dev/null", "/dev/null/run", "/sys/run"):
        given = [*TOY, f"--workdir={workdir}"]
        yield Case("train flags", f"--workdir={workdir}", "train.py", given)
    for name in ("run/config.json", "run/config.json/below", "run/metrics.jsonl"):
        given = [*TOY, f"--workdir={{root}}/{name}"]
        yield Case("train flags", f"--workdir={name}", "train.py", given, "toy")
    other = [*TOY, "--workdir={root}/run"]
    for change in ("width=8", "train.seed=1", "meg.bound=info_nce", "batch_size=8"):
        given = [*other, f"--config.{change}"]
        says = "another config"
        name = f"resumed with {change}"
        yield Case("train flags", name, "train.py", given, "toy", says=says)
    given = [*RBM, "--workdir={root}/run"]
    says = "another config"
    yield Case("train flags", "another's run", "train.py", given, "toy", says=says)


def config_arguments() -> Iterator[Case]:
    """An argument that the config does not know."""
    for path in sorted((experiment.ROOT / "configs").glob("*.py")):
        if path.stem != "base":
            given = [f"--config=configs/{path.name}:nope", "--workdir={root}/new"]
            yield Case("config arguments", path.stem, "train.py", given)


MAY_BE = {
    ("train.seed", "0"),
    ("train.seed", "-1"),
    ("train.max_returns", "0"),
    ("train.max_energy", "inf"),
    ("meg.refinement_steps", "0"),
    ("train.compiler_options_cpu.xla_cpu_experimental_ynn_fusion_type", ""),
}
"""(field, value) that are right, though the field's kind would not have it."""

WRONG = {
    bool: ("maybe", "", "2"),
    int: ("x", "1.5", "", "nan", "-1", "0"),
    float: ("x", "", "nan", "inf", "-1"),
    str: ("nope", ""),
}
HUGE = "1" + 30 * "0"
HUGE_FIELDS = (
    *("batch_size", "width", "train.num_steps", "train.seed", "meg.latent_dim"),
    *("meg.num_energy_updates", "meg.num_marginals", "meg.refinement_steps"),
    *("num_hidden", "contrast.num_chains", "contrast.num_sweeps"),
)


def config_fields() -> Iterator[Case]:
    """Every field of two configs with values that it cannot have."""
    # Else the size of its steps would not matter.
    toy = [*TOY, "--config.meg.refinement_steps=1"]
    for base, module in ((toy, toy_8gaussians), (RBM, rbm_digits)):
        config = experiment.plain_values(module.get_config())
        for field, value in sorted(_flat(config)):
            wrong = WRONG[type(value)] + (HUGE,) * (field in HUGE_FIELDS)
            if module is rbm_digits and field.startswith("train."):
                continue
            for text in wrong:
                if (field, text) not in MAY_BE:
                    given = [*base, f"--config.{field}={text}", "--workdir={root}/new"]
                    name = f"{module.__name__.split('.')[-1]}.{field}={text}"
                    yield Case("config fields", name, "train.py", given)


def _flat(values, prefix="") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


HEAD = "from configs import toy_8gaussians\ndef get_config():\n    config = "
CONFIG_FILES = {
    "garbage": GARBAGE,
    "empty": b"",
    "null bytes": bytes(100),
    "half a line": b"def (",
    "bad indent": b"def get_config():\nreturn 3\n",
    "latin-1": "x = '\xe9'\n".encode("latin-1"),
    "no get_config": b"config = 3\n",
    "get_config is no function": b"get_config = 3\n",
    "import of nothing": b"import nothing_of_this_name\n",
    "name error": b"def get_config():\n    return nope\n",
    "division": b"x = 1 / 0\n",
    "assertion": b"assert False\n",
    "raises": b"def get_config():\n    raise RuntimeError('no config today')\n",
    "none": b"def get_config():\n    return None\n",
    "a number": b"def get_config():\n    return 3\n",
    "a list": b"def get_config():\n    return [1]\n",
    "a dict": b"def get_config():\n    return {'width': 3}\n",
    "a string": b"def get_config():\n    return 'width'\n",
    "needs arguments": b"def get_config(a, b):\n    return a\n",
    "no fields": b"import ml_collections\ndef get_config():\n"
    b"    return ml_collections.ConfigDict()\n",
    "recursion": b"def get_config():\n    return get_config()\n",
    "no build": f"{HEAD}toy_8gaussians.get_config()\n    del config.build\n"
    "    return config\n".encode(),
    "no train": f"{HEAD}toy_8gaussians.get_config()\n    del config.train\n"
    "    return config\n".encode(),
    "build is text": f"{HEAD}toy_8gaussians.get_config()\n    del config.build\n"
    "    config.build = 'nope'\n    return config\n".encode(),
    "build gives nothing": f"{HEAD}toy_8gaussians.get_config()\n"
    "    config.build = lambda config: None\n    return config\n".encode(),
    "build raises": f"{HEAD}toy_8gaussians.get_config()\n"
    "    def build(config):\n        raise RuntimeError('no experiment today')\n"
    "    config.build = build\n    return config\n".encode(),
    "build needs a field": f"{HEAD}toy_8gaussians.get_config()\n"
    "    config.build = lambda config: config.nope\n    return config\n".encode(),
    "an array in it": f"{HEAD}toy_8gaussians.get_config()\n"
    "    import numpy\n    config.width = 16\n    config.table = numpy.ones(3)\n"
    "    return config\n".encode(),
}


def config_files() -> Iterator[Case]:
    """Files that are no configs."""
    for name, content in CONFIG_FILES.items():
        given = ["--config={root}/mine.py", "--workdir={root}/new"]
        damage = written("mine.py", content)
        yield Case("config files", name, "train.py", given, damage=damage)


def written(name: str, content: bytes) -> Callable:
    """The damage of a file that holds this."""

    def damage(root, stack):
        del stack
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    return damage


def own_data() -> Iterator[Case]:
    """Data of one's own that are none."""
    for name, save in ARRAYS.items():

        def damage(root, stack, save=save):
            del stack
            save(root / "x")

        suffix = "npz" if "npz" in name else "npy"
        yield from _custom(name, f"x.{suffix}", damage)
    for name, content in {
        "garbage": GARBAGE,
        "empty": b"",
        "a header alone": b"\x93NUMPY",
        "text": b"1,2,3\n4,5,6\n",
        "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x01.",
        "a huge header": b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order'"
        b": False, 'shape': (1000000000000, 1000), }" + b" " * 44 + b"\n",
        "half a zip": b"PK\x03\x04" + bytes(50),
    }.items():
        for suffix in ("npy", "npz"):
            damage = written(f"x.{suffix}", content)
            yield from _custom(f"{name}.{suffix}", f"x.{suffix}", damage)
    for name, path in {
        "missing": "nope.npy",
        "no folder": "nope",
        "an empty folder": "folder",
        "a text file": "a.txt",
        "a folder named npy": "x.npy",
    }.items():

        def damage(root, stack):
            del stack
            (root / "folder").mkdir()
            (root / "x.npy").mkdir()
            (root / "a.txt").write_text("1 2 3")

        yield from _custom(name, path, damage)
    for name in ("broken.png", "empty.jpg", "half.gif"):
        yield from _custom(name, "folder", written(f"folder/{name}", GARBAGE[:99]))
    for field in ("image_size=0", "image_size=-3", "num_channels=2", "width=0"):
        damage = written("x/a.png", (experiment.ROOT / "docs/demo.png").read_bytes())
        yield from _custom(f"a folder, {field}", "x", damage, f"--config.{field}")


ARRAYS = {
    "objects npy": lambda p: np.save(p, np.array([{}, 1]), allow_pickle=True),
    "text npy": lambda p: np.save(p, np.array(["a", "b"])),
    "complex npy": lambda p: np.save(p, np.ones((4, 2), complex)),
    "a number npy": lambda p: np.save(p, np.float32(3)),
    "one axis npy": lambda p: np.save(p, np.ones(5)),
    "five axes npy": lambda p: np.save(p, np.ones((2, 2, 2, 2, 2))),
    "no rows npy": lambda p: np.save(p, np.ones((0, 3))),
    "no columns npy": lambda p: np.save(p, np.ones((3, 0))),
    "nan npy": lambda p: np.save(p, np.full((9, 3), np.nan)),
    "inf npy": lambda p: np.save(p, np.full((9, 3), np.inf)),
    "dates npy": lambda p: np.save(p, np.zeros((9, 3), "M8[s]")),
    "records npy": lambda p: np.save(p, np.zeros((9, 3), [("a", "f4")])),
    "images of 5 npy": lambda p: np.save(p, np.zeros((9, 32, 32, 5), np.uint8)),
    "grey levels to 255 npy": lambda p: np.save(p, np.full((9, 32, 32, 1), 255.0)),
    "not square npy": lambda p: np.save(p, np.zeros((9, 32, 16, 1), np.uint8)),
    "odd side npy": lambda p: np.save(p, np.zeros((9, 27, 27, 1), np.uint8)),
    "one pixel npy": lambda p: np.save(p, np.zeros((9, 1, 1, 1), np.uint8)),
    "two arrays npz": lambda p: np.savez(p, a=np.ones((9, 2)), b=np.ones((9, 2))),
    "no array npz": lambda p: np.savez(p),
    "objects npz": lambda p: np.savez(p, x=np.array([{}, 1])),
    "a bad sum npz": lambda p: _with_a_bad_sum(p),
    "no arrays in it npz": lambda p: _zipped(p),
}
"""name -> what makes such a file."""


def _with_a_bad_sum(path):
    np.savez(path, x=np.ones((9, 2)))
    path = path.with_suffix(".npz")
    content = bytearray(path.read_bytes())
    content[-150] ^= 1
    content[150] ^= 1
    path.write_bytes(content)


def _zipped(path):
    with zipfile.ZipFile(path.with_suffix(".npz"), "w") as archive:
        archive.writestr("x", "no array")


def _custom(name, path, damage, *arguments) -> Iterator[Case]:
    given = [
        *("--config=configs/custom.py", f"--config.path={{root}}/{path}"),
        *("--workdir={root}/new", "--config.width=8", "--config.train.num_steps=2"),
        *("--config.batch_size=4", *arguments),
    ]
    # Networks tell what images they cannot have when they are made.
    yield Case("own data", name, "train.py", given, damage=damage, writes=True)


READERS = {
    "classifier": "from megjax.evaluation.classifier import load",
    "inception": "from megjax.evaluation.inception import load",
    "detector": "from megjax import EnergyDetector; load = EnergyDetector.load",
}


def model_files() -> Iterator[Case]:
    """Files of trained models that are none."""
    makers = {
        "missing": nothing,
        "a folder": lambda root, stack: (root / "x").mkdir(),
        "garbage": written("x", GARBAGE),
        "empty": written("x", b""),
        "a pickle": written("x", b"\x80\x04cos\nsystem\n(S'echo'\ntR."),
        "text": written("x", b"no model"),
        "half a zip": written("x", b"PK\x03\x04" + bytes(50)),
        "another zip": lambda root, stack: _zipped(root / "x"),
        "another table": lambda root, stack: _saved(root / "x", x=np.ones(3)),
        "a header of text": lambda root, stack: _saved(root / "x", header="nope"),
        "a header of objects": lambda root, stack: _saved(root / "x", header=[{}]),
        "a header alone": lambda root, stack: _saved(
            root / "x", header=json.dumps({"kind": "megjax"})
        ),
    }
    for reader, line in READERS.items():
        for name, make in makers.items():
            text = f"from megjax import app\n{line}\napp.run(lambda: "

            def damage(root, stack, make=make, text=text):
                make(root, stack)
                path = (root / "x.npz") if (root / "x.npz").exists() else root / "x"
                (root / "read.py").write_text(f"{text}load({str(path)!r}))\n")

            yield Case(
                "model files", f"{reader}, {name}", "{root}/read.py", [], damage=damage
            )


def _saved(path, **arrays):
    with path.open("wb") as file:
        np.savez(file, **{k: np.asarray(v) for k, v in arrays.items()})


WITH_DATA = (
    *("mnist", "cifar10", "celeba", "flowers", "stacked_mnist", "kdd99"),
    *("mnist_anomaly", "rbm_mnist", "dbm_mnist", "hopfield_mnist"),
    *("deep_directed_mnist", "proposal_logistic"),
)


def missing_data() -> Iterator[Case]:
    """Data folders that are missing, empty, files, or hold something else."""
    for name in WITH_DATA:
        given = [f"--config=configs/{name}.py", "--workdir={root}/new"]
        yield Case("data folders", f"{name}, not given", "train.py", given)
    for name in ("mnist", "cifar10", "kdd99", "rbm_mnist", "proposal_logistic"):
        for folder in ("nope", "empty", "file", "mnist", "garbage"):

            def damage(root, stack):
                del stack
                (root / "empty").mkdir()
                (root / "mnist/mnist/3.0.1").mkdir(parents=True)
                (root / "file").write_bytes(GARBAGE)
                for path in (
                    *("mnist/3.0.1/dataset_info.json", "cifar10/3.0.2/features.json"),
                    *("kddcup99/kddcup.data_10_percent.gz", "heart.csv", "mnist/a"),
                ):
                    (root / "garbage" / path).parent.mkdir(parents=True, exist_ok=True)
                    (root / "garbage" / path).write_bytes(GARBAGE)

            given = [
                *(f"--config=configs/{name}.py", "--workdir={root}/new"),
                f"--config.data_dir={{root}}/{folder}",
            ]
            yield Case(
                "data folders", f"{name}, {folder}", "train.py", given, damage=damage
            )


PROCESSES = (
    ["--coordinator=localhost"],
    ["--coordinator=localhost:1234"],
    ["--num_processes=2"],
    ["--process_id=0"],
    ["--coordinator=localhost", "--num_processes=1", "--process_id=0"],
    ["--coordinator=localhost:0", "--num_processes=1", "--process_id=0"],
    ["--coordinator=localhost:99999", "--num_processes=1", "--process_id=0"],
    ["--coordinator=localhost:port", "--num_processes=1", "--process_id=0"],
    ["--coordinator=:1234", "--num_processes=1", "--process_id=0"],
    ["--coordinator=", "--num_processes=1", "--process_id=0"],
    ["--coordinator=localhost:1234", "--num_processes=0", "--process_id=0"],
    ["--coordinator=localhost:1234", "--num_processes=-1", "--process_id=-2"],
    ["--coordinator=localhost:1234", "--num_processes=2", "--process_id=2"],
    ["--coordinator=localhost:1234", "--num_processes=2", "--process_id=-1"],
    ["--coordinator=localhost:1234", "--num_processes=2"],
    ["--num_processes=two"],
    ["--distributed"],
    ["--distributed=maybe"],
    ["--distributed", "--heartbeat_timeout=0"],
    ["--distributed", "--start_timeout=-1"],
    ["--heartbeat_timeout=x"],
)


def process_flags() -> Iterator[Case]:
    """Flags of several processes that do not fit each other."""
    for i, arguments in enumerate(PROCESSES):
        own = {
            "train.py": [*TOY, "--workdir={root}/new"],
            "sample.py": ["--workdir={root}/run"],
            "evaluate.py": ["--workdir={root}/run"],
        }
        script = list(own)[i % 3]
        given = [*own[script], *arguments]
        run = "" if script == "train.py" else "toy"
        yield Case("process flags", " ".join(arguments), script, given, run)


def sampling_flags() -> Iterator[Case]:
    """Flags of sample.py out of range, alone and together."""
    values = {
        "steps": ("0", "-1", "x", "1.5", "", "2147483648", HUGE),
        "burn_in": ("-1", "x", "", "2147483647", HUGE),
        "thin": ("0", "-1", "101", "x", HUGE),
        "num": ("0", "-1", "x", "", HUGE),
        "step_size": ("0", "-1", "nan", "inf", "x", ""),
        "inverse_temperature": ("-1", "nan", "inf", "x", "1e999"),
        "prior": ("nope", "", "Gaussian"),
        "space": ("nope", "", "z"),
        "kernel": ("nope", "", "MALA", "gibbs", "neural", "mala,hmc"),
        "seed": ("x", "", "1.5", HUGE),
        "keep_draws": ("maybe",),
        "out": (
            *("{root}/run/config.json", "{root}/run/config.json/below", "/dev/null"),
            *("/proc/nowhere/out", "/sys/out", "/dev/null/out"),
        ),
        "workdir": (
            *("{root}/nope", "{root}/run/config.json", "{root}/run/checkpoints"),
            *("{root}", "/proc/nowhere", "/dev/null", "/"),
        ),
        "proposal": ("{root}/nope", "{root}/run/config.json", "{root}/run"),
    }
    for flag, texts in values.items():
        for text in texts:
            more = ["--kernel=neural"] if flag == "proposal" else []
            more += ["--kernel=rwm"] if flag == "step_size" else []
            yield _sampled(f"--{flag}={text}", [*more, f"--{flag}={text}"])
    for words in (
        *("extra", "--nope=3", "--step=3", "--n=3", "--num-steps=3", "--config=a.py"),
        *("--steps=5 --thin=6", "--steps=5 --burn_in=-1 --thin=2", "--seed=-1 --num=0"),
        *("--steps=2147483000 --burn_in=1000", "--space=none --keep_draws"),
        *(
            "--space=none --num=0",
            "--space=none --step_size=-1",
            "--space=none --steps=0",
        ),
        *("--space=data --kernel=gibbs", "--kernel=gibbs --inverse_temperature=2"),
        *("--kernel=neural --space=data", "--proposal={root}/run --kernel=mala"),
        *("--kernel=hmc --step_size=nan",),
        *("--space=data --prior=nope", "--space=data --inverse_temperature=-0.1"),
        *("--keep_draws --out={root}/run/config.json", "--thin=2 --steps=1"),
    ):
        yield _sampled(words, words.split())
    for words in (
        *("--space=latent", "--space=data --kernel=gibbs --inverse_temperature=0.5"),
        *("--kernel=gibbs", "--num=0 --space=data"),
        *("--space=data --kernel=gibbs --step_size=0.1", "--kernel=hmc"),
        *("--kernel=gibbs --space=none", "--space=data --steps=-5"),
    ):
        yield _sampled(f"machine, {words}", words.split(), run="rbm")


def _sampled(name, arguments, run="toy") -> Case:
    given = ["--workdir={root}/run", *arguments]
    return Case("sample flags", name, "sample.py", given, run)


def evaluation_flags() -> Iterator[Case]:
    """Flags of evaluate.py that name nothing, or something else."""
    for words in (
        *("--only=nope", "--only=plane,nope", "--only=Plane", "--only=,", "--only=..")
        + ("--set=nope=3", "--set=width", "--set=width=", "--set==3", "--set="),
        *("--set=width=x", "--set=width=1.5", "--set=width=0", "--set=width=-1"),
        *("--set=meg=3", "--set=meg.nope=3", "--set=meg.bound=nope"),
        *("--set=build=3", "--set=width.x=3", "--set=train.seed='a'", "--set=.=1"),
        *("--set=width=None", "--set=width=[1]", "--set=width=(", "--set=width=2**4"),
        *("--set=width=32", "--set=meg.latent_dim=3", "--set=batch_size=0"),
        *("--set=width=__import__('os')", "--set=meg.score_weight=True"),
        *("--seed=x", "--seed=", f"--seed={HUGE}", "--nope=3", "extra", "--num=3"),
        *("--workdir={root}/nope", "--workdir={root}", "--workdir=/dev/null"),
        *("--workdir={root}/run/config.json", "--workdir=/proc/nowhere"),
        *("--out=/proc/nowhere/out", "--out=/dev/null", "--out=/sys/out"),
        *("--out={root}/run/config.json", "--out={root}/run/metrics.jsonl/x"),
    ):
        given = ["--workdir={root}/run", *words.split()]
        yield Case("evaluate flags", words, "evaluate.py", given, "toy")
    for name, content in {
        "garbage": GARBAGE,
        "empty": b"",
        "a list": b"[1]",
        "null": b"null",
        "half": b'{"plane": {"step": 20,',
        "nested": b"[" * 100_000,
    }.items():
        damage = written("run/evaluation/evaluation.json", content)
        given = ["--workdir={root}/run", "--only=weights"]
        name = f"evaluation.json is {name}"
        yield Case(
            "evaluate flags", name, "evaluate.py", given, "rbm", damage, says="damaged"
        )
    for field in ("num_examples=1", "num_examples=x", "num_chains=0", "num_steps=0"):
        given = ["--workdir={root}/run", f"--set=evaluation.{field}"]
        yield Case("evaluate flags", f"machine, {field}", "evaluate.py", given, "rbm")


def other_commands() -> Iterator[Case]:
    """Mistakes in the commands beside the three scripts."""
    commands = {
        "benchmarks/reproduce.py": (
            *(
                "",
                "table9",
                "table1 table2",
                "--budget=nope table1",
                "--seeds=0 table1",
            ),
            *("--seeds=x table1", "--rows=nope proposal_table1", "--nope table1"),
            *("--runs=/dev/null --rows=icg proposal_table1",),
        ),
        "megjax/evaluation/classifier.py": (
            *("", "--data=nope", "--data=mnist", "--data=mnist --data_dir={root}/nope"),
            *("--data=mnist extra", "--data=mnist --num_epochs=0", "--nope"),
            *("--data=mnist --width=0", "--data=mnist --width=x"),
            *("--data=mnist --image_size=-1", "--data=mnist --seed=x"),
            *("--data=", "--data=../etc", "--data=mnist --num_epochs=-3"),
        ),
        "megjax/data/prepare.py": (
            *("", "nope", "mnist kdd99", "mnist --nope", "--data_dir=/x"),
            *("mnist --raw_dir={root}/nope --data_dir={root}/a",),
            *("kdd99 --raw_dir={root}/nope --data_dir={root}/a",),
            *("kdd99 --raw_dir={root}/raw --data_dir={root}/a",),
            *("mnist --raw_dir={root}/raw --data_dir={root}/a",),
            *("cifar10 --raw_dir={root}/raw --data_dir={root}/a",),
            *("celeb_a --raw_dir={root}/raw/file --data_dir={root}/a",),
        ),
    }

    def damage(root, stack):
        del stack
        (root / "raw").mkdir()
        for name in (
            *("kddcup.data_10_percent.gz", "file", "cifar-10-binary.tar.gz"),
            *("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
            *("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
        ):
            (root / "raw" / name).write_bytes(GARBAGE)

    for script, lines in commands.items():
        for words in lines:
            name = f"{pathlib.Path(script).stem} {words}"
            yield Case("other commands", name, script, words.split(), damage=damage)


def run_records() -> Iterator[Case]:
    """config.json of a run with other types, other values or other text."""
    texts = {
        "garbage": GARBAGE,
        "empty": b"",
        "a list": b"[]",
        "null": b"null",
        "text": b'"text"',
        "a number": b"3",
        "half": b'{"config_file": "configs/toy',
        "nested": b"[" * 100_000,
        "utf-16": '{"config_file": "a.py", "values": {}}'.encode("utf-16"),
        "no keys": b"{}",
        "no values": b'{"config_file": "configs/toy_8gaussians.py"}',
    }
    for name, content in texts.items():
        yield from _recorded(name, written("run/config.json", content))
    changes = {
        "values is a list": {"values": [1]},
        "values is null": {"values": None},
        "values is text": {"values": "width"},
        "values is empty": {"values": {"nope": 3}},
        "config_file is a number": {"config_file": 5},
        "config_file is null": {"config_file": None},
        "config_file is empty": {"config_file": ""},
        "config_file is a list": {"config_file": ["configs/toy_8gaussians.py"]},
        "config_file is missing": {"config_file": "configs/nope.py"},
        "config_file is a folder": {"config_file": "configs"},
        "config_file is no config": {"config_file": "train.py"},
        "config_file is no Python": {"config_file": "README.md"},
        "config_file is a picture": {"config_file": "docs/demo.png"},
        "config_file is a device": {"config_file": "/dev/null"},
        "config_file is another": {"config_file": "configs/rbm_digits.py"},
        "argument": {"config_file": "configs/toy_8gaussians.py:nope"},
    }
    fields = {
        "width": ("x", None, -1, 0, [], {}, 1.5, 32, True, float("nan")),
        "batch_size": ("x", None, 0, 1e300),
        "train": (5, None, [], "x", {"num_steps": "x"}, {"nope": 3}),
        "meg": (5, {"latent_dim": 3}, {"latent_dim": "x"}, {"bound": 3}),
        "train.seed": ("x", None),
        "train.keep": ("x", 0, None),
        "dtype": (3, "nope"),
    }
    for name, change in changes.items():
        yield from _recorded(name, _changed(change))
    for field, values in fields.items():
        for value in values:
            yield from _recorded(f"{field} is {value}", _changed({}, field, value))


def _recorded(name, damage) -> Iterator[Case]:
    given = ["--workdir={root}/run", *DRAW]
    yield Case("run records", name, "sample.py", given, "toy", damage)


def _changed(change, field=None, value=None) -> Callable:
    def damage(root, stack):
        del stack
        path = root / "run/config.json"
        record = json.loads(path.read_text()) | change
        if field:
            *groups, name = field.split(".")
            values = record["values"]
            for group in groups:
                values = values[group]
            values[name] = value
        path.write_text(json.dumps(record))

    return damage


def removed(*names: str) -> Callable:
    """The damage of files or folders that are gone."""

    def damage(root, stack):
        del stack
        for name in names:
            path = root / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def replaced(name: str, content: bytes | None = GARBAGE) -> Callable:
    """The damage of a folder in place of which there is a file, or nothing in it."""

    def damage(root, stack):
        removed(name)(root, stack)
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)

    return damage


def locked(name: str) -> Callable:
    """The damage of a lock that another process holds."""

    def damage(root, stack):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context((root / name).open("w"))
        fcntl.flock(file, fcntl.LOCK_EX)

    return damage


def renamed(*pairs: tuple[str, str]) -> Callable:
    """The damage of files or folders that go by other names."""

    def damage(root, stack):
        del stack
        for old, new in pairs:
            (root / old).rename(root / new)

    return damage


def _incomplete() -> dict[str, Callable]:
    """What can be wrong with the checkpoints of a run."""
    states, older = "run/checkpoints", "run/checkpoints/10"
    return {
        "no config.json": removed("run/config.json"),
        "config.json is a folder": replaced("run/config.json", None),
        "no checkpoints": removed(states),
        "checkpoints is a file": replaced(states),
        "checkpoints is empty": replaced(states, None),
        "both steps are empty": _both(replaced, None),
        "both steps are files": _both(replaced),
        "both steps have no state": _both(lambda n: removed(f"{n}/state")),
        "both steps have no digests": _both(lambda n: removed(f"{n}/digests")),
        "both steps were under way": renamed(
            *((f"{states}/{n}", f"{states}/{n}.orbax-checkpoint-tmp") for n in (10, 20))
        ),
        "both steps have other names": renamed(
            (older, f"{states}/ten"), (f"{states}/20", f"{states}/-20")
        ),
        "states of another run": _foreign,
    }


def run_directories() -> Iterator[Case]:
    """Run directories with parts missing, foreign or in use."""
    damages = _incomplete()
    for name, damage in damages.items():
        for script, more in (("sample.py", DRAW), ("evaluate.py", ["--only=weights"])):
            given, title = ["--workdir={root}/run", *more], f"{name}, {script}"
            yield Case("run directories", title, script, given, "rbm", damage)
    again = [*RBM, "--workdir={root}/run"]
    for name, damage in {
        "locked": locked("run/lock"),
        "lock is a folder": replaced("run/lock", None),
        "metrics.jsonl is a folder": replaced("run/metrics.jsonl", None),
        "tensorboard is a file": replaced("run/tensorboard"),
        "pictures is a file": replaced("run/pictures"),
    }.items():
        # Of a run that trains on: a finished one writes nothing.
        yield Case(
            *("run directories", f"{name}, train", "train.py", again, "rbm"),
            _half_way(damage),
            writes=True,
        )
    for name in (
        *("config.json is a folder", "checkpoints is a file", "both steps are empty"),
        *("both steps have no state", "no config.json", "states of another run"),
    ):
        damage = damages[name]
        yield Case(
            "run directories", f"{name}, train", "train.py", again, "rbm", damage
        )
    for name, content in METRICS.items():
        yield Case(
            *("run directories", f"metrics.jsonl is {name}", "train.py", again, "rbm"),
            _half_way(written("run/metrics.jsonl", content)),
            refused=False,
            check=_trained_again,
        )


METRICS = {
    "garbage": GARBAGE,
    "empty": b"",
    "null": b"null\n",
    "numbers": b"1\n2\n",
    "nested": b"[" * 100_000 + b"\n",
    "infinite": b'{"step": 1e999}\n{"step": 10, "x": 1}\n',
    "huge numbers": b'{"step": ' + b"9" * 5000 + b"}\n",
    "text": b'{"step": "x"}\n',
    "torn": b'{"step": 10, "energy_gap": 1.0}\n{"step": 20, "ener',
}


def _half_way(damage) -> Callable:
    """The damage of a run that has lost its newest checkpoint, and more."""

    def both(root, stack):
        removed("run/checkpoints/20")(root, stack)
        damage(root, stack)

    return both


def _both(make, *more) -> Callable:
    def damage(root, stack):
        for step in (10, 20):
            make(f"run/checkpoints/{step}", *more)(root, stack)

    return damage


def _foreign(root, stack):
    """Checkpoints of a machine with a leaf of another size in the digests."""
    del stack
    for path in (root / "run/checkpoints").glob("*/digests/metadata"):
        path.write_text(path.read_text().replace("float32[4", "float32[5"))


def _trained_again(home, intact) -> str | None:
    """What the newest checkpoint lacks of the one that was there."""

    def digests(root):
        text = (root / "run/checkpoints/20/digests/metadata").read_text()
        return re.findall(r"[0-9a-f]{64}", text)

    return None if digests(home) == digests(intact) else "trained to another state"


def checkpoint_files(seed: int) -> Iterator[Case]:
    """Every file of the newest checkpoint damaged, then of the only one."""
    rng = random.Random(seed)
    for i in range(13):
        for how in ("deleted", "cut short", "emptied", "flipped", "replaced"):
            kept = how in ("deleted", "flipped")
            for alone in (False, True) if kept else (False,):
                damage = _damaged("run/checkpoints/20", i, how, rng.random())
                if alone:
                    damage = _alone(damage)
                words = "the only" if alone else "the newest"
                yield Case(
                    *("checkpoint files", f"file {i} of {words} {how}", "sample.py"),
                    ["--workdir={root}/run", *DRAW, "--out={root}/found"],
                    "drawn",
                    damage,
                    refused=None if alone else False,
                    check=_drawn_alike,
                )
    for name in ("deleted", "flipped", "replaced"):
        for i in (2, 3, 5, 7):
            yield Case(
                *("checkpoint files", f"file {i} {name}, trained on", "train.py"),
                [*RBM, "--workdir={root}/run"],
                "rbm",
                _damaged("run/checkpoints/20", i, name, rng.random()),
                refused=False,
                check=_trained_again,
            )


def _alone(damage) -> Callable:
    def both(root, stack):
        removed("run/checkpoints/10")(root, stack)
        damage(root, stack)

    return both


def _damaged(folder, index, how, place, pattern="*") -> Callable:
    """The damage of one file in a folder; place: in it, from 0 to 1."""

    def damage(root, stack):
        del stack
        files = [p for p in sorted((root / folder).rglob(pattern)) if p.is_file()]
        path = files[index % len(files)]
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 1 << int(64 * place) % 8
        half = path.read_bytes()[: len(content) // 2]
        new = {"cut short": half, "emptied": b"", "replaced": GARBAGE}
        path.write_bytes(new.get(how, content))
        if how == "deleted":
            path.unlink()

    return damage


def _drawn_alike(home, intact) -> str | None:
    """What tells the samples from those of both checkpoints while they were intact."""

    def drawn(path):
        with np.load(path / "samples.npz") as file:
            return file["x"]

    found = drawn(home / "found")
    whole = [drawn(intact / name) for name in ("newest", "older")]
    if not any(np.array_equal(found, one) for one in whole):
        return "drew samples of neither checkpoint"
    return None


def walk_files(seed: int) -> Iterator[Case]:
    """Every file of a long walk damaged: it is walked again, or refused."""
    rng = random.Random(seed)
    again = ["--workdir={root}/run", *WALK, "--out={root}/out"]
    for i in range(4):
        for how in ("deleted", "cut short", "emptied", "flipped", "replaced"):
            yield Case(
                *("walk files", f"chunk {i} {how}", "sample.py", again, "walked"),
                _damaged("out/chunks", i, how, rng.random(), "*.npz"),
                refused=False,
                check=_walked_alike,
            )
    for name, content in {
        "garbage": GARBAGE,
        "empty": b"",
        "a list": b"[]",
        "null": b"null",
        "nested": b"[" * 100_000,
        "no settings": b'{"sha256": "a"}',
    }.items():
        damage = written("out/chunks/walk.json", content)
        name = f"walk.json is {name}"
        yield Case("walk files", name, "sample.py", again, "walked", damage)
    for name, damage in {
        "chunks is a file": replaced("out/chunks"),
        "locked": locked("out/chunks/lock"),
        "walk.json is a folder": replaced("out/chunks/walk.json", None),
        "lock is a folder": replaced("out/chunks/lock", None),
    }.items():
        yield Case("walk files", name, "sample.py", again, "walked", damage)
    for name in ("draft.npz", "999_start.npz", "000_nope_nope.npz", "notes.txt"):
        damage = written(f"out/chunks/{name}", GARBAGE)
        yield Case(
            *("walk files", f"{name} beside", "sample.py", again, "walked", damage),
            refused=False,
            check=_walked_alike,
        )


def _walked_alike(home, intact) -> str | None:
    same = [(root / "out/samples.npz").read_bytes() for root in (home, intact)]
    return None if same[0] == same[1] else "walked to other samples"


def walk_settings() -> Iterator[Case]:
    """A walk that is there, of other settings."""
    for words in (
        *("--seed=1", "--num=3", "--steps=10400", "--thin=1", "--burn_in=1"),
        *("--step_size=0.2", "--inverse_temperature=2", "--space=latent"),
        *("--kernel=rwm", "--kernel=hmc", "--nokeep_draws", "--prior=none"),
    ):
        given = ["--workdir={root}/run", *WALK, "--out={root}/out", words]
        says = "holds another walk"
        yield Case("walk settings", words, "sample.py", given, "walked", says=says)
    given = ["--workdir={root}/run", *WALK, "--out={root}/out"]
    damage = removed("run/checkpoints/20")
    name = "another checkpoint"
    yield Case("walk settings", name, "sample.py", given, "walked", damage)


def full_disks() -> Iterator[Case]:
    """A disk without room, where a process may mount one."""
    if not _can_mount():
        return
    for size in ("4k", "16k", "64k", "200k"):
        given = [*TOY, "--workdir={root}/disk/run"]
        damage = _small_disk(size)
        yield Case(
            *("full disks", f"train, {size}", "train.py", given, "", damage),
            writes=True,
            says="writing",
        )
    for script, more in (
        ("sample.py", ["--num=4", "--steps=10"]),
        ("sample.py", [*WALK]),
        ("evaluate.py", ["--only=weights,grid"]),
    ):
        for size in ("4k", "16k"):
            run = "rbm" if script == "evaluate.py" else "toy"
            given = ["--workdir={root}/run", *more, "--out={root}/disk/out"]
            yield Case(
                *("full disks", f"{script} {more[0]}, {size}", script, given, run),
                _small_disk(size),
                writes=True,
                says="writing",
            )


def _small_disk(size) -> Callable:
    def damage(root, stack):
        disk = root / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        subprocess.run(mount, check=True)
        stack.callback(subprocess.run, ["umount", str(disk)], check=True)

    return damage


def _can_mount() -> bool:
    """Whether this process may mount a disk; tried once."""
    if not shutil.which("mount"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", folder]
        done = subprocess.run(mount, check=False, capture_output=True)
        if done.returncode:
            return False
        subprocess.run(["umount", folder], check=True)
    return True
