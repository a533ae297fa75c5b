"""What a person at a terminal meets: help, messages, and the status of the process."""

import itertools
import pathlib
import shlex
import types

import pytest

from pdae_jax import build
from pdae_jax.cli.command import Call, execute
from pdae_jax.cli.configs import FOLDER
from pdae_jax.cli.main import COMMANDS, main
from pdae_jax.cli.sweeps import report, tune
from pdae_jax.cli.sweeps.points import command_of, settings_in
from pdae_jax.data.own_data import own_data


def command(do, **more):
    """A command that does something, and takes no flags."""
    module = types.ModuleType("command", "A test.")
    vars(module).update(define=lambda values: None, main=do, **more)
    return module


def raises(error):
    def do(asked, call):
        raise error

    return command(do)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_commands_are_listed(arguments, capsys):
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)


def test_a_command_that_is_not_there_is_named(capsys):
    assert main(["trian"]) == 2
    assert "'trian' is no command" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_well(name, capsys):
    assert main([name, "--help"]) == 0
    assert "--workdir" in capsys.readouterr().out


@pytest.mark.parametrize("config", [[], ["--config=simulated"], [f"--config={FOLDER / 'bodenmiller.py'}"]])
def test_help_lists_every_field_of_the_config_with_its_meaning(config, capsys):
    assert main(["run", *config, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [(line.strip().split("=")[0], after) for line, after in itertools.pairwise(lines)]
    fields = {name.removeprefix("--config."): after for name, after in shown if name.startswith("--config.")}
    assert {"seed", "data.name", "split.test", "evaluation.num_samples", "fit.num_steps"} <= set(fields)
    for name, after in fields.items():
        assert name.startswith("fit.") or after.startswith("      "), f"{name} has no meaning"


def test_help_of_a_file_of_ones_own_says_what_its_reader_says(capsys):
    main(["run", "--help"])
    printed = capsys.readouterr().out
    assert "conditions with fewer cells are dropped" in printed
    assert all(f"--config.data.{name}=" in printed for name in ("path", "condition", "control", "dose", "normalize"))
    assert own_data.__doc__ and build.SPLIT


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("No 'a' in obs."), "No 'a' in obs.\n"),
        (ValueError("The file x is damaged."), "The file x is damaged.\n"),
        (PermissionError(13, "The workdir 'x' cannot be written to."), "The workdir 'x' cannot be written to.\n"),
        (FileNotFoundError(2, "No such file or directory", "a.csv"), "No such file or directory: 'a.csv'\n"),
    ],
)
def test_what_input_causes_is_a_message_and_no_traceback(error, message, capsys):
    assert execute(raises(error), Call(("pdae-jax", "x"), ())) == 1
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    with pytest.raises(type(error)):
        execute(raises(error), Call(("pdae-jax", "x"), ("--debug",)))


def test_a_fault_of_ours_keeps_its_traceback(capsys):
    assert execute(raises(ZeroDivisionError("x")), Call(("pdae-jax", "x"), ())) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "Please report it" in said


def test_ctrl_c_is_one_line_with_the_status_that_shells_have(capsys):
    assert execute(raises(KeyboardInterrupt("Saved at step 20 in runs/a.")), Call(("pdae-jax", "x"), ())) == 130
    assert capsys.readouterr().err == "Saved at step 20 in runs/a.\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "--wrkdir=a"], 2, "Did you mean: workdir"),
        (["run", "--config.data.pth=a"], 2, "has no such field: 'pth'\nDid you mean \"path\""),
        (["run", "my.h5ad"], 2, "--config.data.path=my.h5ad"),
        (["run"], 1, "Pass config.data.path="),
        (["run", "--config=simulatd"], 1, "No config file 'simulatd'. Pass the path of one, or a name of ours: simula"),
        (["run", "--config=simulated:plain"], 1, "Unknown argument 'plain'"),
        (["run", "--config.data.path=nowhere.h5ad"], 1, "No file 'nowhere.h5ad'"),
        (["evaluate"], 2, "Flag --workdir must have a value"),
        (["evaluate", "--workdir=nowhere"], 1, "No run in 'nowhere'"),
        (["predict", "--workdir=nowhere", "--label=a", "--out=a.h5ad"], 1, "nowhere"),
        (["check"], 2, "Pass --workdir of a run, or --config"),
    ],
)
def test_what_is_misspelt_is_said(arguments, status, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == status
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_arguments_that_a_message_names_are_given_as_flags(capsys, tmp_path):
    table = tmp_path / "wells.csv"
    table.write_text("condition,well,x\ncontrol,a1,0.5\ncontrol,a2,1.5\n")
    assert main(["run", f"--config.data.path={table}", "--dry_run"]) == 1
    said = capsys.readouterr().err
    assert (
        "exclude=['well']" in said and "(On the command line: --config.data.exclude=, --config.data.features=;" in said
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_the_kind\n", "line 1, ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("x = 1\ny = (\n", "line 2, SyntaxError"),
        ("def config():\n    pass\n", "has no get_config()"),
        ("def get_config():\n    return undefined\n", "line 2, NameError: name 'undefined' is not defined"),
        ("def get_config():\n    pass\n", "returns nothing"),
        ("\0\1", "cannot be imported"),
    ],
)
def test_a_config_that_cannot_be_read_is_named(text, message, capsys, tmp_path):
    file = tmp_path / "my_config.py"
    file.write_text(text)
    for name in ("run", "sweep", "check"):
        assert main([name, f"--config={file}", f"--workdir={tmp_path / 'run'}"][: 2 if name == "check" else 3]) == 1
        said = capsys.readouterr().err
        assert str(file) in said and message in said and "Traceback" not in said
    assert list(tmp_path.glob("*.py")) == [file]


def test_points_are_recorded_with_the_door_that_the_sweep_came_by():
    assert Call(("pdae-jax", "sweep"), ()).door_of("run") == ["pdae-jax", "run"]
    beside = str(pathlib.Path("experiments", "run.py"))
    assert Call(("python", "experiments/sweep.py"), ()).door_of("run") == ["python", beside]


def parsed(arguments):
    """The config as a command gets it."""
    found = []
    module = command(lambda asked, call: found.append(asked.config), CONFIG="simulated")
    assert execute(module, Call(("pdae-jax", "run"), tuple(arguments))) == 0
    return found[0]


def test_none_leaves_a_field_open():
    fields = ("latent_dim", "learning_rate", "nonnegative", "standardize", "patience")
    recipe = build.recipe(parsed(f"--config.fit.{name}=None" for name in fields).fit)
    assert [getattr(recipe, name) for name in fields] == [None] * len(fields)
    assert parsed(["--config.data.mixing=None"]).data.mixing == "None"  # a text, which nothing has made open


def test_the_command_of_a_point_repeats_it():
    """None is as good a value as others: left out, the command repeated the fit of the config."""
    settings = {"fit.latent_dim": None, "fit.hidden": (8, 8), "split.test": ("101", "p0+p2"), "fit.contrast": 0.5}
    line = command_of(["pdae-jax", "run"], "simulated", settings, pathlib.Path("x"))
    config = parsed(word for word in shlex.split(line)[2:] if not word.startswith("--workdir"))
    assert settings_in(config.to_dict(), settings) == settings


@pytest.mark.parametrize(
    ("name", "check"), [("sweep.csv", report.check_own), ("sweep.md", report.check_own), ("ray/a", tune.check_own)]
)
def test_files_of_the_user_in_the_folder_of_a_sweep_stay(name, check, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=r"was not written by a sweep.*Move it"):
        check(tmp_path)
