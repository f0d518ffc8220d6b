"""What the scripts answer to flags: one line each, and every file as it was.

A line of a table is "what is said :: command line  command line ...".
"""

import re

import pytest

from megjax.training import experiment
from tests.robustness import scripts as forks
from tests.robustness.conftest import HUGE, RBM, TOY, cases

ALONE = """
* no field far_moves: it is called :: '--config=proposal_icg --config.proposal.far_moves=1'
* Flag --config must have a value :: ''  configs/toy_8gaussians.py
* No such file.*'configs/nope.py' :: --config=configs/nope.py
* no config file.*: give :: --config=nope  --config=  --config=configs
No such file :: --config=/proc/nowhere/a.py
Missing value for flag :: --config
README.md, line :: --config=README.md
null bytes :: --config=docs/demo.png
* Unknown command line flag 'confg' :: --confg=configs/toy_8gaussians.py
* data set 'x': choose one of mnist :: --config=configs/mnist.py:x
* digit '10': choose one of 0 :: --config=configs/mnist_anomaly.py:10
* '5' stacked .* choose 3 or 4 :: --config=configs/stacked_mnist.py:5
* config.path is empty: give --config.p :: --config=configs/custom.py
* No training data at '/nowhere' :: '--config=configs/custom.py --config.path=/nowhere'
"""

TRAIN = """
* unexpected argument 'extra': flags are --name :: extra  '-- extra'
unexpected argument '-' :: -
* Unknown command line flag :: --nope=3  --nope  --work_dir=run  --num_steps=3  --nocolor
:: --config:width=3
* the config has no field nope :: --config.nope=3  --config.meg.nope=3
the config has no field :: --config.meg.learning_rate.x=1  --config.Width=3
:: --config.__class__=3  --config.lock=3  --config.items=3  --config.width.real=3
:: --config.seed=1
overwrite the value :: --config.meg=5  --config.train={}
Could not parse :: --config.=1  --config..width=1
config.recipe cannot be given as a flag :: --config.recipe=3
no FIELD that can be :: --config.meg.num-marginals=3
Missing value for flag :: --config.width
* config.width=wide: invalid literal :: --config.width=wide
config.width=.*: invalid literal :: '--config.width="16 16"'  --config.width=(1,2)
:: --config.width=None  --config.width=1e2
config.batch_size=16,32: invalid :: --config.batch_size=16,32
* config.dtype='half': choose one of float32 :: --config.dtype=half
dtype='.loat..': choose one of :: --config.dtype=float64  --config.dtype=Float32
* config.meg.bound='jsd': choose one of :: --config.meg.bound=jsd
/proc/nowhere/run cannot be made :: --workdir=/proc/nowhere/run
/dev/null.* is no directory: name another :: --workdir=/dev/null  --workdir=/dev/null/run
Operation not permitted :: --workdir=/sys/run
"""

TRAIN_AGAIN = """
* another config .width: the run has 16, given 8 :: --config.width=8
another config .train.seed: the run has 0 :: --config.train.seed=1
another config .meg.bound :: --config.meg.bound=info_nce
another config .batch_size :: --config.batch_size=8
config.json is no directory: name another :: --workdir={root}/run/config.json
config.json/below is no directory :: --workdir={root}/run/config.json/below
metrics.jsonl is no directory :: --workdir={root}/run/metrics.jsonl
"""

