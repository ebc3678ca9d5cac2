"""Encoding, training compared with a brute-force BPE, files, and the bridge to the reward model."""

import base64
import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import regex
import tiktoken
import tiktoken.load
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minippo.tokenizer import Tokenizer, load_tokenizer, reward_tokens, train_bpe, whole_characters
from minippo.tokenizer.bpe import GPT2_SPLIT
from minippo.tokenizer.vocab_json import END_OF_TEXT

TEXTS = [
    "The film was good, the film was very good. I'd see the film again!",
    "Übel: ein schlechter Film 😀😀, naïve and café-like; 映画は最高でした 映画は最悪でした 12345",
    "  two  spaces,\n\nnew lines\tand tabs <|endoftext|> it's the end",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TEXTS * 3, vocab_size=340)


# Any Unicode text, with the texts that the merges were trained on more frequent than by chance.
ANY_TEXT = st.one_of(st.text(), st.lists(st.sampled_from([*"Theé 映画😀", "film", END_OF_TEXT, "\n"])).map("".join))


@given(text=ANY_TEXT)
@settings(deadline=None, derandomize=True)
def test_decoding_restores_any_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size - 1 for i in ids)  # never end-of-text


@given(texts=st.lists(ANY_TEXT, max_size=4))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_a_batch_is_encoded_like_its_texts(tokenizer, texts):
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_text_that_spells_end_of_text_stays_text(tokenizer):
    ids = tokenizer.encode(f"the end {END_OF_TEXT} of it")
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == f"the end {END_OF_TEXT} of it"
    assert tokenizer.eos_id not in tokenizer.encode_batch([END_OF_TEXT])[0]


def test_special_tokens_have_no_text(tokenizer):
    ids = tokenizer.encode("good")
    assert tokenizer.decode([tokenizer.eos_id, *ids, tokenizer.eos_id, tokenizer.pad_id]) == "good"


def test_an_incomplete_character_decodes_to_a_replacement_character():
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("a😀")
    assert len(ids) == 5
    for length in range(2, 5):
        text = tokenizer.decode(ids[:length])
        assert text[0] == "a"
        assert set(text[1:]) == {"\ufffd"}


@given(ids=st.lists(st.integers(-3, 10_000), max_size=30))
@settings(deadline=None, derandomize=True)
def test_any_ids_can_be_decoded(tokenizer, ids):
    assert isinstance(tokenizer.decode(ids), str)


def test_the_last_id_is_eos_and_pad(tokenizer):
    assert tokenizer.vocab_size == 340
    assert tokenizer.eos_id == tokenizer.pad_id == 339
    assert tokenizer.special_tokens == {END_OF_TEXT: 339}


def test_every_id_except_eos_has_bytes(tokenizer):
    assert tokenizer.non_text_ids == ()
    assert all(tokenizer.decode_bytes([i]) for i in range(339))


def test_tensors_and_arrays_can_be_decoded(tokenizer):
    ids = tokenizer.encode("the film")
    assert tokenizer.decode(torch.tensor(ids)) == tokenizer.decode(np.array(ids)) == "the film"


def make(name, ranks, special_tokens, pattern=GPT2_SPLIT, **rest):
    encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return Tokenizer(encoding, special_tokens, **rest)


def byte_tokenizer():
    return make("bytes", {bytes([byte]): byte for byte in range(256)}, {END_OF_TEXT: 256})


# ---------------------------------------------------------------------------------------------- training


def naive_bpe(texts, vocab_size):
    """Brute force: count all pairs again for each merge; the smallest of the most frequent is merged everywhere."""
    counts = Counter(word.encode() for text in texts for word in regex.findall(GPT2_SPLIT, text))
    words = {word: [bytes([byte]) for byte in word] for word in counts}
    tokens = [bytes([byte]) for byte in range(256)]
    while len(tokens) < vocab_size - 1:
        pairs = Counter()
        for word, parts in words.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            break
        first, second = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if first + second not in tokens:
            tokens.append(first + second)
        for word, parts in words.items():
            place = 0
            while place < len(parts) - 1:
                if (parts[place], parts[place + 1]) == (first, second):
                    parts[place : place + 2] = [first + second]
                place += 1
            words[word] = parts
    return {token: rank for rank, token in enumerate(tokens)}


