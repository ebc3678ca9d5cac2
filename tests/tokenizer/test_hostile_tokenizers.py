"""Tokenizer files from strangers, and damaged ones, do no harm: one sentence names what is wrong."""

import base64
import json
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minippo.storage import MAX_TEXT
from minippo.tokenizer import load_tokenizer, train_bpe
from minippo.tokenizer.tokenizer import MAX_IDS
from tests.hostile import HOW, in_place, refusal, with_junk

END_OF_TEXT = "<|endoftext|>"
TEXTS = ["The film was long and the film was dull. " * 3]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A tokenizer in every form: in tiktoken's, alone and with a JSON file, and in the two public ones."""
    root, tokenizer = tmp_path_factory.mktemp("stored"), train_bpe(TEXTS, 280)
    for form in ("plain", "with json", "one file", "two files"):
        (root / form).mkdir()
    for form in ("plain", "with json"):
        tokenizer.save(root / form / "a.tiktoken")
    rest = {"name": "a", "pattern": r"\s+|\S+", "special_tokens": {END_OF_TEXT: 280, "<|pad|>": 290}}
    (root / "with json/a.tiktoken.json").write_text(json.dumps(rest | {"ids": [*range(279)], "pad": "<|pad|>"}))
    files = tokenizer.public_files()
    for name, text in files.items():
        (root / "one file" / name).write_text(text)
    model = json.loads(files["tokenizer.json"])["model"]
    (root / "two files/vocab.json").write_text(json.dumps(model["vocab"]))
    (root / "two files/merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": END_OF_TEXT}
    (root / "two files/tokenizer_config.json").write_text(json.dumps(settings))
    return root


def path_of(folder):
    return folder / "a.tiktoken" if (folder / "a.tiktoken").exists() else folder


def text(change, name="a.tiktoken"):
    """A case in which `change` has been applied to the text of a file."""

    def write(folder):
        path = folder / name
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")

    return write


def line(text_of_line):
    return text(lambda content: content + text_of_line)


def data(file, *keys, **changes):
    """A case in which entries of the object at `keys` have changed; one that is a function is called with the old."""

    def write(folder):
        whole = json.loads((folder / file).read_text(encoding="utf-8"))
        holder = whole
        for key in keys:
            holder = holder[key]
        for key, value in changes.items():
            holder[key] = value(holder[key]) if callable(value) else value
        (folder / file).write_text(json.dumps(whole), encoding="utf-8")

    return write


def sparse(name, size):
    """A file of this size, of which almost nothing is on disk."""

    def write(folder):
        with (folder / name).open("r+b") as file:
            file.truncate(size)

    return write


