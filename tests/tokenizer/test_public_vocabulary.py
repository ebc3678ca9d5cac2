"""Public tokenizers, read and written: ids equal those of Hugging Face, or the tokenizer is refused."""

import json
import random

import huggingface_hub
import pytest
import tiktoken
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext.openai_public import r50k_pat_str
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from minippo.config import DataConfig
from minippo.data.bundled import BundledReviews
from minippo.tokenizer import Tokenizer, load_tokenizer, make_tokenizer, reward_tokens, train_bpe, whole_characters
from minippo.tokenizer.bpe import GPT2_SPLIT
from minippo.tokenizer.vocab_json import END_OF_TEXT

MADE_UP = {f"madeupword{n:04}": 1200 + n for n in range(3)}
OPT_SPECIAL = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **MADE_UP, "<mask>": 1203}
# tokenizer_config.json of facebook/opt-125m.
END = {"content": "</s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
END |= {"__type": "AddedToken"}
OPT_CONFIG = {
    "errors": "replace",
    "unk_token": END,
    "bos_token": END,
    "eos_token": END,
    "pad_token": "<pad>",
    "add_prefix_space": False,
    "add_bos_token": True,
    "special_tokens_map_file": None,
    "tokenizer_class": "GPT2Tokenizer",
}
SPELLED = ["</s>", "<pad>", "<s>", "<mask>", END_OF_TEXT, "<|fim_prefix|>", "madeupword0000"]
ANY_TEXT = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from([*SPELLED, *"Theé 映画😀İ½٣", "film", "'ll", "'LL", " ", "  ", "\n", "\t", "\u00a0", "\u3000"])
    ).map("".join),
)


