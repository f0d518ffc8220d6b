"""What the scripts make of files that are damaged, foreign, in use or nothing of the kind.

What must be refused is refused in one line and leaves every file as it was; what does
no harm (a damaged newest checkpoint, chunk or log) ends in the bits of an undamaged run.
"""

import fcntl
import json
import random
import re
import shutil
import subprocess
import zipfile

import numpy as np
import pytest

from megjax.training import experiment
from tests.robustness.conftest import DRAW, LONG, RBM, TOY, cases

GARBAGE = bytes(range(256)) * 8
NESTED = b"[" * 100_000
HOW = ("deleted", "cut short", "emptied", "flipped", "replaced")
READ = ("sample.py", "--workdir={root}/run", *DRAW)
EVALUATE = ("evaluate.py", "--workdir={root}/run", "--only=weights")
AGAIN = ("train.py", *RBM, "--workdir={root}/run")
AGAIN_LONG = ("sample.py", "--workdir={root}/run", *LONG, "--out={root}/out")


def table(items, *quick):
    """A parameter per item of a dict, slow but for some; a tuple is several values."""
    return [
        pytest.param(
            *(found if isinstance(found, tuple) else (found,)),
            id=name,
            marks=() if name in quick else pytest.mark.slow,
        )
        for name, found in items.items()
    ]