# With few letters, ties, repetitions of one letter, and two merges with the same result are frequent.
@given(st.lists(st.text(alphabet="aab é", max_size=25), max_size=6), st.integers(257, 300))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_training_agrees_with_brute_force(texts, vocab_size):
    assert train_bpe(texts, vocab_size).encoding._mergeable_ranks == naive_bpe(texts, vocab_size)


def test_training_on_real_text_agrees_with_brute_force(tokenizer):
    assert tokenizer.encoding._mergeable_ranks == naive_bpe(TEXTS * 3, 340)


def test_the_most_frequent_pair_is_merged_first_and_never_across_word_boundaries():
    ranks = train_bpe(["hug hug pug hugs bun"], 260).encoding._mergeable_ranks
    # "hug", " hug", " pug", " hugs", " bun": u and g meet 4 times, then h and ug 3 times, the space and hug twice.
    assert [token for token, rank in sorted(ranks.items(), key=lambda item: item[1]) if rank >= 256] == [
        b"ug",
        b"hug",
        b" hug",
    ]
    many = train_bpe(["a b " * 50], 300)
    assert all(b" " not in token[1:] for token in many.encoding._mergeable_ranks)


def test_the_order_of_the_texts_does_not_matter():
    forward, backward = train_bpe(TEXTS, 320), train_bpe(TEXTS[::-1], 320)
    assert forward.encoding._mergeable_ranks == backward.encoding._mergeable_ranks


def test_texts_without_enough_pairs_give_a_smaller_vocabulary():
    tokenizer = train_bpe(["abc"], 1000)
    assert tokenizer.vocab_size == 256 + 2 + 1
    assert tokenizer.eos_id == 258
    assert train_bpe([], 257).vocab_size == 257


def test_a_vocabulary_that_is_too_small_for_the_bytes_is_refused():
    with pytest.raises(ValueError, match="256 bytes and end-of-text, at least 257 ids, not 256"):
        train_bpe(TEXTS, 256)


# ---------------------------------------------------------------------------------------------- files


def same(first, second):
    one, two = first.encoding, second.encoding
    return (
        one._mergeable_ranks == two._mergeable_ranks
        and one._pat_str == two._pat_str
        and first.special_tokens == second.special_tokens
        and (first.vocab_size, first.eos_id, first.pad_id) == (second.vocab_size, second.eos_id, second.pad_id)
        and first.non_text_ids == second.non_text_ids
        and [first.encode(text) for text in TEXTS] == [second.encode(text) for text in TEXTS]
        and all(first.decode_bytes([i]) == second.decode_bytes([i]) for i in range(first.vocab_size + 2))
    )


def test_a_saved_tokenizer_is_loaded_unchanged(tokenizer, tmp_path):
    path = tmp_path / "reviews.tiktoken"
    tokenizer.save(path)
    loaded = load_tokenizer(path)
    assert same(loaded, tokenizer)
    assert loaded.name == "reviews"
    loaded.save(tmp_path / "again.tiktoken")
    assert (tmp_path / "again.tiktoken").read_bytes() == path.read_bytes()
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["again.tiktoken", "reviews.tiktoken"]