@pytest.fixture(scope="module")
def reviews():
    rows = BundledReviews(DataConfig()).demonstrations("train")
    return [row.prompt + row.completion for row in rows]


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        stem, _, ending = name.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        (folder / f"{stem}.{ending}").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(reviews):
    """A vocabulary and merges trained by Hugging Face on the bundled reviews."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = trainers.BpeTrainer(vocab_size=1100, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(reviews[:2000], options)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def save_public(tokenizer, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in tokenizer.public_files().items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def merges_text(merges):
    return "#version: 0.2\n" + "".join(f"{first} {second}\n" for first, second in merges)


@pytest.fixture(scope="module")
def opt_vocabulary(trained):
    """Ids in another order than the merges, after four special tokens, with unused tokens at the end: as in OPT."""
    words = [*trained[0]]
    random.Random(0).shuffle(words)
    return OPT_SPECIAL | {word: 4 + place for place, word in enumerate(words)}


@pytest.fixture(scope="module")
def opt_folder(trained, opt_vocabulary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("public") / "opt"
    return write(
        folder, vocab_json=opt_vocabulary, merges_txt=merges_text(trained[1]), tokenizer_config_json=OPT_CONFIG
    )


@pytest.fixture(scope="module")
def gpt2_folder(trained, tmp_path_factory):
    """No file names special tokens, and end-of-text is the last id: as in GPT-2."""
    files = {"vocab_json": trained[0] | {END_OF_TEXT: len(trained[0])}, "config_json": {"model_type": "gpt2"}}
    return write(tmp_path_factory.mktemp("gpt2"), merges_txt=merges_text(trained[1]), **files)


def unusual_tokenizer(pattern=r"\p{L}+|\s|[^\p{L}\s]+"):
    """Another pattern, several special tokens, unassigned ids: as in cl100k_base."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"fi": 256, b"lm": 258, b"film": 259}
    encoding = tiktoken.Encoding("unusual", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return Tokenizer(encoding, {END_OF_TEXT: 257, "<|fim_prefix|>": 262, "<|endofprompt|>": 270})


def hugging_face(folder):
    """text -> ids by `transformers`: nothing is prepended, and special tokens in the text are ordinary text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return lambda text: tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


# ---------------------------------------------------------------------------------------------- the same ids


@pytest.mark.parametrize("folder", ["opt_folder", "gpt2_folder"])
def test_ids_of_thousands_of_reviews_agree_with_hugging_face(folder, reviews, request):
    folder = request.getfixturevalue(folder)
    ours, theirs = load_tokenizer(folder), hugging_face(folder)
    assert len(reviews) > 3000
    for text, ids in zip(reviews, ours.encode_batch(reviews), strict=True):
        assert ids == theirs(text)
        assert ours.decode(ids) == text


def test_ids_of_any_unicode_text_agree_with_hugging_face(opt_folder):
    ours, theirs = load_tokenizer(opt_folder), hugging_face(opt_folder)

    @given(ANY_TEXT)
    @settings(max_examples=400, deadline=None, derandomize=True)
    def check(text):
        ids = ours.encode(text)
        assert ids == theirs(text)
        assert ours.decode(ids) == text

    check()


def test_both_spellings_of_gpt2s_pattern_split_alike():
    new, old = unusual_tokenizer(r50k_pat_str), unusual_tokenizer(GPT2_SPLIT)

    @given(ANY_TEXT)
    @settings(deadline=None, derandomize=True)
    def check(text):
        assert new.encode(text) == old.encode(text)

    check()


def test_ids_of_every_character_agree_with_hugging_face():
    # Which characters are letters, digits or spaces depends on the version of Unicode.
    ranks = {bytes([byte]): byte for byte in range(256)}
    kinds = ("L", r"\p{L}"), ("N", r"\p{N}"), ("space", r"\s")
    ours = {
        kind: tiktoken.Encoding(kind, pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode_ordinary
        for kind, pattern in kinds
    }
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    for letter in map(chr, [*range(0xD800), *range(0xE000, 0x33480, 3), *range(0x1F000, 0x1FC00)]):
        found = next((kind for kind, encode in ours.items() if encode(letter)), "other")
        neighbour = {"L": "a", "N": "1", "other": "!", "space": None}[found]
        assert neighbour is None or len(split(neighbour + letter)) == 1, hex(ord(letter))
        assert neighbour is not None or len(split("!" + letter)) == len(split("a" + letter)) == 2, hex(ord(letter))


# ---------------------------------------------------------------------------------------------- special tokens


def test_special_tokens_of_opt_are_recognised(opt_folder, opt_vocabulary):
    tokenizer = load_tokenizer(opt_folder)
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id) == (1204, 2, 1)
    assert tokenizer.name == str(opt_folder)
    used = {*opt_vocabulary.values()} - {*OPT_SPECIAL.values()}
    assert {*tokenizer.non_text_ids} == {*range(1204)} - used - {2}
    assert tokenizer.non_text_ids[:3] == (0, 1, 3)
    assert tokenizer.decode([2, *tokenizer.encode("a film"), 1, 0, 3, 1200, 1203, 1204, 50271]) == "a film"


def test_text_that_spells_a_special_token_stays_text(opt_folder):
    tokenizer = load_tokenizer(opt_folder)
    for text in ("".join(SPELLED), *SPELLED):
        ids = tokenizer.encode(text)
        assert not {*ids} & {*OPT_SPECIAL.values()}
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("files", "eos", "pad"),
    [
        ({}, 2, 1),  # recognised by the ids that these two have in OPT and RoBERTa
        ({"special_tokens_map_json": {"eos_token": "<s>"}}, 0, 0),
        ({"special_tokens_map_json": {"eos_token": "<s>"}, "tokenizer_config_json": {"eos_token": "</s>"}}, 2, 2),
        ({"tokenizer_config_json": {"eos_token": {"content": "<mask>"}, "pad_token": {"content": "<pad>"}}}, 1203, 1),
        ({"tokenizer_config_json": {"pad_token": "<unk>"}}, 2, 3),
        ({"tokenizer_config_json": {"tokenizer_class": "RobertaTokenizerFast", "eos_token": None}}, 2, 1),
        (
            {
                "added_tokens_json": {"[end]": 1300, "[role]": 1301},
                "tokenizer_config_json": {"eos_token": "[end]", "additional_special_tokens": ["[role]"]},
            },
            1300,
            1300,
        ),
        (
            {
                "tokenizer_config_json": {
                    "pad_token": "[pad]",
                    "added_tokens_decoder": {"1300": {"content": "[pad]", "special": True}},
                }
            },
            2,
            1300,
        ),
    ],
)
def test_eos_and_pad_are_read_from_the_files(opt_vocabulary, trained, tmp_path, files, eos, pad):
    write(tmp_path, vocab_json=opt_vocabulary, merges_txt=merges_text(trained[1]), **files)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.eos_id, tokenizer.pad_id) == (eos, pad)
    assert tokenizer.decode([eos, *tokenizer.encode("good"), pad]) == "good"


def test_eos_of_gpt2_is_the_default(gpt2_folder):
    tokenizer = load_tokenizer(gpt2_folder)
    assert tokenizer.eos_id == tokenizer.pad_id == tokenizer.vocab_size - 1 == 1100
    assert tokenizer.non_text_ids == ()


# ---------------------------------------------------------------------------------------------- files in and out


def behaviour(tokenizer, texts):
    every = [tokenizer.decode_bytes([i]) for i in range(tokenizer.vocab_size + 1)]
    special = tokenizer.eos_id, tokenizer.pad_id, tokenizer.special_tokens, tokenizer.non_text_ids
    return tokenizer.encode_batch(texts), every, special, tokenizer.vocab_size


@pytest.mark.parametrize("folder", ["opt_folder", "gpt2_folder"])
def test_a_public_tokenizer_saved_with_a_run_needs_no_other_files(folder, reviews, request, tmp_path):
    tokenizer = load_tokenizer(request.getfixturevalue(folder))
    tokenizer.save(tmp_path / "policy.tiktoken")
    loaded = load_tokenizer(tmp_path / "policy.tiktoken")
    texts = [*reviews[:200], "".join(SPELLED)]
    assert behaviour(loaded, texts) == behaviour(tokenizer, texts)
    # GPT-2's ids are ranks, so no second file is necessary.
    assert (tmp_path / "policy.tiktoken.json").exists() == (folder == "opt_folder")


@pytest.fixture(scope="module")
def ours(reviews, opt_folder):
    """Tokenizers that can be written as public files: our own, like OPT's, with gaps in the ranks like p50k_base's."""
    tokenizer = train_bpe(reviews[:1000], 700)
    ranks = tokenizer.encoding._mergeable_ranks
    gapped = {token: rank + (rank >= 500) for token, rank in ranks.items()} | {b"\n\n": 800}
    encoding = tiktoken.Encoding("gapped", pat_str=r50k_pat_str, mergeable_ranks=gapped, special_tokens={})
    return {
        "trained": tokenizer,
        "opt": load_tokenizer(opt_folder),
        "gapped": Tokenizer(encoding, {END_OF_TEXT: 500, "<|fim|>": 900}),
    }


@pytest.mark.parametrize("name", ["trained", "opt", "gapped"])
def test_public_files_give_hugging_face_the_same_ids(ours, name, reviews, tmp_path):
    tokenizer, folder = ours[name], save_public(ours[name], tmp_path / name)
    theirs = hugging_face(folder)
    for text in [*reviews[:300], "".join(SPELLED), "Übel: 映画は\n\n  最高でした 😀   "]:
        assert theirs(text) == tokenizer.encode(text)
    again = load_tokenizer(folder)
    assert behaviour(again, reviews[:50]) == behaviour(tokenizer, reviews[:50])
    public = transformers.AutoTokenizer.from_pretrained(folder)
    assert (public.eos_token_id, public.pad_token_id) == (tokenizer.eos_id, tokenizer.pad_id)
    assert public("a film")["input_ids"] == tokenizer.encode("a film")  # nothing is prepended, as in training
    assert public.decode(tokenizer.encode("a film .")) == "a film ."


def test_tokens_that_no_merge_results_in_are_refused():
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"film": 256}
    encoding = tiktoken.Encoding("whole", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens={})
    with pytest.raises(ValueError, match="whole cannot be expressed as merges: no merge results in the token 'film'"):
        Tokenizer(encoding, {END_OF_TEXT: 257}).public_files()


def test_a_special_token_with_the_spelling_of_an_ordinary_one_is_refused():
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("alike", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens={})
    with pytest.raises(ValueError, match="the same spelling as the special token 'a'"):
        Tokenizer(encoding, {END_OF_TEXT: 256, "a": 257}).public_files()


@pytest.mark.parametrize("age", ["new", "old"])
def test_a_folder_saved_by_transformers_is_read(opt_folder, reviews, tmp_path, age):
    transformers.AutoTokenizer.from_pretrained(opt_folder).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    if age == "old":  # as in the public gpt2
        whole["model"]["merges"] = [" ".join(pair) for pair in whole["model"]["merges"]]
        for name in ("type", "byte_fallback", "ignore_merges"):
            del whole["model"][name]
        del whole["pre_tokenizer"]["use_regex"]
        path.write_text(json.dumps(whole), encoding="utf-8")
    write(tmp_path, vocab_json={}, merges_txt="")  # transformers ignores them, too
    tokenizer, before = load_tokenizer(tmp_path), load_tokenizer(opt_folder)
    assert behaviour(tokenizer, reviews[:100]) == behaviour(before, reviews[:100])


# ---------------------------------------------------------------------------------------------- refusals


def tokenizer_json(folder, vocabulary, merges, *, model=None, normalizer=None, pre_tokenizer=None):
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges, **(model or {})))
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.save(str(folder / "tokenizer.json"))


SPLIT = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"normalizer": normalizers.NFC()}, r'normalizer in its tokenizer.json is {"type": "NFC"}, but must be null'),
        ({"pre_tokenizer": pre_tokenizers.Whitespace()}, 'pre_tokenizer.type in its tokenizer.json is "Whitespace"'),
        ({"pre_tokenizer": SPLIT}, 'pre_tokenizer.type in its tokenizer.json is "Sequence"'),
        (
            {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
            "pre_tokenizer.add_prefix_space in its tokenizer.json is true",
        ),
        (
            {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)},
            "pre_tokenizer.use_regex in its tokenizer.json is false",
        ),
        ({"model": {"dropout": 0.1}}, "model.dropout in its tokenizer.json is 0.1"),
        ({"model": {"ignore_merges": True}}, "model.ignore_merges in its tokenizer.json is true"),
        ({"model": {"byte_fallback": True}}, "model.byte_fallback in its tokenizer.json is true"),
        ({"model": {"end_of_word_suffix": "</w>"}}, 'model.end_of_word_suffix in its tokenizer.json is "</w>"'),
    ],
)
def test_other_ways_to_split_or_merge_are_refused(trained, tmp_path, options, words):
    vocabulary = trained[0] | {END_OF_TEXT: 2000}
    tokenizer_json(tmp_path, vocabulary, [])
    assert load_tokenizer(tmp_path).eos_id == 2000
    tokenizer_json(tmp_path, vocabulary, [], **options)
    with pytest.raises(ValueError, match=words):
        load_tokenizer(tmp_path)


def test_a_model_other_than_bpe_is_refused(tmp_path):
    model = models.WordPiece({"[UNK]": 0, "film": 1}, unk_token="[UNK]")
    tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"pre_tokenizer.type in its tokenizer.json is null"):
        load_tokenizer(tmp_path)
    write(tmp_path, tokenizer_json={"pre_tokenizer": {"type": "ByteLevel"}, "model": {"type": "Unigram", "vocab": []}})
    with pytest.raises(ValueError, match=r'model.type in its tokenizer.json is "Unigram", but must be "BPE"'):
        load_tokenizer(tmp_path)


CONFIG = "tokenizer_config_json"
ABC = {"ab": 1300, "bc": 1301, "abc": 1302}


@pytest.mark.parametrize(
    ("vocabulary", "merges", "files", "words"),
    [
        ({}, "", {CONFIG: {"tokenizer_class": "CLIPTokenizer"}}, "CLIPTokenizer is not supported"),
        ({}, "", {CONFIG: {"add_prefix_space": True}}, "a space before every text"),
        ({}, "", {"added_tokens_json": {"    ": 1300}}, r"1 added tokens in texts before merging \('    '\)"),
        (
            {},
            "",
            {CONFIG: {"added_tokens_decoder": {"1300": {"content": "[role]", "special": False}}}},
            r"\('\[role\]'\)",
        ),
        ({}, "", {CONFIG: {"eos_token": "<end>"}}, "special token '<end>' is not in its vocabulary"),
        ({}, "", {CONFIG: {"pad_token": "!"}}, "special token '!' is also an ordinary token"),
        ({"</s>": 5000}, "", {}, r"special token '<\|endoftext\|>' is not in its vocabulary"),
        (
            {"</s>": 9},
            "",
            {CONFIG: OPT_CONFIG},
            r"256 tokens and 852 special tokens must have different ids from 0 on, but have 1107",
        ),
        ({}, "#version: 0.2\nq \n", {}, r"merge 1, 'q ', does not join two tokens into a third one"),
        ({}, "q q\n", {}, r"merge 1, 'q q', does not join two tokens into a third one"),
        (ABC, "a b\na b c\n", {}, r"merge 2, 'a b c', does not join"),
        (ABC, "ab\n", {}, r"merge 1, 'ab', does not join"),
        (
            {"映": 1300, "画": 1301, "映画": 1302},
            "映 画\n",
            {},
            "merge 1, '映 画', has characters that do not spell a byte",
        ),
        ({"a</w>": 1300, "ba</w>": 1301}, "b a</w>\n", {}, r"the merge 'b' \+ 'a</w>' is never used"),
        (ABC, "a b\nb c\na bc\n", {}, r"opt cannot be loaded: the merge 'a' \+ 'bc' is never"),
        (ABC, "a b\nb c\na bc\nab c\n", {}, "opt cannot be loaded: two merges result in 'abc'"),
        ({"ab": "many"}, "", {}, "the token 'ab' has the id 'many', which is not an integer"),
        ({}, "", {"vocab_json": ["a", "b"]}, r"vocab\.json should be an object, but is \[\"a\", \"b\"\]"),
        ({}, "", {"vocab_json": "no JSON"}, "vocab.json is not valid JSON"),
        ({}, "", {"vocab_json": {"a": 1}}, "it is not byte-level: 255 of the 256 single bytes are not tokens"),
    ],
)
def test_tokenizers_that_cannot_be_reproduced_are_refused(opt_vocabulary, tmp_path, vocabulary, merges, files, words):
    files = {"vocab_json": opt_vocabulary | vocabulary, "merges_txt": merges} | files
    with pytest.raises(ValueError, match=words) as refusal:
        load_tokenizer(write(tmp_path / "opt", **files))
    assert str(tmp_path / "opt") in str(refusal.value)


TOKENIZER, MODEL = "tokenizer_json", {"vocab": {}, "merges": []}
LIKE_OURS = {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}, "model": MODEL}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {CONFIG: {"tokenizer_class": 5}},
            "tokenizer_config.json: tokenizer_class should be a string or null, but is 5",
        ),
        ({CONFIG: {"eos_token": {"id": 2}}}, "tokenizer_config.json: eos_token has no 'content'"),
        ({CONFIG: {"pad_token": 1}}, "pad_token should be a string or an object or null, but is 1"),
        (
            {"special_tokens_map_json": {"eos_token": []}},
            r"special_tokens_map\.json: eos_token should be .*, but is \[\]",
        ),
        (
            {CONFIG: {"additional_special_tokens": "<s>"}},
            'additional_special_tokens should be a list or null, but is "<s>"',
        ),
        ({CONFIG: {"additional_special_tokens": [3]}}, "additional_special_tokens should be a string or .*, but is 3"),
        ({CONFIG: {"added_tokens_decoder": []}}, r"added_tokens_decoder should be an object or null, but is \[\]"),
        ({CONFIG: {"added_tokens_decoder": {"1": "<s>"}}}, 'added_tokens_decoder 1 should be an object, but is "<s>"'),
        ({CONFIG: {"added_tokens_decoder": {"1": {"content": "<s>"}}}}, "added_tokens_decoder 1 has no 'special'"),
        ({CONFIG: {"added_tokens_decoder": {"1": {"special": True}}}}, "added_tokens_decoder 1 has no 'content'"),
        (
            {CONFIG: {"added_tokens_decoder": {"<s>": {}}}},
            "the keys of added_tokens_decoder should be ids, but one is '<s>'",
        ),
        (
            {"added_tokens_json": {"<new>": True}, CONFIG: {"additional_special_tokens": ["<new>"]}},
            "the token '<new>' has the id True",
        ),
        ({TOKENIZER: {}}, "pre_tokenizer.type in its tokenizer.json is null"),
        ({TOKENIZER: {"pre_tokenizer": LIKE_OURS["pre_tokenizer"]}}, "model.type in its tokenizer.json is null"),
        ({TOKENIZER: {"model": MODEL}}, "pre_tokenizer.type in its tokenizer.json is null"),  # does not split texts
        ({TOKENIZER: LIKE_OURS | {"model": {"merges": []}}}, "tokenizer.json has no 'vocab'"),
        ({TOKENIZER: LIKE_OURS | {"model": MODEL | {"vocab": []}}}, r"vocab should be an object, but is \[\]"),
        ({TOKENIZER: LIKE_OURS | {"model": MODEL | {"merges": None}}}, "merges should be a list, but is null"),
        (
            {TOKENIZER: LIKE_OURS | {"model": MODEL | {"merges": [5]}}},
            "merge 1 should be a string or a list, but is 5",
        ),
        (
            {TOKENIZER: LIKE_OURS | {"model": MODEL | {"merges": ["a b", [1, 2]]}}},
            "merge 2 should be a string, but is 1",
        ),
        ({TOKENIZER: LIKE_OURS | {"added_tokens": {"a": 1}}}, "added_tokens should be a list or null, but is"),
        ({TOKENIZER: LIKE_OURS | {"added_tokens": ["a"]}}, 'an added token should be an object, but is "a"'),
        ({TOKENIZER: LIKE_OURS | {"added_tokens": [{"content": "a", "id": 1}]}}, "an added token has no 'special'"),
        ({TOKENIZER: LIKE_OURS | {"added_tokens": [{"content": "a", "special": True}]}}, "an added token has no 'id'"),
        ({TOKENIZER: LIKE_OURS | {"added_tokens": [{"id": 1, "special": True}]}}, "an added token has no 'content'"),
    ],
)
def test_a_broken_file_is_refused_with_one_sentence(opt_vocabulary, tmp_path, files, words):
    files = {"vocab_json": opt_vocabulary, "merges_txt": ""} | files
    with pytest.raises(ValueError, match=words) as refusal:
        load_tokenizer(write(tmp_path / "opt", **files))
    assert str(refusal.value).startswith(f"the tokenizer {tmp_path / 'opt'} cannot be loaded: ")


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_file_is_named(opt_vocabulary, tmp_path, name):
    write(tmp_path, vocab_json=opt_vocabulary, merges_txt="#version: 0.2\n")
    (tmp_path / name).unlink()
    with pytest.raises(
        FileNotFoundError, match=f"{tmp_path} is not a tokenizer: it has neither {name} nor tokenizer.json"
    ):
        load_tokenizer(tmp_path)


# ---------------------------------------------------------------------------------------------- the hub


def test_a_hub_tokenizer_is_downloaded_without_the_weights(opt_folder, monkeypatch):
    asked = []

    def fetch(name, **options):
        asked.append((name, options))
        return str(opt_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    tokenizer = make_tokenizer("facebook/opt-125m", [])
    assert (tokenizer.name, tokenizer.eos_id, tokenizer.pad_id) == ("facebook/opt-125m", 2, 1)
    ((name, options),) = asked
    assert name == "facebook/opt-125m"
    assert {"vocab.json", "merges.txt", "tokenizer_config.json"} <= {*options["allow_patterns"]}
    assert not any("*" in pattern or "safetensors" in pattern for pattern in options["allow_patterns"])


def test_a_failed_download_is_reported_in_one_sentence(monkeypatch):
    def fetch(name, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network, and nothing in the cache\nmore\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(FileNotFoundError) as refusal:
        load_tokenizer("facebook/opt-125m")
    assert str(refusal.value) == (
        "the tokenizer facebook/opt-125m cannot be downloaded: no network, and nothing in the cache"
    )


def test_an_existing_folder_takes_precedence_over_the_hub(opt_folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    monkeypatch.chdir(opt_folder.parent.parent)
    assert load_tokenizer(f"{opt_folder.parent.name}/opt").eos_id == 2


# ---------------------------------------------------------------------------------------------- the bridge

KINDS = ("trained", "opt", "gapped", "unusual")


@pytest.fixture(scope="module")
def kinds(ours):
    return ours | {"unusual": unusual_tokenizer()}


@pytest.mark.parametrize("receiver", KINDS)
@pytest.mark.parametrize("sender", KINDS)
def test_text_crosses_the_bridge_between_any_two_tokenizers(kinds, sender, receiver):
    policy, reward = kinds[sender], kinds[receiver]

    @given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), max_size=4))
    @settings(max_examples=25, deadline=None, derandomize=True)
    def check(pairs):
        prompts, responses = ([policy.decode(policy.encode(pair[side])) for pair in pairs] for side in (0, 1))
        rows = reward_tokens(reward, prompts, responses, max_length=10**6)
        assert [reward.decode(ids) for ids in rows] == [prompt + response for prompt, response in pairs]
        for ids in rows:
            assert ids[-1] == reward.eos_id
            assert not {*ids[:-1]} & {reward.eos_id, *reward.non_text_ids}

    check()


@pytest.mark.parametrize("receiver", KINDS)
@pytest.mark.parametrize("sender", KINDS)
def test_any_sampled_ids_cross_the_bridge_and_end_with_one_eos(kinds, sender, receiver):
    policy, reward = kinds[sender], kinds[receiver]
    special = st.sampled_from([policy.eos_id, policy.pad_id, *policy.non_text_ids, policy.vocab_size])
    drawn = st.lists(st.one_of(st.integers(0, policy.vocab_size + 5), special), max_size=12)

    @given(drawn, drawn)
    @settings(max_examples=25, deadline=None, derandomize=True)
    def check(query, response):
        query = whole_characters(policy, query)  # arbitrary ids may end within a character
        (ids,) = reward_tokens(reward, [policy.decode(query)], [policy.decode(response)], max_length=10**6)
        assert reward.decode(ids) == policy.decode(query) + policy.decode(response) == policy.decode(query + response)
        assert ids[-1] == reward.eos_id
        assert not {*ids[:-1]} & {reward.eos_id, *reward.non_text_ids}

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_cut_between_characters_for_every_kind_of_tokenizer(kinds, kind):
    tokenizer = kinds[kind]

    @given(ANY_TEXT, st.integers(0, 12))
    @settings(max_examples=50, deadline=None, derandomize=True)
    def check(text, length):
        ids = tokenizer.encode(text)[:length]
        kept = whole_characters(tokenizer, ids)
        assert text.startswith(tokenizer.decode_bytes(kept).decode("utf-8"))  # strict
        assert kept == ids[: len(kept)]
        for longer in range(len(kept) + 1, len(ids) + 1):
            with pytest.raises(UnicodeDecodeError):
                tokenizer.decode_bytes(ids[:longer]).decode("utf-8")

    check()