def write(path, content=GARBAGE):
    """A file of these bytes, or a folder where they are None, in place of what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(path)
    path.mkdir() if content is None else path.write_bytes(content)


def remove(path):
    """Removes a file or folder, if there is one."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def lock(path):
    """A lock that another process holds while the result lives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def damage(path, how, place):
    """Damages a file; place: of a flipped bit, from 0 to 1."""
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[int(place * len(content))] ^= 1 << int(64 * place) % 8
    new = {
        "cut short": content[: len(content) // 2],
        "emptied": b"",
        "flipped": flipped,
    }
    path.write_bytes(new.get(how, GARBAGE))
    if how == "deleted":
        path.unlink()


def file(name, content=GARBAGE):
    """What writes a file of these bytes, or makes a folder, below a root."""
    return lambda root: write(root / name, content)


HEAD = r"from configs import digits\nfrom megjax.training import experiment\n"
HEAD += r"def get_config():\n config = digits.get_config()\n "
# The file is written on one line, with escapes; HEAD stands for the lines above.
CONFIG_FILES = r"""
* mine.py, line 1\) :: def (
mine.py, line 2 :: def get_config():\nreturn 3\n
null bytes :: \0\0\0\0
mine.py|decode :: x = '\xe9'\n
no function get_config :: config = 3\n
:: \n
nothing_of_this_name :: import nothing_of_this_name\n
nope :: def get_config():\n return nope\n
division by zero :: x = 1 / 0\n
AssertionError :: assert False\n
today :: def get_config():\n raise RuntimeError('today')\n
or needs none :: def get_config(a, b):\n return a\n
recursion :: def get_config():\n return get_config()\n
 :: get_config = 3\n
:: def get_config():\n return None\n
:: def get_config():\n return 3\n
:: def get_config():\n return [1]\n
:: def get_config():\n return {'width': 3}\n
:: def get_config():\n return 'width'\n
:: import ml_collections\ndef get_config():\n return ml_collections.ConfigDict()\n
* has no recipe :: HEADdel config.recipe\n return config\n
has no train :: HEADdel config.train\n return config\n
Recipe :: HEADdel config.recipe\n config.recipe = 'nope'\n return config\n
returns no Dataset :: HEADconfig.recipe = experiment.Recipe(lambda config: None, None)\n return config\n
nope :: HEADconfig.recipe = experiment.Recipe(lambda config: config.nope, None)\n return config\n
today :: HEADconfig.recipe = experiment.Recipe(fails, None)\n return config\ndef fails(config): raise RuntimeError('today')\n
no plain value :: HEADimport numpy\n config.width = 16\n config.table = numpy.ones(3)\n return config\n
"""


@pytest.mark.parametrize(("text", "says"), list(cases(CONFIG_FILES, words=False)))
def test_files_that_are_no_configs(text, says, scripts, home):
    root = home()
    text = text.replace("HEAD", HEAD).encode("latin-1").decode("unicode_escape")
    write(root / "mine.py", text.encode("latin-1"))
    line = ["train.py", "--config={root}/mine.py", "--workdir={root}/new"]
    assert scripts.refusal_fault(root, line, says) is None


def with_a_bad_sum(path):
    np.savez(path, x=np.ones((9, 2)))
    content = bytearray(path.read_bytes())
    content[-150] ^= 1
    content[150] ^= 1
    path.write_bytes(content)


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "no array")


HUGE = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': "
HUGE += b"(1000000000000, 1000), }" + b" " * 44 + b"\n"
PICKLED = "Object arrays cannot be loaded"
GIVE = "give numbers"
ARRAYS = {
    "objects": (np.array([{}, 1]), PICKLED),
    "text": (np.array(["a", "b"]), GIVE),
    "complex": (np.ones((4, 2), complex), GIVE),
    "a number": (np.float32(3), GIVE),
    "one axis": (np.ones(5), GIVE),
    "five axes": (np.ones((2, 2, 2, 2, 2)), GIVE),
    "no rows": (np.ones((0, 3)), GIVE),
    "no columns": (np.ones((3, 0)), GIVE),
    "nan": (np.full((9, 3), np.nan), "NaN or infinite"),
    "inf": (np.full((9, 3), np.inf), "NaN or infinite"),
    "dates": (np.zeros((9, 3), "M8[s]"), GIVE),
    "records": (np.zeros((9, 3), [("a", "f4")]), GIVE),
    "images of 5": (np.zeros((9, 32, 32, 5), np.uint8), "channels, at most 4"),
    "grey levels to 255": (np.full((9, 32, 32, 1), 255.0), "give uint8"),
    "not square": (np.zeros((9, 32, 16, 1), np.uint8), "make them square"),
    "odd side": (np.zeros((9, 27, 27, 1), np.uint8), "resize the images"),
    "one pixel": (np.zeros((9, 1, 1, 1), np.uint8), "resize the images"),
    "two": ({"a": np.ones(9), "b": np.ones(9)}, r"\['a', 'b'\]: keep one, or name one"),
    "none": ({}, "keep one"),
    "objects in npz": ({"x": np.array([{}, 1])}, PICKLED),
    "a bad sum": (lambda root: with_a_bad_sum(root / "x.npz"), "Bad CRC-32"),
    "no array in a zip": (lambda root: zipped(root / "x.npz"), "'x' is no array"),
    "an archive": (lambda root: zipped(root / "x.zip"), "an archive: unpack it"),
    "a table of words": (file("x.csv", b"a,b\n1,x\n"), "columns b are no numbers"),
    "half a table": (file("x.parquet", b"PAR1" + bytes(50)), "no readable .parquet"),
    "equal rows": (np.full((5, 3), 14.62), "has 5 rows, all equal"),
    "no readable image": (file("x/a/half.jpg", b"\xff\xd8\xff"), "half.jpg is not a"),
    "missing": (lambda root: None, "No training data at"),
    "an empty folder": (file("x.npy", None), "No images in"),
    "a text file": (file("x.txt"), "No training data at"),
    "no image": (file("x/broken.png"), "broken.png is not a readable image"),
} | {
    f"{content[:9]} in {name}": (file(name, content), "is not a plain .npy or .npz")
    for name in ("x.npy", "x.npz")
    for content in (
        *(GARBAGE, b"", b"\x93NUMPY", b"1,2,3\n4,5,6\n", HUGE),
        *(b"\x80\x04\x95\x05" + bytes(7) + b"K\x01.", b"PK\x03\x04" + bytes(50)),
    )
}


def custom(*flags):
    line = ["train.py", "--config=configs/custom.py", "--workdir={root}/new"]
    line += ["--config.width=8", "--config.batch_size=4", "--config.train.num_steps=2"]
    return [*line, *flags]


@pytest.mark.parametrize(("data", "says"), table(ARRAYS, "objects", "two", "missing"))
def test_data_of_ones_own_that_are_none(data, says, scripts, home):
    root = home()
    if callable(data):
        data(root)
    elif isinstance(data, dict):
        np.savez(root / "x.npz", **data)
    else:
        np.save(root / "x.npy", data)
    path = next(root.glob("x*"), root / "x.npy").name
    # Networks tell what images they cannot have when they are made.
    assert (
        scripts.refusal_fault(
            root, custom(f"--config.path={{root}}/{path}"), says, writes=True
        )
        is None
    )


@pytest.mark.slow
@pytest.mark.parametrize("field", ["image_size=0", "image_size=-3", "num_channels=2"])
def test_images_of_a_size_that_is_none(field, scripts, home):
    root = home()
    write(root / "x/a.png", (experiment.ROOT / "docs/demo.png").read_bytes())
    line = custom("--config.path={root}/x", f"--config.{field}")
    assert (
        scripts.refusal_fault(root, line, field.partition("=")[0], writes=True) is None
    )


MNIST = ("mnist", "stacked_mnist", "mnist_anomaly", "rbm_mnist", "dbm_mnist")
MNIST += ("hopfield_mnist", "deep_directed_mnist")
DATA = {name: (name, "No prepared dataset 'mnist'") for name in MNIST} | {
    "cifar10": ("cifar10", "No prepared dataset 'cifar10'"),
    "celeba": ("celeba", "No prepared dataset 'celeb_a'"),
    "flowers": ("flowers", "No prepared dataset 'oxford_flowers102'"),
    "kdd99": ("kdd99", "No kddcup.data_10_percent.gz in|is not a complete gzip"),
    "proposal_logistic": ("proposal_logistic", "No german.data-numeric"),
}


@pytest.mark.parametrize(("name", "says"), table(DATA, "mnist"))
def test_data_folders_that_hold_none(name, says, scripts, home):
    """None given; then missing, empty, a file, or something else of that name."""
    root = home()
    write(root / "empty", None)
    write(root / "file")
    write(root / "mnist/mnist/3.0.1/x")
    for path in (
        *("mnist/3.0.1/dataset_info.json", "cifar10/3.0.2/features.json", "mnist/a"),
        *("kddcup99/kddcup.data_10_percent.gz", "heart.csv"),
    ):
        write(root / "garbage" / path)
    line = ["train.py", f"--config=configs/{name}.py", "--workdir={root}/new"]
    assert scripts.refusal_fault(root, line, says) is None
    if name in ("mnist", "cifar10", "kdd99", "rbm_mnist", "proposal_logistic"):
        for folder in ("nope", "empty", "file"):
            given = f"--config.data_dir={{root}}/{folder}"
            assert scripts.refusal_fault(root, [*line, given], says) is None
        for folder in ("mnist", "garbage"):
            assert (
                scripts.refusal_fault(
                    root, [*line, f"--config.data_dir={{root}}/{folder}"]
                )
                is None
            )


def both(change):
    """A change of both steps of a run."""

    def changed(root):
        for step in (10, 20):
            change(root / f"run/checkpoints/{step}")

    return changed


def renamed(older, newer):
    """The change of the names of both steps."""

    def changed(root):
        for step, name in ((10, older), (20, newer)):
            (root / f"run/checkpoints/{step}").rename(root / f"run/checkpoints/{name}")

    return changed


def foreign(root):
    """Checkpoints of a machine with a leaf of another size in the digests."""
    for path in (root / "run/checkpoints").glob("*/digests/metadata"):
        path.write_text(path.read_text().replace("float32[4", "float32[5"))


def half(change):
    """A change of a run that has lost its newest checkpoint: a finished one is idle."""

    def changed(root):
        remove(root / "run/checkpoints/20")
        return change(root)

    return changed


def record(**change):
    """A change of keys in the record of a run."""

    def changed(root):
        path = root / "run/config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return changed


JSON = {
    "garbage": GARBAGE,
    "empty": b"",
    "a list": b"[1]",
    "null": b"null",
    "text": b'"text"',
    "a number": b"3",
    "half": b'{"config": {"step": 20,',
    "nested": NESTED,
    "utf-16": '{"config": "toy", "values": {}}'.encode("utf-16"),
}
RECORDS = {name: file("run/config.json", content) for name, content in JSON.items()} | {
    "no keys": file("run/config.json", b"{}"),
    "of before": file("run/config.json", b'{"config_file": "a.py", "values": {}}'),
    **{
        f"{key} is {value}": record(**{key: value})
        for key, values in {
            "version": (None, 0, 2, "1"),
            "config": (5, None, ["toy_8gaussians"]),
            "recipe": (5, "", "meg", "meg.", "meg.nope", "os.system", "../meg.images"),
            "shape": (5, None, "x", [], [-1], [3.5], [3]),
            "values": ([1], None, "width", {}, {"nope": 3}),
        }.items()
        for value in values
    },
}
RESUMED = {
    "no config.json": lambda root: remove(root / "run/config.json"),
    "config.json is a folder": file("run/config.json", None),
    "checkpoints is a file": file("run/checkpoints"),
    "both steps are empty": both(lambda path: write(path, None)),
    "both steps have no state": both(lambda path: remove(path / "state")),
    "states of another run": foreign,
}
TMP = "{}.orbax-checkpoint-tmp"
UNREADABLE = RESUMED | {
    "no checkpoints": lambda root: remove(root / "run/checkpoints"),
    "checkpoints is empty": file("run/checkpoints", None),
    "both steps are files": both(write),
    "both steps have no digests": both(lambda path: remove(path / "digests")),
    "both steps were under way": renamed(TMP.format(10), TMP.format(20)),
    "both steps have other names": renamed("ten", "-20"),
}
IN_THE_WAY = {
    "locked": half(lambda root: lock(root / "run/lock")),
    "lock is a folder": half(file("run/lock", None)),
    "metrics.jsonl is a folder": half(file("run/metrics.jsonl", None)),
    "tensorboard is a file": half(file("run/tensorboard")),
    "pictures is a file": half(file("run/pictures")),
}
STORE = "out/chunks/run.json"
STORES = {f"its record is {k}": file(STORE, content) for k, content in JSON.items()} | {
    "no settings": file(STORE, b'{"sha256": "a"}'),
    "its record is a folder": file(STORE, None),
    "chunks is a file": file("out/chunks"),
    "locked": lambda root: lock(root / "out/chunks/lock"),
    "lock is a folder": file("out/chunks/lock", None),
    "another checkpoint": lambda root: remove(root / "run/checkpoints/20"),
}
RESULTS = {
    f"results are {name}": file("run/evaluation/evaluation.json", content)
    for name, content in JSON.items()
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "line", "change", "more"),
    [
        pytest.param(run, line, change, more, id=f"{line[0]}-{name}")
        for run, line, changes, more in (
            ("toy", READ, RECORDS, {}),
            ("rbm", READ, UNREADABLE, {}),
            ("rbm", EVALUATE, UNREADABLE, {}),
            ("rbm", EVALUATE, RESULTS, {"says": "damaged"}),
            ("rbm", AGAIN, RESUMED, {}),
            ("rbm", AGAIN, IN_THE_WAY, {"writes": True}),
            ("traced", AGAIN_LONG, STORES, {}),
        )
        for name, change in changes.items()
    ],
)
def test_what_cannot_be_used_is_refused(run, line, change, more, scripts, home):
    root = home(run)
    # A lock is held as long as this lives.
    held = change(root)
    assert scripts.refusal_fault(root, line, **more) is None
    del held


FIELDS = """
width :: "x"  null  -1  0  []  {}  1.5  32  true  NaN
batch_size :: "x"  null  0  1e300
train :: 5  null  []  "x"  {"num_steps":"x"}  {"nope":3}
meg :: 5  {"latent_dim":3}  {"latent_dim":"x"}  {"bound":3}
train.seed :: "x"  null
train.keep :: "x"  0  null
dtype :: 3  "nope"
"""


@pytest.mark.parametrize(("text", "field"), list(cases(FIELDS, words=False)))
def test_a_field_in_the_record_of_a_run(text, field, scripts, home):
    root = home("toy")
    path = root / "run/config.json"
    found = json.loads(path.read_text())
    *groups, name = field.split(".")
    values = found["values"]
    for group in groups:
        values = values[group]
    values[name] = json.loads(text)
    path.write_text(json.dumps(found))
    assert scripts.refusal_fault(root, READ) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "flag",
    [
        *("--seed=1", "--num=3", "--steps=10400", "--thin=1", "--burn_in=1"),
        *("--step_size=0.2", "--inverse_temperature=2", "--space=latent"),
        *("--kernel=rwm", "--kernel=hmc", "--nokeep_draws", "--prior=none"),
    ],
)
def test_a_store_of_other_settings(flag, scripts, home):
    assert (
        scripts.refusal_fault(home("traced"), [*AGAIN_LONG, flag], "holds another")
        is None
    )


def same_state(root, intact):
    """Whether two runs end in one state."""
    texts = [(one / "run/checkpoints/20/digests/metadata") for one in (root, intact)]
    found, expected = (re.findall(r"[0-9a-f]{64}", one.read_text()) for one in texts)
    return found == expected


def same_samples(root, intact):
    """Whether two long chains end in the same samples."""
    found, expected = (one / "out/samples.npz" for one in (root, intact))
    return found.read_bytes() == expected.read_bytes()


def damaged(pattern, index, how):
    """The damage of one of the files that fit a pattern."""

    def changed(root):
        files = [path for path in sorted(root.glob(pattern)) if path.is_file()]
        damage(files[index % len(files)], how, random.Random(index).random())

    return changed


LOGS = {f"a log of {name}": content for name, content in JSON.items()} | {
    "an infinite step": b'{"step": 1e999}\n{"step": 10, "x": 1}\n',
    "a huge step": b'{"step": ' + b"9" * 5000 + b"}\n",
    "a step of text": b'{"step": "x"}\n',
    "a torn log": b'{"step": 10, "energy_gap": 1.0}\n{"step": 20, "ener',
}
LOGS = {name: half(file("run/metrics.jsonl", found)) for name, found in LOGS.items()}
NEWEST = {
    f"file {i} {how}": damaged("run/checkpoints/20/**/*", i, how)
    for how in ("deleted", "flipped", "replaced")
    for i in (2, 3, 5, 7)
}
CHUNKS = {
    f"chunk {i} {how}": damaged("out/chunks/*.npz", i, how)
    for how in HOW
    for i in range(4)
} | {
    f"{name} beside": file(f"out/chunks/{name}")
    for name in ("draft.npz", "999_start.npz", "000_nope_nope.npz", "notes.txt")
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "line", "change", "same"),
    [
        pytest.param(run, line, change, same, id=f"{line[0]}-{name}")
        for run, line, changes, same in (
            ("rbm", AGAIN, LOGS | NEWEST, same_state),
            ("traced", AGAIN_LONG, CHUNKS, same_samples),
        )
        for name, change in changes.items()
    ],
)
def test_what_does_no_harm(run, line, change, same, scripts, home, runs):
    root = home(run)
    change(root)
    scripts.succeed(*(one.replace("{root}", str(root)) for one in line))
    assert same(root, runs(run))


# Now and then a thread of TensorStore finds that Orbax has given up, and says so.
LATE = re.compile(r"Traceback.*\n(  .*\n)+RuntimeError: Event loop is closed\n")


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("how", HOW)
def test_damaged_files_of_a_checkpoint(how, alone, scripts, home, runs):
    """The newest: the older is read, or the same bits; the only one: these or a line."""

    def drawn(path):
        with np.load(path / "samples.npz") as found:
            return found["x"]

    rng, intact, root = random.Random(HOW.index(how)), runs("drawn"), home("drawn")
    expected = [drawn(intact / name) for name in ("newest", "older")[: 2 - alone]]
    if alone:
        remove(root / "run/checkpoints/10")
    for path in sorted((root / "run/checkpoints/20").rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            damage(path, how, rng.random())
            line = ("sample.py", f"--workdir={root}/run", *DRAW, f"--out={root}/found")
            found = scripts.run(*line)
            assert "Traceback" not in LATE.sub("", found.stderr), found
            assert alone or not found.status, found
            if not found.status:
                x = drawn(root / "found")
                assert any(np.array_equal(x, one) for one in expected), path
            path.write_bytes(content)


@pytest.fixture
def disk(home):
    """(run, size) -> a home with a small disk in it; skips where none can be mounted."""
    mounted = []

    def made(run, size):
        root = home(run)
        (root / "disk").mkdir()
        line = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", root / "disk"]
        if not shutil.which("mount") or subprocess.run(line, check=False).returncode:
            pytest.skip("needs the right to mount a disk")
        mounted.append(root / "disk")
        return root

    yield made
    for path in mounted:
        subprocess.run(["umount", path], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "line", "size"),
    [
        *(("", ("train.py", *TOY), size) for size in ("4k", "16k", "64k", "200k")),
        *(("toy", ("sample.py", "--num=4", "--steps=10"), s) for s in ("4k", "16k")),
        *(("toy", ("sample.py", *LONG), size) for size in ("4k", "16k")),
        *(("rbm", ("evaluate.py", "--only=weights,grid"), s) for s in ("4k", "16k")),
        ("toy", ("megjax/cli.py", "export"), "4k"),
    ],
)
def test_full_disks(run, line, size, scripts, disk):
    root = disk(run, size)
    more = ["--workdir={root}/run", "--out={root}/disk/out"]
    more = more if run else ["--workdir={root}/disk/run"]
    assert scripts.refusal_fault(root, [*line, *more], "writing", writes=True) is None