def test_tiktokens_own_reader_reads_the_file(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # it caches by path
    tokenizer.save(tmp_path / "reviews.tiktoken")
    ranks = tiktoken.load.load_tiktoken_bpe(str(tmp_path / "reviews.tiktoken"))
    assert ranks == tokenizer.encoding._mergeable_ranks


RANKS = {bytes([byte]): byte for byte in range(256)} | {b"fi": 256, b"film": 258}


def unusual_tokenizer():
    """Another split pattern, special tokens, and a gap in the ranks, as in p50k_base and cl100k_base."""
    return make("unusual", RANKS, {END_OF_TEXT: 257, "<|begin|>": 260}, pattern=r"\S+|\s+")


def shuffled_tokenizer():
    """Ids that are not the ranks, a padding token, another end-of-text, as in OPT."""
    ranks = {token: rank for rank, token in enumerate([*RANKS])}
    ids = [4 + (rank * 7) % 258 for rank in range(258)]
    return make("owner/like-opt", ranks, {"</s>": 2, "<pad>": 1, "<unk>": 3}, ids=ids, eos="</s>", pad="<pad>")


@pytest.mark.parametrize("make_tokenizer", [unusual_tokenizer, shuffled_tokenizer, byte_tokenizer])
def test_what_the_format_cannot_express_is_kept_in_a_json_file(tmp_path, make_tokenizer):
    tokenizer, path = make_tokenizer(), tmp_path / "bytes.tiktoken"
    tokenizer.save(path)
    (tmp_path / "elsewhere").mkdir()
    for file in tmp_path.glob("bytes.*"):
        file.rename(tmp_path / "elsewhere" / file.name)
    loaded = load_tokenizer(tmp_path / "elsewhere" / "bytes.tiktoken")
    assert same(loaded, tokenizer)
    assert loaded.name == tokenizer.name


def test_non_text_ids_are_listed_and_decode_to_nothing():
    tokenizer = unusual_tokenizer()
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id) == (261, 257, 257)
    assert tokenizer.non_text_ids == (259, 260)  # an unassigned and a special one, without end-of-text
    assert tokenizer.decode([260, 256, 257, 259, 261, 10**6, -1]) == "fi"
    tokenizer = shuffled_tokenizer()
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id) == (262, 2, 1)
    assert tokenizer.non_text_ids == (0, 1, 3)
    (film,) = tokenizer.encode("film")
    assert film == 4 + (257 * 7) % 258
    assert tokenizer.decode([2, 0, film, 1, 3, 2, 262]) == "film"


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (
            {"ids": [*range(256), 255, 300]},
            "258 tokens and 1 special tokens must have different ids .* have 258 different ids",
        ),
        ({"ids": [*range(256), 299, 300], "special_tokens": {END_OF_TEXT: 299}}, "258 different ids"),
        ({"ids": [*range(-1, 257)]}, "from -1 on"),
        ({"eos": "</s>"}, "no special token '</s>'"),
        ({"pad": "<pad>"}, "no special token '<pad>'"),
    ],
)
def test_duplicate_ids_and_missing_special_tokens_are_refused(rest, words):
    ranks = {token: rank for rank, token in enumerate([*RANKS])}
    with pytest.raises(ValueError, match=words):
        make("wrong", ranks, **({"special_tokens": {END_OF_TEXT: 400}} | rest))


def test_saving_over_another_tokenizer_replaces_it_completely(tokenizer, tmp_path):
    path = tmp_path / "vocabulary.tiktoken"
    unusual_tokenizer().save(path)
    tokenizer.save(path)
    assert same(load_tokenizer(path), tokenizer)
    byte_tokenizer().save(path)
    assert load_tokenizer(path).vocab_size == 257  # the present contents of the file, not the first ones


def test_an_unknown_name_is_refused():
    for name in ("gpt5-imagined", "./nowhere/vocabulary", "/nowhere", "../opt", "one/two/three"):
        with pytest.raises(ValueError, match=r": expected a file .* a folder .*gpt2.* the Hugging Face hub") as refusal:
            load_tokenizer(name)
        assert repr(name) in str(refusal.value)