PROCESSES = """
* give --coordinator, --num_processes and --process_id together :: --num_processes=2
:: --coordinator=localhost  --coordinator=localhost:1234  --process_id=0
:: '--coordinator=localhost:1234 --num_processes=2'
give HOST:PORT of process 0 :: '--coordinator=localhost --num_processes=1 --process_id=0'
:: '--coordinator=localhost:0 --num_processes=1 --process_id=0'
:: '--coordinator=localhost:99999 --num_processes=1 --process_id=0'
:: '--coordinator=localhost:port --num_processes=1 --process_id=0'
:: '--coordinator=:1234 --num_processes=1 --process_id=0'
:: '--coordinator= --num_processes=1 --process_id=0'
are numbered 0 to :: '--coordinator=localhost:1234 --num_processes=0 --process_id=0'
:: '--coordinator=localhost:1234 --num_processes=-1 --process_id=-2'
:: '--coordinator=localhost:1234 --num_processes=2 --process_id=2'
:: '--coordinator=localhost:1234 --num_processes=2 --process_id=-1'
flag --num_processes=two: invalid literal :: --num_processes=two
no cluster found :: --distributed
flag --distributed=maybe :: --distributed=maybe
give at least 1 s :: '--distributed --heartbeat_timeout=0'
:: '--distributed --start_timeout=-1'
flag --heartbeat_timeout=x: invalid literal :: --heartbeat_timeout=x
"""

SAMPLE = """
give at least 1 chain and 0 steps :: --steps=-1  --num=0  --num=-1
0 steps have neither :: '--thin=2 --steps=0'  '--burn_in=2 --steps=0'
flag --steps=.*: invalid :: --steps=x  --steps=1.5  --steps=
want fewer than 2.31 :: --steps=2147483648  --steps=HUGE  --burn_in=2147483647
:: --burn_in=HUGE  --num=HUGE  '--steps=2147483000 --burn_in=1000'
burn_in=-1: must be 0 or positive :: --burn_in=-1  '--steps=5 --burn_in=-1 --thin=2'
flag --(burn_in|thin|num|seed)=.*: invalid :: --burn_in=x  --burn_in=  --thin=x  --num=x
:: --num=  --seed=x  --seed=  --seed=1.5
* thin=101: must be between 1 and steps=100 :: --thin=101
thin=.*: must be between 1 and :: --thin=0  --thin=-1  --thin=HUGE  '--steps=5 --thin=6'
:: '--thin=2 --steps=1'
step_size :: '--kernel=rwm --step_size=0'  '--kernel=rwm --step_size=-1'
:: '--kernel=rwm --step_size=nan'  '--kernel=rwm --step_size=inf'
:: '--kernel=rwm --step_size=x'  --step_size=  '--kernel=hmc --step_size=nan'
inverse_temperature :: --inverse_temperature=-1  --inverse_temperature=nan
:: --inverse_temperature=inf  --inverse_temperature=x  --inverse_temperature=1e999
:: '--space=data --inverse_temperature=-0.1'  '--kernel=gibbs --inverse_temperature=2'
* flag --prior=nope: value should be one of :: --prior=nope
value should be one of :: --prior=  --prior=Gaussian  --space=nope  --space=  --space=z
:: --kernel=nope  --kernel=  --kernel=MALA  --kernel=mala,hmc  '--space=data --prior=x'
seed=.* is not an integer in the range :: --seed=HUGE  '--seed=-1 --num=0'
flag --keep_draws=maybe :: --keep_draws=maybe
is no directory :: --out={root}/run/config.json  --out={root}/run/config.json/below
:: --out=/dev/null  --out=/dev/null/out  '--keep_draws --out={root}/run/config.json'
 :: --out=/proc/nowhere/out  --out=/sys/out
* nope :: --workdir={root}/nope
 :: --workdir={root}/run/config.json  --workdir={root}/run/checkpoints  --workdir={root}
:: --workdir=/proc/nowhere  --workdir=/dev/null  --workdir=/
 :: '--kernel=neural --proposal={root}/nope'  '--kernel=neural --proposal={root}/run'
:: '--kernel=neural --proposal={root}/run/config.json'  '--kernel=neural --space=data'
give --kernel=neural with it :: '--proposal={root}/run --kernel=mala'
kernel='tempering' :: '--kernel=tempering --prior=none'  '--kernel=tempering --space=data'
is of --kernel=tempering: leave it out :: --num_replicas=3  '--num_replicas=8 --kernel=hmc'
flag --num_replicas :: '--kernel=tempering --num_replicas=1'  --num_replicas=x
unexpected argument 'extra' :: extra
Unknown command line flag :: --nope=3  --step=3  --n=3  --num-steps=3
 :: '--space=none --keep_draws'  '--space=none --num=0'  '--space=none --step_size=-1'
:: '--space=data --kernel=gibbs'  --kernel=gibbs
"""

