"""The entry point: `python -m minippo COMMAND`."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from minippo.__main__ import COMMANDS, main

WRITTEN = [name for name, (module, _) in COMMANDS.items() if find_spec(module)]


@pytest.fixture
def entered(monkeypatch, capsys):
    """Run the entry point; returns its exit status and what it prints."""

    def run(*arguments: str, program: str = "/somewhere/bin/minippo") -> tuple[int | str | None, str, str]:
        monkeypatch.setattr("sys.argv", [program, *arguments])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command_with_one_line(entered, arguments):
    status, out, err = entered(*arguments)
    assert (status, err) == (0, "")
    assert out.startswith("usage: minippo COMMAND")
    lines = out.splitlines()
    for name, (_, text) in COMMANDS.items():
        assert sum(line.split() == [name, *text.split()] for line in lines) == 1
    assert max(map(len, lines)) <= 80


def test_help_does_not_wait_for_pytorch():
    source = (
        "import sys; from minippo.__main__ import main; sys.argv[1:] = ['-h']; main(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("name", WRITTEN)
def test_help_of_a_command_names_it(entered, name):
    status, out, err = entered(name, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: minippo {name} [options]")
    assert f"minippo.{name}" not in out


def test_unknown_command_is_refused_with_the_nearest(entered):
    assert entered("genrate", "--run", "x") == (
        2,
        "",
        "error: unknown command 'genrate'; did you mean generate? (minippo --help lists all)\n",
    )
    assert entered("xyz")[2] == "error: unknown command 'xyz' (minippo --help lists all)\n"


def test_errors_of_a_command_are_its_own(entered, tmp_path):
    status, out, err = entered("generate", "--run", str(tmp_path))
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {tmp_path} is no")


def test_module_is_run_with_python_m():
    done = subprocess.run([sys.executable, "-m", "minippo", "stf"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: unknown command 'stf'; did you mean sft? (python -m minippo --help lists all)\n"


@pytest.mark.parametrize("arguments", [["-m", "minippo.ppo"], ["-mminippo.sft", "--config", "smoke"]])
def test_modules_that_are_not_commands_say_so(arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    name = arguments[0].removeprefix("-m") or arguments[1]
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {name} is not a command (python -m minippo --help lists the commands)\n"


@pytest.mark.parametrize("arguments", [["-m", "minippo", "--help"], ["-m", "minippo.reviews", "--help"]])
def test_modules_that_are_commands_run(arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0
    assert "usage" in done.stdout.lower()
