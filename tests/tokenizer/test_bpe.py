"""Tables of merges that tiktoken applies as Hugging Face's BPE does. (test_tokenizer tests the training.)"""

import re
from ast import literal_eval
from collections import Counter
from itertools import pairwise

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import models, pre_tokenizers

from minippo.tokenizer.bpe import GPT2_SPLIT, SINGLE_BYTES, last_parts, merges_of_ranks, ranks_of_merges, train_ranks

# Tables with few letters, in which merges with the same result, merges that precede those of their parts, and merges
# that are never used are frequent.
LETTERS = "abc"
PLACES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9)
TEXTS = st.lists(st.text(alphabet=LETTERS + " ", max_size=20), max_size=5)


def table(places, order):
    """Each merge joins two of the tokens so far; then the table is shuffled."""
    tokens, merges = list(LETTERS), []
    for first, second in places:
        pair = tokens[first % len(tokens)], tokens[second % len(tokens)]
        if pair not in merges and len("".join(pair)) <= 12:
            merges.append(pair)
            tokens.append("".join(pair))
    order.shuffle(merges)
    return merges


def hugging_face(merges):
    """An independent encoder: text -> tokens."""
    tokens = [*pre_tokenizers.ByteLevel.alphabet(), *("".join(pair) for pair in merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = HuggingFaceTokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return lambda text: [token.replace("Ġ", " ").encode() for token in tokenizer.encode(text).tokens]


def tiktokens(ranks):
    encoding = tiktoken.Encoding("table", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens={})
    return lambda text: encoding.decode_tokens_bytes(encoding.encode_ordinary(text))


def as_bytes(merges):
    return [(first.encode(), second.encode()) for first, second in merges]


def test_tables_that_are_accepted_are_applied_as_by_hugging_face_and_the_others_are_not():
    seen = Counter()

    @given(PLACES, st.randoms(use_true_random=False), TEXTS)
    @settings(max_examples=1500, deadline=None, derandomize=True)
    def check(places, order, texts):
        merges = table(places, order)
        results = ["".join(pair) for pair in merges]
        theirs = hugging_face(merges)
        try:
            ours = tiktokens(ranks_of_merges(as_bytes(merges)))
        except ValueError as error:
            seen["refused"] += 1
            if str(error).startswith("two merges result in"):
                seen["made twice"] += 1
                assert len(set(results)) < len(results)
            else:  # the example in the sentence is what Hugging Face does
                token, parts = re.search(r"the text ('\w+') becomes (.+), but tiktoken", str(error)).groups()
                assert theirs(literal_eval(token)) == [literal_eval("b" + part) for part in parts.split(" + ")]
                assert literal_eval(token) in results
            return
        seen["accepted"] += 1
        seen["accepted in an unusual order"] += any(result in "".join(merges[0]) for result in results[1:])
        for text in [*texts, *results, *(a + b for a, b in pairwise(results)), "".join(results) * 20]:
            assert ours(text) == theirs(text)

    check()
    assert min(seen.values()) > 10, seen
    assert len(seen) == 4


def test_every_merge_of_an_accepted_table_is_used_and_recovered():
    @given(PLACES, st.randoms(use_true_random=False))
    @settings(max_examples=500, deadline=None, derandomize=True)
    def check(places, order):
        merges = as_bytes(table(places, order))
        try:
            ranks = ranks_of_merges(merges)
        except ValueError:
            return
        assert merges_of_ranks(ranks) == merges

    check()


def test_two_merges_with_the_same_result_are_refused():
    # The second is never used: a and b are merged before b and c can be.
    with pytest.raises(ValueError, match=r"two merges result in 'abc', the second is 'a' \+ 'bc'"):
        ranks_of_merges([(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"a", b"bc")])


def test_a_merge_that_is_never_used_is_refused():
    # The word "abc" is a token, but a and b are merged before b and c can be.
    with pytest.raises(ValueError, match=r"merge 'a' \+ 'bc' is never used: the text 'abc' becomes 'ab' \+ 'c', but"):
        ranks_of_merges([(b"a", b"b"), (b"b", b"c"), (b"a", b"bc")])
    with pytest.raises(ValueError, match=r"'ab' \+ 'cd' is never used: the text 'abcd' becomes 'a' \+ 'b' \+ 'cd'"):
        ranks_of_merges([(b"ab", b"cd"), (b"c", b"d")])


def test_an_unusual_order_of_merges_is_preserved():
    merges = [(b"ab", b"c"), (b"a", b"b"), (b"c", b"c")]
    ranks = ranks_of_merges(merges)
    assert sorted(ranks, key=ranks.get)[256:] == [b"abc", b"ab", b"cc"]
    assert tiktokens(ranks)("abcc") == [b"abc", b"c"]
    assert merges_of_ranks(ranks) == merges


def test_single_bytes_are_ranked_in_the_given_order():
    ranks = ranks_of_merges([(b"a", b"b")], SINGLE_BYTES[::-1])
    assert [ranks[b"\xff"], ranks[b"\x00"], ranks[b"ab"]] == [0, 255, 256]


def test_trained_merges_are_accepted():
    ranks = train_ranks(["the film was good, the film was very good; a café, naïve 映画 aaaaaaa"] * 3, 340)
    merges = merges_of_ranks(ranks)
    assert len(merges) == len(ranks) - 256
    assert ranks_of_merges(merges) == ranks


def test_a_token_that_no_merge_results_in_is_refused():
    ranks = {token: rank for rank, token in enumerate([*SINGLE_BYTES, b"ab", b"abcd"])}
    assert last_parts(b"abcd", ranks) == [b"ab", b"c", b"d"]
    with pytest.raises(
        ValueError, match=r"no merge results in the token 'abcd': the others make it 'ab' \+ 'c' \+ 'd'"
    ):
        merges_of_ranks(ranks)