SAMPLE_MACHINE = """
 :: --space=latent  '--space=data --kernel=gibbs --inverse_temperature=0.5'
:: --kernel=gibbs  '--num=0 --space=data'  '--space=data --kernel=gibbs --step_size=0.1'
:: --kernel=hmc  '--kernel=gibbs --space=none'  '--space=data --steps=-5'
"""

EVALUATE = """
* nope :: --only=nope
 :: --only=plane,nope  --only=Plane  --only=,  --only=..
give FIELD=VALUE :: --set=width  --set=nope=3  --set==3  --set=  --set=meg=3
:: --set=meg.nope=3  --set=width.x=3  --set=.=1
is of type :: --set=recipe=3  --set=width=x  --set=width=  --set=width=1.5  --set=width=None
:: --set=width=[1]  --set=width=(  --set=width=2**4  "--set=width=__import__('os')"
 :: --set=width=0  --set=width=-1  --set=width=32  --set=meg.latent_dim=3
:: --set=meg.bound=nope  "--set=train.seed='a'"  --set=batch_size=0
:: --set=meg.score_weight=True
seed= :: --seed=x  --seed=  --seed=HUGE
Unknown command line flag :: --nope=3  --num=3
unexpected argument 'extra' :: extra
 :: --workdir={root}/nope  --workdir={root}  --workdir=/dev/null
:: --workdir={root}/run/config.json  --workdir=/proc/nowhere  --out=/proc/nowhere/out
:: --out=/dev/null  --out=/sys/out  --out={root}/run/config.json
:: --out={root}/run/metrics.jsonl/x
"""

EVALUATE_MACHINE = """
num_examples :: --set=evaluation.num_examples=1  --set=evaluation.num_examples=x
num_chains :: --set=evaluation.num_chains=0
num_steps :: --set=evaluation.num_steps=0
"""

OTHER = """
the first argument is one of images, table1 :: benchmarks/reproduce.py
:: 'benchmarks/reproduce.py table9'
 :: 'benchmarks/reproduce.py table1 table2'  'benchmarks/reproduce.py --nope table1'
:: 'benchmarks/reproduce.py --budget=nope table1'
:: 'benchmarks/reproduce.py --seeds=0 table1'  'benchmarks/reproduce.py --seeds=x table1'
:: 'benchmarks/reproduce.py --rows=nope proposal_table1'
:: 'benchmarks/reproduce.py --runs=/dev/null --rows=icg proposal_table1'
 :: CLASSIFIER  'CLASSIFIER --data=nope'  'CLASSIFIER --data=mnist'
:: 'CLASSIFIER --data=mnist --data_dir={root}/nope'  'CLASSIFIER --data=mnist extra'
:: 'CLASSIFIER --data=mnist --num_epochs=0'  'CLASSIFIER --nope'  'CLASSIFIER --data='
:: 'CLASSIFIER --data=mnist --width=0'  'CLASSIFIER --data=mnist --width=x'
:: 'CLASSIFIER --data=mnist --image_size=-1'  'CLASSIFIER --data=mnist --seed=x'
:: 'CLASSIFIER --data=../etc'  'CLASSIFIER --data=mnist --num_epochs=-3'
 :: PREPARE  'PREPARE nope'  'PREPARE mnist kdd99'  'PREPARE mnist --nope'
:: 'PREPARE --data_dir=/x'  'PREPARE mnist --raw_dir={root}/nope --data_dir={root}/a'
:: 'PREPARE kdd99 --raw_dir={root}/nope --data_dir={root}/a'
:: 'PREPARE kdd99 --raw_dir={root}/raw --data_dir={root}/a'
:: 'PREPARE mnist --raw_dir={root}/raw --data_dir={root}/a'
:: 'PREPARE cifar10 --raw_dir={root}/raw --data_dir={root}/a'
:: 'PREPARE celeb_a --raw_dir={root}/raw/file --data_dir={root}/a'
""".replace("CLASSIFIER", "megjax/evaluation/classifier.py").replace(
    "PREPARE", "megjax/data/prepare.py"
)