def raw(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def rest(**changes):
    return data("a.tiktoken.json", **changes)


def encoded(token):
    return base64.b64encode(token).decode()


LONG = 10**5
PLAIN = {
    "a repeated token": line(f"{encoded(b'a')} 279\n"),
    "a repeated rank": line(f"{encoded(b'xyz')} 278\n"),
    "a rank of 10^9": line(f"{encoded(b'xyz')} 999999999\n"),
    "a rank of 10^12": line(f"{encoded(b'xyz')} 1000000000000\n"),
    "a rank of 5,000 digits": line(f"{encoded(b'xyz')} {'9' * 5000}\n"),
    "a negative rank": line(f"{encoded(b'xyz')} -1\n"),
    "a rank with a fraction": line(f"{encoded(b'xyz')} 279.0\n"),
    "an Arabic rank": line(f"{encoded(b'xyz')} \u0661\n"),
    "a gap": line(f"{encoded(b'xyz')} 300\n"),
    "an empty token": line(" 279\n"),
    "no base64": line("?? 279\n"),
    "half a base64": line("YWJ 279\n"),
    "no rank": line(f"{encoded(b'xyz')}\n"),
    "control characters": line("\x1b[2J 279\n"),
    "a null byte": line("\0 279\n"),
    "a line of 10^6 characters": line("A" * 10**6 + "\n"),
    "ten million characters of base64": line("A" * 10**7 + "? 279\n"),
    "no UTF-8": raw("a.tiktoken", b"\xff\xfe 1\n"),
    "zeros": sparse("a.tiktoken", MAX_TEXT + 1),
    "nothing": text(lambda content: ""),
    "another file": raw("a.tiktoken", b"root:x:0:0:\n"),
}


def last_token_repeated(content):
    lines = content.splitlines()
    return "\n".join([*lines[:-1], f"{lines[-2].split()[0]} {lines[-1].split()[1]}", ""])


WITH_JSON = {
    "a token of two ranks": text(last_token_repeated),
    "a truncated last line": text(lambda content: content[: content.rindex(" ")]),
    "no last line": text(lambda content: content[: content.rindex("\n", 0, -1) + 1]),
    "a rank of 10^9": line(f"{encoded(b'xyz')} 999999999\n"),
    "a repeated rank": line(f"{encoded(b'xyz')} 278\n"),
    "ids twice": rest(ids=[0] * 279),
    "an id of 10^9": rest(ids=[*range(278), 10**9]),
    "an id of 10^400": rest(ids=[*range(278), 10**400]),
    "the largest id": rest(ids=[*range(278), MAX_IDS]),
    "a negative id": rest(ids=[*range(278), -1]),
    "an id of 1.5": rest(ids=[*range(278), 1.5]),
    "too few ids": rest(ids=[*range(278)]),
    "too many ids": rest(ids=[*range(280)]),
    "a special token of 10^9": rest(special_tokens={END_OF_TEXT: 10**9}),
    "a special token of 10^30": rest(special_tokens={END_OF_TEXT: 10**30}),
    "a negative special token": rest(special_tokens={END_OF_TEXT: -1}),
    "a special token with the id of another": rest(special_tokens={END_OF_TEXT: 280, "<|pad|>": 280}),
    "a special token with the id of a token": rest(special_tokens={END_OF_TEXT: 5, "<|pad|>": 290}),
    "a special token that is ordinary": rest(special_tokens={END_OF_TEXT: 280, "<|pad|>": 290, "a": 291}),
    "a special token that is no character": rest(special_tokens={END_OF_TEXT: 280, "<|pad|>": 290, "\ud800": "x"}),
    "no end of text": rest(special_tokens={"<|pad|>": 290}),
    "no padding": rest(pad="<|none|>"),
    "a long name for the end": rest(eos="\x1b[2J" * LONG),
    "an empty pattern": rest(pattern=""),
    "a pattern that matches nothing": rest(pattern="(?!)"),
    "a pattern that matches the empty text": rest(pattern="a*"),
    "a pattern that loses spaces": rest(pattern=r"\S+"),
    "a pattern that loses line ends": rest(pattern="."),
    "a pattern that backtracks": rest(pattern=r"(?:(?=a)(a+))+b|\S|\s"),
    "a pattern that backtracks with a reference": rest(pattern=r"(a|a)*\1b|\S|\s"),
    "an invalid pattern": rest(pattern="("),
    "a nested pattern": rest(pattern="(" * LONG + ")" * LONG),
    "a less nested pattern": rest(pattern="(" * 4000 + "a" + ")" * 4000),
    "a repeated pattern": rest(pattern=r"(?:(?:a{1000}){1000}){1000}|\S|\s"),
    "a long pattern": rest(pattern="a|" * 10**6),
    "a pattern of control characters": rest(pattern="\x1b[2J\n("),
    "a number for a pattern": rest(pattern=7),
    "a long name": rest(name="\x1b[2J" * LONG, pad="<|none|>"),
    "nested lists": text(lambda content: "[" * LONG, "a.tiktoken.json"),
    "a key twice": text(lambda content: content.replace('"name"', '"pattern"'), "a.tiktoken.json"),
    "zeros": sparse("a.tiktoken.json", 10**9),
}


def vocab(**changes):
    return data("tokenizer.json", "model", "vocab", **changes)


def model(**changes):
    return data("tokenizer.json", "model", **changes)


def whole(**changes):
    return data("tokenizer.json", **changes)


def added(**changes):
    token = {"id": 279, "content": END_OF_TEXT, "special": True}
    return whole(added_tokens=lambda tokens: [*tokens, token | changes])


def vocabulary_of(word, id_=300):
    return lambda words: words | {word: id_}


ONE_FILE = {
    "an id of 10^9": vocab(a=10**9),
    "an id of 10^12": vocab(**{END_OF_TEXT: 10**12}),
    "a negative id": vocab(a=-1),
    "an id twice": vocab(a=5),
    "an id of 1.5": vocab(a=1.5),
    "an id in quotes": vocab(a="64"),
    "true for an id": vocab(a=True),
    "an object for an id": vocab(a={"x" * LONG: 1}),
    "a missing byte": model(vocab=lambda words: {word: i for word, i in words.items() if word != "a"}),
    "a vocabulary that is a list": model(vocab=[]),
    "no vocabulary": model(vocab=None),
    "an empty vocabulary": model(vocab={}),
    "a merge of nothing": model(merges=lambda merges: [*merges, ["", ""]]),
    "a merge of one": model(merges=lambda merges: [*merges, ["a"]]),
    "a merge of three": model(merges=lambda merges: [*merges, "a b c"]),
    "a merge of unknown tokens": model(merges=lambda merges: [*merges, ["xyz", "abc"]]),
    "a merge into an unknown token": model(merges=lambda merges: [*merges, ["x", "y"]]),
    "a merge of numbers": model(merges=lambda merges: [*merges, [1, 2]]),
    "a merge that is a number": model(merges=lambda merges: [*merges, 7]),
    "a merge twice": model(merges=lambda merges: [*merges, merges[0]]),
    "merges that are an object": model(merges={}),
    "a merge of 10^6 characters": model(merges=lambda merges: [*merges, ["a" * 10**6, "b"]]),
    "a merge of control characters": model(merges=lambda merges: [*merges, ["\x1b[2J", "\n"]]),
    "an added token with two ids": added(id=280),
    "an added token of 10^9": added(content="<x>", id=10**9),
    "an added token with a negative id": added(content="<x>", id=-1),
    "an added token that is ordinary": added(content="a", id=64),
    "an added token with the id of another": added(content="<x>"),
    "an added token without text": added(content=None),
    "an added token that texts contain": added(content="<x>" * LONG, id=300, special=False),
    "an added token of control characters": added(content="\x1b[2J\n" * LONG, id=300, special=False),
    "added tokens that are an object": whole(added_tokens={}),
    "an added token that is a list": whole(added_tokens=[[]]),
    "an empty pattern": whole(pre_tokenizer={"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated"}),
    "a pattern that backtracks": whole(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}}),
    "a sequence of splits": whole(pre_tokenizer={"type": "Sequence", "pretokenizers": []}),
    "a normalizer": whole(normalizer={"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}),
    "a model that is a list": whole(model=[]),
    "another model": whole(model={"type": "x" * LONG}),
    "no end of text": data("tokenizer_config.json", eos_token="</s>"),
    "a long end of text": data("tokenizer_config.json", eos_token="\x1b[2J" * LONG),
    "a list for the end of text": data("tokenizer_config.json", eos_token=[]),
    "an ordinary end of text": data("tokenizer_config.json", eos_token="a"),
    "another class": data("tokenizer_config.json", tokenizer_class=7),
    "a token twice": text(lambda content: content.replace('"vocab": {', '"vocab": {"a": 64,'), "tokenizer.json"),
    "nested lists": text(lambda content: "[" * LONG, "tokenizer.json"),
    "no UTF-8": raw("tokenizer.json", b'{"a": "\xff"}'),
    "zeros": sparse("tokenizer.json", 10**9),
    "zeros for settings": sparse("tokenizer_config.json", 10**9),
}
TWO_FILES = {
    "an id of 10^9": data("vocab.json", a=10**9),
    "a token twice": text(lambda content: content.replace("{", '{"a": 64,', 1), "vocab.json"),
    "a list": text(lambda content: "[]", "vocab.json"),
    "no UTF-8": raw("merges.txt", b"a \xff\n"),
    "a merge of nothing": text(lambda content: content + "x yz\n", "merges.txt"),
    "a merge twice": text(lambda content: content + content.split("\n")[1] + "\n", "merges.txt"),
    "a line of 10^7 characters": text(lambda content: content + "a" * 10**7 + "\n", "merges.txt"),
    "a truncated merge": text(lambda content: content[: content.rindex(" ")], "merges.txt"),
    "merges of zeros": sparse("merges.txt", 10**9),
    "settings of zeros": sparse("tokenizer_config.json", 10**9),
    "added tokens with long ids": data("tokenizer_config.json", added_tokens_decoder={"9" * 5000: {}}),
    "an added token of 10^9": data(
        "tokenizer_config.json", added_tokens_decoder={"999999999": {"content": "<x>", "special": True}}
    ),
    "an added token with two ids": data(
        "tokenizer_config.json", added_tokens_decoder={"300": {"content": END_OF_TEXT, "special": True}}
    ),
    "a class that runs code": data("tokenizer_config.json", tokenizer_class="os.system"),
}


def long_tokens(folder):
    """1,000 tokens of up to 1,000 characters: a small file, but minutes of comparing merges."""
    words = ["a" * length for length in range(2, 1500)]
    data("vocab.json", **{word: 300 + index for index, word in enumerate(words)})(folder)
    text(lambda content: content + "".join(f"{word[1:]} a\n" for word in words), "merges.txt")(folder)


TWO_FILES["long tokens"] = long_tokens
CASES = {
    f"{form}: {name}": (form, write)
    for form, cases in (("plain", PLAIN), ("with json", WITH_JSON), ("one file", ONE_FILE), ("two files", TWO_FILES))
    for name, write in cases.items()
}


def test_the_valid_files_load(stored):
    for form in ("plain", "with json", "one file", "two files"):
        tokenizer = load_tokenizer(path_of(stored / form))
        assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused_in_one_sentence(stored, tmp_path, name, capfd):
    form, write = CASES[name]
    folder = shutil.copytree(stored / form, tmp_path / "tokenizer")
    write(folder)
    sentence = refusal(load_tokenizer, path_of(folder))
    assert str(folder) in sentence
    assert not set("\x1b\0") & {*sentence}
    assert capfd.readouterr().err == ""


def test_the_error_says_how_to_name_the_end_token(stored, tmp_path):
    folder = shutil.copytree(stored / "one file", tmp_path / "one file")
    text(lambda content: content.replace(END_OF_TEXT, "<end>"), "tokenizer.json")(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    sentence = refusal(load_tokenizer, folder)
    assert "'<|endoftext|>' is not in its vocabulary; name its end-of-text" in sentence
    assert 'tokenizer_config.json ("eos_token", "pad_token"): \'<end>\'' in sentence
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    assert load_tokenizer(folder).eos == "<end>"
    folder = shutil.copytree(stored / "with json", tmp_path / "with json")
    rest(special_tokens={"<end>": 280, "<|pad|>": 290})(folder)
    sentence = refusal(load_tokenizer, path_of(folder))
    assert "has no special token '<|endoftext|>': name those that are its end-of-text and padding, `eos`" in sentence
    rest(eos="<end>")(folder)
    assert load_tokenizer(path_of(folder)).eos == "<end>"


FILES = {
    "plain": ("a.tiktoken",),
    "with json": ("a.tiktoken", "a.tiktoken.json"),
    "one file": ("tokenizer.json", "tokenizer_config.json"),
    "two files": ("vocab.json", "merges.txt", "tokenizer_config.json"),
}
EVERY_FILE = [(form, name) for form, names in FILES.items() for name in names]
OPTIONAL = ("tokenizer_config.json", "a.tiktoken.json")


@pytest.mark.parametrize(("form", "name"), EVERY_FILE)
def test_a_tokenizer_with_a_missing_or_other_file_is_refused_with_its_name(stored, tmp_path, form, name):
    for number, how in enumerate(HOW):
        if how == "unreadable" and os.access("/root", os.W_OK):
            continue  # the superuser reads every file
        if name in OPTIONAL and how in ("deleted", "a link to nothing", "a link to itself"):
            continue
        if (name, how) == ("merges.txt", "empty"):
            continue  # a vocabulary of single bytes, to which no text of several is encoded
        folder = shutil.copytree(stored / form, tmp_path / str(number))
        path = path_of(folder)
        in_place(folder / name, how)
        assert name in refusal(load_tokenizer, path), how


@pytest.mark.parametrize(("form", "name"), EVERY_FILE)
@given(data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
def test_a_truncated_or_altered_file_is_refused_or_loads(stored, tmp_path_factory, form, name, data):
    folder = tmp_path_factory.mktemp("damaged") / form
    shutil.copytree(stored / form, folder)
    content = bytearray((folder / name).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[position:]
    else:
        content[position] ^= data.draw(st.integers(1, 255))
    path = path_of(folder)
    (folder / name).write_bytes(content)
    try:
        tokenizer = load_tokenizer(path)
    except (ValueError, OSError) as error:
        sentence = str(error)
        assert "\n" not in sentence
        assert len(sentence) < 700
        assert str(folder) in sentence
    else:
        tokenizer.decode(tokenizer.encode(TEXTS[0]))


@pytest.mark.parametrize(("form", "name"), [(form, name) for form, name in EVERY_FILE if name.endswith(".json")])
@given(data=st.data())
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_anything_in_a_json_file_is_refused_or_loads(stored, tmp_path_factory, form, name, data):
    folder = shutil.copytree(stored / form, tmp_path_factory.mktemp("altered") / form)
    (folder / name).write_text(json.dumps(with_junk(json.loads((folder / name).read_text()), data)))
    try:
        tokenizer = load_tokenizer(path_of(folder))
    except (ValueError, OSError) as error:
        sentence = str(error)
        assert "\n" not in sentence
        assert str(folder) in sentence
    else:
        assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]
