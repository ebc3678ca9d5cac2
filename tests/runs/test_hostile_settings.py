"""Settings from anywhere: whatever a YAML file or a command line contains is read, or refused in one sentence."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import string
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minippo.config import Config
from minippo.runs import command_frame, load_config, parse_options
from minippo.runs.presets import CHECKSUM, dump_config, field_names, load_stored_config
from minippo.runs.validation import check

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
NAMES = list(field_names(Config()))


@pytest.fixture
def refusal(tmp_path):
    """The sentence with which a YAML file is refused."""

    def of(content: str | bytes) -> str:
        path = tmp_path / "own.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(ValueError, match=r"own\.yaml") as error:
            load_config(str(path))
        said = str(error.value)
        assert len(said) < 600
        assert "\n" not in said
        assert not CONTROL.search(said)
        return said

    return of


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (BOMB + "seed: *i\n", "line 1: unknown field a"),
        (BOMB.replace("a: &a", "seed: &a", 1), "line 1: seed must be of type int, not a list"),
        ("&a ppo: *a\n", "line 1: ppo must contain fields, not 'ppo'"),
        ("ppo: &a {lr: *a}\n", "line 1: ppo.lr must be of type float, not fields"),
        ("&a {ppo: *a}\n", "line 1: unknown field ppo.ppo"),
        ("seed: *nothing\n", "line 1, column 7: not valid YAML, found undefined alias 'nothing'"),
        ("[" * 5_000, "is nested too deeply"),
        ("{a: " * 20_000, "is nested too deeply"),
        ("- " * 40_000, "is nested too deeply"),
        ("seed: 1" + "0" * 400, "line 1: seed must be a decimal number of at most 30 digits, not '1000"),
        ("seed: " + "9" * 9000, "line 1: seed must be a decimal number of at most 30 digits, not '9999"),
        ("ppo:\n  lr: " + "9" * 400, "line 2: ppo.lr must be a decimal number of at most 30 digits"),
        ("seed: 010\n", "line 1: seed must be a decimal number of at most 30 digits, not '010'"),
        ("seed: 0x10\n", "line 1: seed must be a decimal number of at most 30 digits, not '0x10'"),
        ("seed: 1:30\n", "line 1: seed must be a decimal number of at most 30 digits, not '1:30'"),
        ("ppo: {lr: 1:30.5}\n", "line 1: ppo.lr must be a decimal number of at most 30 digits, not '1:30.5'"),
        ("data: {folder: 2020-01-01}\n", "not '2020-01-01', which YAML reads as 'timestamp'"),
        ("data: {folder: =}\n", "not '=', which YAML reads as 'value'"),
        ("seed: !!python/object/apply:os.system ['true']\n", "line 1: seed must be of type int, not a list"),
        ("seed: !!python/name:os.system\n", "not '', which YAML reads as 'python/name:os.system'"),
        ("seed: !own 3\n", "line 1: seed must be of type int, not '3', which YAML reads as '!own'"),
        ("seed: !!int fast\n", "line 1: seed must be a decimal number"),
        ("seed: !!float fast\n", "line 1: seed must be of type int, not fast"),
        ("seed: !!bool maybe\n", "line 1: seed must be of type int, not maybe"),
        ("seed: !!binary AAAA\n", "which YAML reads as 'binary'"),
        ("seed: !<tag:yaml.org,2002:set> {a}\n", "line 1: seed must be of type int, not fields"),
        ("seed:\n", "line 1: seed must be of type int, not null"),
        ("seed: 1\nppo: {}\nseed: 2\n", "line 3: seed is set a second time"),
        ("ppo: {lr: 1.0, lr: 1.0}\n", "line 1: ppo.lr is set a second time"),
        ("ppo:\n\tlr: 1\n", "line 2, column 1: not valid YAML, found character '\\t'"),
        ("ppo: {<<: {lr: 1.0}}\n", "line 1: unknown field 'ppo.<<'"),
        ("? [a, b]\n: 1\n", "line 1: unknown field"),
        ("? {a: b}\n: 1\n", "line 1: unknown field"),
        ("1: 2\n", "line 1: unknown field 1"),
        ("null: 2\n", "line 1: unknown field null"),
        (f"{'x' * 90_000}: 1\n", "line 1, column 90001: not valid YAML, mapping values are not allowed here"),
        (f"'{'x' * 900}': 1\n", "unknown field 'xxx"),
        ('"\\e[31mred": 1\n', "unknown field '\\x1b[31mred'"),
        ('data: {source: "\\e]0;title\\a"}\n', "not '\\x1b]0;title\\x07'"),
        (f"data: {{source: '{'long ' * 9000}'}}\n", "data.source must be one of reviews, imdb, files, not 'long"),
        ("ppo: 'some text'\n", "ppo must contain fields, not 'some text'"),
        ("just a text\n", "the file must contain fields, not 'just a text'"),
        ("0\n", "the file must contain fields, not 0"),
        ("false\n", "the file must contain fields, not false"),
        ("seed: 1\n---\nseed: 2\n", "not valid YAML, "),
        ("seed: 'open\n", "not valid YAML, found unexpected end of stream"),
        ("%YAML 2.0\n---\nseed: 1\n", "not valid YAML, found incompatible YAML document"),
        ('seed: "\\UFFFFFFFF"\n', "not valid YAML: an escape sequence is not a character"),
        ('seed: "\\U00110000"\n', "not valid YAML: an escape sequence is not a character"),
        ("data: {folder: \x1b[31m}\n", "line 1: not valid YAML, special characters are not allowed: '\\x1b'"),
        ("seed: 1\nppo: \x00\n", "line 2: not valid YAML, special characters are not allowed: '\\x00'"),
        ("seed: 1\ndata: {folder: caf\xe9}\n".encode("latin-1"), "line 2: the file is not UTF-8 text"),
        ("seed: 1\n".encode("utf-16"), "line 1: the file is not UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "line 1: the file is not UTF-8 text"),
        ("# " + "x" * 200_000 + "\nseed: 1\n", "has 200,011 bytes, too many for a configuration (at most 100,000)"),
    ],
    ids=lambda value: None if len(value) > 40 else repr(value),
)
def test_a_file_that_is_no_configuration_is_refused_with_its_place(refusal, content, part):
    assert part in refusal(content)


@pytest.mark.parametrize(
    ("content", "name", "value"),
    [
        ("\ufeffseed: 3\n", "seed", 3),
        ("seed: 3\r\nppo:\r\n  lr: 1e-3\r\n", "seed", 3),
        ("seed: 1_000\n", "seed", 1000),
        ("'seed': 3\n", "seed", 3),
        ("---\nseed: 3\n...\n", "seed", 3),
        ("sft:\n  policy: &same {lr: 0.5}\n  reward: *same\n", "sft.reward.lr", 0.5),
        ("data: {folder: 'caf\u00e9 \u65e5\u672c'}\n", "data.folder", "caf\u00e9 \u65e5\u672c"),
        ("data: {folder: '010'}\n", "data.folder", "010"),
        (
            "ppo: {normalize: 1}\n".replace("normalize", "whiten_rewards").replace("1", "yes"),
            "ppo.whiten_rewards",
            True,
        ),
        ("ppo: {score_clip: ~}\n", "ppo.score_clip", None),
    ],
)
def test_every_notation_of_a_value_is_read(tmp_path, content, name, value):
    (tmp_path / "own.yaml").write_bytes(content.encode())
    assert value_of(load_config(str(tmp_path / "own.yaml")), name) == value


def value_of(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
def test_a_text_that_can_name_no_file_and_not_be_stored_is_refused(tmp_path, value, capsys):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"data": {"folder": value}}))
    with pytest.raises(ValueError, match=r"data\.folder has unreadable characters, NUL or not UTF-8"):
        check(load_config(str(tmp_path / "own.yaml")))
    if value != "a\0b":
        with pytest.raises(SystemExit):
            parse_options("", ["--data.folder", value])
        assert "data.folder has unreadable characters, NUL or not UTF-8: '\\ud800'" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- stored settings


def test_stored_settings_that_are_truncated_or_altered_are_refused(tmp_path):
    text, path = dump_config(Config(seed=12)), tmp_path / "config.yaml"
    path.write_text(text)
    assert load_stored_config(path) == Config(seed=12)
    damaged = [text[:size] for size in [*range(0, len(text), 25), *range(len(text) - 12, len(text))]]
    for position in range(0, len(text), 7):  # one bit of one byte
        damaged.append(text[:position] + chr(ord(text[position]) ^ 1) + text[position + 1 :])
    for other in damaged:
        path.write_text(other)
        with pytest.raises(ValueError, match=r"config\.yaml (is damaged or has been edited|is not valid YAML)"):
            load_stored_config(path)


def test_stored_settings_of_a_version_with_fewer_fields_are_loaded(tmp_path):
    lines = [line for line in dump_config(Config()).splitlines(keepends=True)[:-1] if "score_clip" not in line]
    text = "".join(lines)
    (tmp_path / "config.yaml").write_text(f"{text}{CHECKSUM}{hashlib.sha256(text.encode()).hexdigest()}\n")
    assert load_stored_config(tmp_path / "config.yaml") == Config()


# ---------------------------------------------------------------------------------------------- random input

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.text(max_size=12)
    | st.dates()
    | st.binary(max_size=6)
)
keys = (
    st.sampled_from([*(part for name in NAMES for part in name.split(".")), "ppo", "model", "data", "policy"]) | scalars
)
trees = st.recursive(
    scalars, lambda below: st.lists(below, max_size=4) | st.dictionaries(keys, below, max_size=5), max_leaves=12
)
LINES = [f"{name.rpartition('.')[2]}: 1" for name in NAMES]
PIECES = [*LINES, "ppo:", "model:\n  policy:", "&a", "*a", "<<: *a", "!!int", "!x", "? ", "- ", "[", "]", "{", "}", "'",
          '"', "|", ">", "%", "@", "`", "\t", "\r", "\x1b", "\x00", "\x85", "\u2028", "0o17", "1:30:00", "2020-01-01",
          ".inf", ".nan", "~", "---", "...", "#", ": ", ", ", "\\x00", "\u202e", "9" * 400]  # fmt: skip


def settings_files(random_tree: Any, pieces: list[str]) -> Iterator[str]:
    with contextlib.suppress(yaml.YAMLError, ValueError):
        yield yaml.safe_dump(random_tree, allow_unicode=True)
        yield yaml.safe_dump({"ppo": random_tree, "seed": random_tree})
    yield "\n".join(pieces)
    yield "".join(pieces)


FAST_AND_THOROUGH = [60, pytest.param(1000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("examples", FAST_AND_THOROUGH)
def test_random_yaml_is_read_or_refused_with_one_sentence(tmp_path, examples):
    path, outcomes = tmp_path / "random.yaml", {"read": 0, "refused": 0}

    @settings(deadline=2000, max_examples=examples, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(trees, st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=12))
    def read(tree, pieces):
        for text in settings_files(tree, pieces):
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
            try:
                check(load_config(str(path)))
                outcomes["read"] += 1
            except ValueError as error:
                outcomes["refused"] += 1
                check_sentence(str(error))

    read()
    assert outcomes["read"] > examples / 50
    assert outcomes["refused"] > examples


def check_sentence(said: str) -> None:
    assert len(said) < 1500
    assert said.count("\n") == 0, said
    assert not CONTROL.search(said), said


def random_options(draw: random.Random) -> list[str]:
    """Valid settings, one of which is replaced by something else in half of the cases."""
    names = draw.sample(NAMES, draw.randrange(1, 4))
    words = [word for name in names for word in (f"--{name.replace('_', '-')}", str(value_of(Config(), name)))]
    text = "".join(draw.choice(string.printable + "\x1b\x85\u202e\udcff\u65e5") for _ in range(draw.randrange(9)))
    number = draw.choice(["1", "0", "-1", "1e400", "1e39", "-1e-300", "nan", "inf", "9" * draw.choice([5, 40, 6000])])
    other = draw.choice([text, number, number, f"--{text}", "--", "-", "None", "off", "x" * 5000, "a b " * 5000])
    if draw.random() < 0.5:
        words[draw.randrange(len(words))] = other
    return words


@pytest.mark.parametrize("examples", FAST_AND_THOROUGH)
def test_random_options_are_read_or_refused_with_one_sentence(capsys, examples):
    draw, refused = random.Random(examples), 0
    for _ in range(examples):
        arguments = random_options(draw)
        try:
            with command_frame():
                check(parse_options("A stage.", arguments).settings)
        except SystemExit as end:
            status = end.code
            out, err = capsys.readouterr()
            if status == 0:
                assert out.startswith("usage: "), arguments
                continue
            refused += 1
            assert (status, err[:7], err[-1]) == (2, "error: ", "\n"), (arguments, err)
            check_sentence(err[:-1])
    assert 0.2 * examples < refused < 0.8 * examples