@pytest.mark.parametrize(("arguments", "says"), list(cases(ALONE)))
def test_train_alone(arguments, says, scripts, home):
    assert scripts.refusal_fault(home(), ["train.py", *arguments], says) is None


@pytest.mark.parametrize(("arguments", "says"), list(cases(TRAIN)))
def test_train(arguments, says, scripts, home):
    line = ["train.py", *TOY, "--workdir={root}/new", *arguments]
    assert scripts.refusal_fault(home(), line, says) is None


@pytest.mark.slow
def test_out_of_memory(scripts, home):
    line = ["train.py", *TOY, "--workdir={root}/new", "--config.width=400000"]
    says = "out of memory .*: lower config.batch"
    assert scripts.refusal_fault(home(), line, says, writes=True) is None


@pytest.mark.slow
def test_in_the_directory_of_another_method(scripts, home):
    line = ["train.py", *RBM, "--workdir={root}/run"]
    assert scripts.refusal_fault(home("toy"), line, "another config") is None


@pytest.mark.parametrize(("arguments", "says"), list(cases(TRAIN_AGAIN)))
def test_train_in_a_directory_of_another_run(arguments, says, scripts, home):
    line = ["train.py", *TOY, "--workdir={root}/run", *arguments]
    assert scripts.refusal_fault(home("toy"), line, says) is None


@pytest.mark.parametrize(("arguments", "says"), list(cases(PROCESSES)))
def test_processes(arguments, says, scripts, home):
    lines = [["train.py", *TOY, "--workdir={root}/new"]]
    lines += [[f"{name}.py", "--workdir={root}/run"] for name in ("sample", "evaluate")]
    which = len("".join(arguments)) % 3
    root = home("toy" if which else "")
    assert scripts.refusal_fault(root, lines[which] + arguments, says) is None


@pytest.mark.parametrize(
    ("script", "run", "arguments", "says"),
    [
        pytest.param(script, run, *one.values, id=f"{script}-{one.id}", marks=one.marks)
        for script, run, text in (
            ("sample.py", "toy", SAMPLE),
            ("sample.py", "rbm", SAMPLE_MACHINE),
            ("evaluate.py", "toy", EVALUATE),
            ("evaluate.py", "rbm", EVALUATE_MACHINE),
        )
        for one in cases(text)
    ],
)
def test_a_trained_run(script, run, arguments, says, scripts, home):
    line = [script, "--workdir={root}/run", *arguments]
    assert scripts.refusal_fault(home(run), line, says) is None


@pytest.mark.parametrize(("arguments", "says"), list(cases(OTHER)))
def test_other_commands(arguments, says, scripts, home):
    root = home()
    (root / "raw").mkdir()
    for name in (
        *("kddcup.data_10_percent.gz", "file", "cifar-10-binary.tar.gz"),
        *("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        *("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
    ):
        (root / "raw" / name).write_bytes(bytes(range(256)) * 8)
    assert scripts.refusal_fault(root, arguments, says) is None


CONFIGS = sorted((experiment.ROOT / "configs").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in CONFIGS])
def test_an_argument_that_the_config_does_not_know(name, scripts, home):
    line = ["train.py", f"--config=configs/{name}.py:nope", "--workdir={root}/new"]
    assert scripts.refusal_fault(home(), line, "nope|no such argument") is None