def test_a_name_of_tiktokens_loads_its_encoding(monkeypatch):
    special = {END_OF_TEXT: 257, "<|fim_prefix|>": 260}
    encoding = tiktoken.Encoding("cl100k_base", pat_str=r"\S+|\s+", mergeable_ranks=RANKS, special_tokens=special)
    monkeypatch.setattr(tiktoken, "get_encoding", {"cl100k_base": encoding}.get)
    tokenizer = load_tokenizer("cl100k_base")
    assert (tokenizer.name, tokenizer.vocab_size, tokenizer.eos_id) == ("cl100k_base", 261, 257)
    assert tokenizer.non_text_ids == (259, 260)
    text = "<|fim_prefix|> film<|endoftext|>"
    assert not {257, 259, 260} & {*tokenizer.encode(text)}
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_failed_download_of_an_encoding_is_reported_in_one_sentence(monkeypatch):
    def offline(name):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(FileNotFoundError, match=r"gpt2 cannot be downloaded: no route to host$"):
        load_tokenizer("gpt2")


def write_ranks(path, ranks):
    path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()))


@pytest.mark.parametrize(
    "line", ["YWI=", "YWI= many", "just some text", "YWI 256", "Y@@= 256", "é 256", "YWI= ²", "YWI= -1"]
)
def test_an_invalid_line_is_refused_with_its_number(tmp_path, line):
    path = tmp_path / "broken.tiktoken"
    write_ranks(path, {bytes([byte]): byte for byte in range(256)})
    path.write_text(path.read_text() + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.tiktoken, line 257: expected 'base64 rank'"):
        load_tokenizer(path)


def test_a_vocabulary_that_lacks_bytes_is_refused(tmp_path):
    path = tmp_path / "letters.tiktoken"
    write_ranks(path, {bytes([byte]): byte for byte in range(200)})
    with pytest.raises(ValueError, match="56 of the 256 single bytes"):
        load_tokenizer(path)


def test_ranks_with_gaps_are_refused(tmp_path):
    path = tmp_path / "gap.tiktoken"
    write_ranks(path, {bytes([byte]): byte for byte in range(256)} | {b"ab": 257})
    with pytest.raises(ValueError, match="257 tokens must have the ranks 0 to 256"):
        load_tokenizer(path)


def test_the_json_file_is_readable(tmp_path):
    unusual_tokenizer().save(tmp_path / "unusual.tiktoken")
    rest = json.loads((tmp_path / "unusual.tiktoken.json").read_text(encoding="utf-8"))
    assert rest == {
        "name": "unusual",
        "pattern": r"\S+|\s+",
        "special_tokens": {END_OF_TEXT: 257, "<|begin|>": 260},
        "eos": END_OF_TEXT,
        "pad": END_OF_TEXT,
        "ids": None,
    }


def test_a_pattern_and_special_tokens_alone_are_enough_in_the_json_file(tmp_path):
    unusual_tokenizer().save(tmp_path / "unusual.tiktoken")
    path = tmp_path / "unusual.tiktoken.json"
    rest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({name: rest[name] for name in ("name", "pattern", "special_tokens")}))
    assert same(load_tokenizer(tmp_path / "unusual.tiktoken"), unusual_tokenizer())


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ({}, " has no 'special_tokens'"),
        ([], r" should be an object, but is \[\]"),
        ("{", " is not valid JSON: Expecting property name"),
        ("[" * 100_000, " is not valid JSON: maximum recursion depth"),
        ({"name": 5}, ": name should be a string, but is 5"),
        ({"pattern": None}, ": pattern should be a string, but is null"),
        ({"pattern": "("}, ": the pattern '\\(' is invalid: missing \\)"),
        ({"special_tokens": [1]}, r": special_tokens should be an object, but is \[1\]"),
        (
            {"special_tokens": {END_OF_TEXT: "257"}},
            r": the id of '<\|endoftext\|>' should be an integer, but is \"257\"",
        ),
        ({"ids": 7}, ": ids should be a list or null, but is 7"),
        ({"ids": [0, 1.5]}, ": the id of rank 1 should be an integer, but is 1.5"),
        ({"ids": [0] * 258}, ": 258 ids are too few for ranks up to 258"),
        ({"ids": [0] * 260}, ": 260 ids are too many for ranks up to 258"),
        ({"ids": [0] * 259}, " are not a tokenizer: .* have 3 different ids"),
        ({"eos": "</s>"}, " are not a tokenizer: .* has no special token '</s>'"),
        ({"eos": 3}, ": eos should be a string or null, but is 3"),
        ({"pad": {}}, ": pad should be a string or null, but is {}"),
    ],
)
def test_a_broken_file_beside_the_merges_is_refused_with_one_sentence(tmp_path, rest, words):
    unusual_tokenizer().save(tmp_path / "unusual.tiktoken")
    path = tmp_path / "unusual.tiktoken.json"
    if isinstance(rest, dict) and rest:
        rest = json.loads(path.read_text(encoding="utf-8")) | rest
    path.write_text(rest if isinstance(rest, str) else json.dumps(rest), encoding="utf-8")
    with pytest.raises(ValueError, match=r"unusual\.tiktoken\.json" + words):
        load_tokenizer(tmp_path / "unusual.tiktoken")


# ---------------------------------------------------------------------------------------------- the bridge


def is_whole(tokenizer, ids):
    try:
        tokenizer.decode_bytes(ids).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@given(text=ANY_TEXT, length=st.integers(0, 12))
@settings(deadline=None, derandomize=True)
def test_whole_characters_keeps_the_longest_valid_beginning(tokenizer, text, length):
    ids = tokenizer.encode(text)[:length]
    kept = whole_characters(tokenizer, ids)
    assert kept == ids[: max(end for end in range(len(ids) + 1) if is_whole(tokenizer, ids[:end]))]


@given(text=ANY_TEXT, cut=st.integers(0, 12), response=st.lists(st.integers(0, 339), max_size=12))
@settings(deadline=None, derandomize=True)
def test_prompts_cut_between_characters_decode_alike_separately_and_together(tokenizer, text, cut, response):
    prompt = whole_characters(tokenizer, tokenizer.encode(text)[:cut])
    assert tokenizer.decode(prompt) + tokenizer.decode(response) == tokenizer.decode(prompt + response)


def test_whole_characters_cuts_inside_an_emoji():
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("a😀")
    copy = list(ids)
    assert [len(whole_characters(tokenizer, ids[:length])) for length in range(6)] == [0, 1, 1, 1, 1, 5]
    assert ids == copy


def test_the_reward_model_reads_prompt_response_and_its_own_eos(tokenizer):
    prompts, responses = ["The film", "", "café "], [" was good.", "naïve", ""]
    rows = reward_tokens(tokenizer, prompts, responses, max_length=100)
    for prompt, response, ids in zip(prompts, responses, rows, strict=True):
        assert ids == [*tokenizer.encode(prompt + response), tokenizer.eos_id]


def test_eos_is_appended_even_if_the_text_is_cut(tokenizer):
    text = "The film was very good, and the end was the end."
    whole = tokenizer.encode(text)
    for max_length in (1, 5, len(whole), len(whole) + 1, len(whole) + 2):
        (ids,) = reward_tokens(tokenizer, [text], [""], max_length)
        assert ids == [*whole[: max_length - 1], tokenizer.eos_id]
        assert len(ids) <= max_length


def test_a_response_that_spells_eos_is_not_ended_by_it(tokenizer):
    (ids,) = reward_tokens(tokenizer, ["good"], [END_OF_TEXT], max_length=100)
    assert ids.count(tokenizer.eos_id) == 1
    assert tokenizer.decode(ids) == f"good{END_OF_TEXT}"


def test_prompts_and_responses_that_do_not_pair_up_are_refused(tokenizer):
    with pytest.raises(ValueError, match="shorter"):
        reward_tokens(tokenizer, ["one", "two"], ["three"], max_length=10)


def test_a_stop_token_is_exactly_one_token(tokenizer):
    assert tokenizer.end_ids() == (tokenizer.eos_id,)
    assert tokenizer.end_ids("e") == (tokenizer.eos_id, *tokenizer.encode("e"))
    with pytest.raises(ValueError, match=r"the stop token 'xyz' must be one token of bpe, but is 3"):
        tokenizer.end_ids("xyz")