WRONG = {
    bool: ("maybe", "", "2"),
    int: ("x", "1.5", "", "nan", "-1", "0"),
    float: ("x", "", "nan", "inf", "-1"),
    str: ("nope", ""),
}
RIGHT = {
    *(("train.seed", "0"), ("train.seed", "-1"), ("train.max_returns", "0")),
    *(("train.max_energy", "inf"), ("meg.refinement_steps", "0")),
    *(("finish.num_steps", "0"), ("finish.density.num_validation", "0")),
    *(("finish.network.num_features", "0"), ("meg.warmup_steps", "0")),
    ("train.compiler_options_cpu.xla_cpu_experimental_ynn_fusion_type", ""),
}
"""(field, value) that are right, though the field's kind would not have it."""
HUGE_FIELDS = (
    *("batch_size", "width", "train.num_steps", "train.seed", "meg.latent_dim"),
    *("meg.num_energy_updates", "meg.num_marginals", "meg.refinement_steps"),
    *("num_hidden", "contrast.num_chains", "contrast.num_sweeps"),
)


def fields(config, prefix=""):
    for name, value in config.items():
        if isinstance(value, dict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, type(value)


def wrong_fields(name, left_out=()):
    for field, kind in sorted(fields(experiment.plain_values(experiment.load(name)))):
        if kind in WRONG and not field.startswith(left_out):
            yield pytest.param(field, WRONG[kind], id=field, marks=pytest.mark.slow)


# Else the size of its steps would not matter.
REFINED = (*TOY, "--config.meg.refinement_steps=1")


@pytest.mark.parametrize(
    ("base", "field", "values"),
    [
        pytest.param(base, *one.values, id=f"{name}-{one.id}", marks=one.marks)
        for name, base, found in (
            ("toy", REFINED, wrong_fields("toy_8gaussians")),
            ("rbm", RBM, wrong_fields("rbm_digits", ("train.", "data_dir"))),
        )
        for one in found
    ],
)
def test_a_field_of_a_config(base, field, values, scripts, home):
    """Every field of two configs with values that it cannot have."""
    root = home()
    for value in (*values, *(HUGE,) * (field in HUGE_FIELDS)):
        if (field, value) not in RIGHT:
            line = ["train.py", *base, f"--config.{field}={value}"]
            says = field.removeprefix("train.").split(".xla")[0]
            assert (
                scripts.refusal_fault(
                    root, [*line, "--workdir={root}/new"], re.escape(says)
                )
                is None
            )


TRACEBACK = "Traceback (most recent call last):\n  ...\nKeyError: 3\n"


@pytest.mark.parametrize(
    ("answer", "more", "wrong"),
    [
        ((1, "", "error: no such file\n"), {}, None),
        ((1, "", "12:00:00 step 1/2\nerror: no\n"), {}, None),
        ((1, "", "error: no\n"), {"says": "yes"}, "did not say"),
        ((0, "", ""), {}, "was accepted"),
        ((1, "", TRACEBACK), {}, "traceback"),
        ((-6, "", "error: no\n"), {}, "traceback, status -6"),
        ((1, "", "warning: no\nerror: no\n"), {}, "more, or less, than one line"),
        ((1, "half a table\n", "error: no\n"), {}, "more, or less, than one line"),
        ((1, "half a table\n", "error: no\n"), {"writes": True}, None),
        ((1, "", ""), {}, "more, or less, than one line"),
        ((1, "", "error: 'NoneType' object\n"), {}, "a person's words"),
    ],
)
def test_answers_are_judged(answer, more, wrong):
    found = forks.fault(forks.Answer(*answer), **more)
    assert found is None if wrong is None else wrong in found


def test_a_refusal_must_leave_every_file_as_it_was(scripts, tmp_path, monkeypatch):
    (tmp_path / "a").write_text("1")
    refusal = forks.Answer(1, "", "error: no\n")

    def answers(action):
        monkeypatch.setattr(scripts, "run", lambda *line: action() and refusal)

    answers(lambda: True)
    assert scripts.refusal_fault(tmp_path, ["a script"]) is None
    answers(lambda: (tmp_path / "b").write_text("2"))
    assert scripts.refusal_fault(tmp_path, ["a script"], writes=True) is None
    (tmp_path / "b").unlink()
    for action in (lambda: (tmp_path / "b").write_text("2"), lambda: wreck(tmp_path)):
        answers(action)
        assert scripts.refusal_fault(tmp_path, ["a script"]).startswith("changed")


def wreck(folder):
    return (folder / "a").write_text("3")
