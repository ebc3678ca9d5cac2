"""Layouts of published data: each becomes the texts that docs/data.md promises, or says what it leaves out."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minippo.config import DataConfig
from minippo.data import Comparison, Demonstration
from minippo.data.conversations import shown as shown_value
from minippo.data.formats import UnusableError
from minippo.data.layouts import LAYOUTS, recognise
from minippo.data.own import OwnData
from minippo.data.unread import UnreadColumns
from minippo.splits import SPLITS
from minippo.storage import REPOSITORY

PAIR = {"chosen": " a", "rejected": " b"}
PAGE = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")


def read(tmp_path: Path, rows: list[dict], kind: str = "preferences", **changes) -> OwnData:
    path = tmp_path / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return OwnData(DataConfig(source="files", **{kind: str(path)} | changes), 1)


def items(corpus: OwnData, kind: str) -> list:
    method = {"preferences": corpus.comparisons, "demonstrations": corpus.demonstrations, "prompts": corpus.prompts}
    return [item for split in SPLITS for item in method[kind](split)]


def shown(kind: str) -> list[list[dict]]:
    """The rows that the page shows for a kind, one list per layout."""
    section = PAGE.split(f"\n## {kind.capitalize()}\n")[1].split("\n## ")[0]
    return [
        [json.loads(line) for line in text.splitlines()] for text in re.findall("```text\n(.*?)```", section, re.DOTALL)
    ]


def human(question: str) -> str:
    return f"\n\nHuman: {question}\n\nAssistant:"


SHOWN = [(kind, number) for kind in LAYOUTS for number in range(len(shown(kind)))]
ASKED = {"How was it?", "Who plays?", "Is it long?"}
FIRST = {
    ("preferences", 0): Comparison("The film", (" was fine.", " was poor.")),
    ("preferences", 1): Comparison(
        "\n\nSystem: Be brief." + human("How was it?"), (" Fine.", " I do not want to talk about it.")
    ),
    ("preferences", 2): Comparison(human("How was it?"), (" Fine.", " No idea.")),
    ("preferences", 3): Comparison(human("How was it?"), (" Fine.", " No idea.")),
    ("preferences", 4): Comparison("The film", (" was great.", " was fine.", " was poor.")),
    ("preferences", 5): Comparison("The film", (" was great.", " was fine.", " was poor.")),
    ("preferences", 6): Comparison("Human: How was it? Assistant:", (" Fine.", " No idea.")),
    ("preferences", 7): Comparison(human("How was the film?"), (" Fine.", " No idea.")),
    ("preferences", 8): Comparison(
        "SUBREDDIT: r/films\n\nTITLE: Last night\n\nPOST: I saw a film.\n\nTL;DR:", (" Saw a film.", " Night.")
    ),
    ("preferences", 9): None,  # paired at random
    ("preferences", 10): None,
    ("demonstrations", 0): Demonstration("The film", " was fine."),
    ("demonstrations", 1): Demonstration(human("Translate to French.\n\nGood morning"), " Bonjour"),
    ("demonstrations", 2): Demonstration("\n\nSystem: Be brief." + human("Who plays?"), " Ann."),
    ("demonstrations", 3): Demonstration(human("How was it?"), " Fine."),
    ("demonstrations", 4): Demonstration("", "The film was fine."),
    ("prompts", 0): "The film",
    ("prompts", 1): human("How was it?"),
    ("prompts", 2): human("Who plays?"),
    ("prompts", 3): "The film",
}


@pytest.mark.parametrize(("kind", "number"), SHOWN)
def test_rows_of_the_page_are_read_as_they_are(tmp_path, kind, number):
    rows = shown(kind)[number]
    others = tmp_path / "others.jsonl"
    others.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("So?", "And?", "Then?")))
    changes = {"prompts": str(others)} if kind == "demonstrations" else {}
    corpus = read(tmp_path, rows, kind, **changes)
    found = items(corpus, kind)
    assert len(found) == (3 if len(rows) == 6 else len(rows)) >= 3
    expected = FIRST[kind, number]
    assert expected is None or expected in found
    counts = corpus.report[f"{kind}, train"]
    assert set(counts) <= {"rows read", "values of column 'id' not read", "completions left out: same score as another"}


def test_the_page_shows_every_layout():
    assert set(SHOWN) == set(FIRST)
    for kind, layouts in LAYOUTS.items():
        used = {recognise(kind, list(rows[0])).columns for rows in shown(kind)}
        assert used == set(layouts)


@pytest.mark.parametrize("column", ["question", "query", "instruction", "input"])
def test_a_question_next_to_the_answers_is_the_prompt(tmp_path, column):
    rows = [{column: f"What of {i}?", "chosen": f"Good {i}.", "rejected": f"Bad {i}."} for i in range(9)]
    found = items(read(tmp_path, rows), "preferences")
    assert set(found) == {Comparison(human(f"What of {i}?"), (f" Good {i}.", f" Bad {i}.")) for i in range(9)}


texts = st.sampled_from(["Fine.", "A long answer,\nin two lines."])


@given(st.data())
def test_any_mixture_of_texts_and_turns_is_the_same_conversation(data):
    """The oracle writes the template by hand; a text stands for the turn of whoever speaks at its place."""
    question, good, bad = "What of it?", data.draw(texts), "No."

    def form(text: str) -> object:
        turn = {"role": "assistant", "content": text}
        whole = [{"role": "user", "content": question}, turn]
        sharegpt = {"from": "gpt", "value": text}
        transcript = f"\n\nHuman: {question}\n\nAssistant: {text}"
        return data.draw(st.sampled_from([text, turn, [turn], whole, sharegpt, transcript]))

    asked = data.draw(st.sampled_from([{"prompt": [{"role": "user", "content": question}]}, {"question": question}]))
    row = {**asked, "chosen": form(good), "rejected": form(bad)}
    example = recognise("preferences", list(row)).example(row)
    assert (example.prompt, example.completions) == (human(question), (f" {good}", f" {bad}"))


@pytest.mark.parametrize(
    ("prompt", "chosen", "counted"),
    [("Why?", "So.", 1), ("Why?", " So.", 0), ("Why? ", "So.", 0), ("Why", ", so", 0), ("", "So.", 0)],
)
def test_answers_that_touch_the_last_word_of_their_prompt_are_counted(tmp_path, prompt, chosen, counted):
    rows = [{"prompt": f"P{i}", **PAIR} for i in range(40)]
    rows += [{"prompt": prompt, "chosen": chosen, "rejected": " No."}] * 2
    counts = read(tmp_path, rows).report["preferences, train"]
    assert counts.get("joined to their prompt without a space", 0) == 2 * counted


def test_turns_that_conversations_lack_come_before_them():
    conversation = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    other = [conversation[0], {"role": "assistant", "content": "B"}]
    for before in (
        {"prompt": [{"role": "system", "content": "Be kind."}]},
        {"system": "Be kind.", "question": "Q"},
        {"system_prompt": "Be kind.", "prompt": "Q"},
    ):
        row = {**before, "chosen": conversation, "rejected": other}
        example = recognise("preferences", list(row)).example(row)
        assert (example.prompt, example.completions) == ("\n\nSystem: Be kind." + human("Q"), (" A", " B"))


def test_only_whole_turns_of_a_conversation_repeat_the_prompt():
    """A system's turn may be a part of another turn, and a prompt may be a transcript."""
    conversation = [{"role": "user", "content": "Please be brief."}, {"role": "assistant", "content": "A"}]
    other = [conversation[0], {"role": "assistant", "content": "B"}]
    row = {"system": "be brief", "question": "Please be brief.", "chosen": conversation, "rejected": other}
    example = recognise("preferences", list(row)).example(row)
    assert example.prompt == "\n\nSystem: be brief" + human("Please be brief.")
    row = {"prompt": human("Please be brief."), "chosen": conversation, "rejected": other}
    assert recognise("preferences", list(row)).example(row).prompt == human("Please be brief.")


@pytest.mark.parametrize(
    "history",
    [
        [["Hi.", "Yes?"]],
        [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}],
        "\n\nHuman: Hi.\n\nAssistant: Yes?",
    ],
)
def test_history_comes_before_the_question(history):
    row = {"history": history, "instruction": "Bye.", "output": "See you."}
    example = recognise("demonstrations", list(row)).example(row)
    assert example.prompt == "\n\nHuman: Hi.\n\nAssistant: Yes?" + human("Bye.")


def test_other_roles_and_parts_of_a_content_are_kept_as_text():
    row = {
        "messages": [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two?"}]},
            {"role": "tool", "content": "3"},
            {"role": "ipython", "content": "4"},
            {"role": "assistant", "content": "Three."},
        ]
    }
    example = recognise("demonstrations", list(row)).example(row)
    assert example.prompt == ("\n\nDeveloper: Be kind.\n\nHuman: One\n\ntwo?\n\nTool: 3\n\nIpython: 4\n\nAssistant:")


def test_conversations_without_an_answer_or_text_are_counted(tmp_path):
    rows = [{"conversations": [{"from": "human", "value": f"Q{i}"}, {"from": "gpt", "value": "A"}]} for i in range(9)]
    rows += [{"conversations": []}, {"conversations": [{"from": "human", "value": "Q"}]}]
    rows += [{"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": None}]}]
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "sum"}]}
    rows += [{"conversations": [call, {"role": "tool", "content": "3"}, {"role": "assistant", "content": "Three."}]}]
    report = read(tmp_path, rows, "demonstrations").report["demonstrations, train"]
    assert report.items() >= {"dropped: no answer at the end": 2, "dropped: a turn without text": 2}.items()


def test_tied_completions_of_a_ranking_are_counted(tmp_path):
    rows = [{"prompt": f"P{i}", "responses": [" a", " b", " c"], "scores": [1, 2, 1]} for i in range(5)]
    rows += [{"prompt": "P", "responses": [" a", " b"], "scores": [1, 1]}]
    corpus = read(tmp_path, rows)
    assert set(items(corpus, "preferences")) == {Comparison(f"P{i}", (" b", " a")) for i in range(5)}
    assert corpus.report["preferences, train"] == {
        "rows read": 6,
        "completions left out: same score as another": 5,
        "dropped: all scores are equal": 1,
    }
    with pytest.raises(ValueError, match="line 1: column 'completions' holds 2 texts, expected as many numbers as"):
        read(tmp_path, [{"prompt": "P", "responses": [" a", " b"], "scores": [1, float("nan")]}])


def test_answers_with_labels_are_paired_within_their_prompt_first(tmp_path):
    rows = [{"prompt": f"P{i % 10}", "completion": f" {i}", "label": i < 10} for i in range(20)]
    rows += [{"prompt": f"Q{i}", "completion": f" {i}", "label": i % 2 == 0} for i in range(20)]
    corpus = read(tmp_path, rows)
    found = corpus.comparisons("train")
    assert found.whole  # too long ones are dropped and counted, as they are not excerpts
    both = {row["prompt"] for row in rows[:20]} & {c.prompt for c in found}
    assert len(both) >= 8
    for comparison in found:
        good, bad = (int(text.split(" ")[-1]) for text in comparison.ranked)
        if comparison.prompt:
            assert bad == good + 10
        else:
            assert comparison.ranked[0].startswith(("P", "Q"))
    assert set(found) != set(corpus.comparisons("train", epoch=1))
    assert set(items(corpus, "prompts")) == {f"P{i}" for i in range(10)} | {f"Q{i}" for i in range(20)}


KNOWN = sorted({"history", "scores"}.union(*(columns for layouts in LAYOUTS.values() for columns in layouts)))
LEAVES = st.sampled_from([None, True, 1, -1, 10**400, 0.5, float("nan"), "", "a", "\n\nHuman: a\n\nAssistant: b"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.fixed_dictionaries({"role": inner, "content": inner})
        | st.fixed_dictionaries({"from": LEAVES, "value": inner})
        | st.dictionaries(st.sampled_from(["text", "answer", "rank", "score", "post"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from([(kind, columns) for kind, layouts in LAYOUTS.items() for columns in layouts]), st.data())
@settings(max_examples=300)
def test_any_json_is_an_example_or_unusable_or_a_value_error(layout, data):
    kind, columns = layout
    row = {name: data.draw(VALUES) for name in {*columns, *data.draw(st.lists(st.sampled_from(KNOWN), max_size=2))}}
    try:
        example = recognise(kind, list(row)).example(row)
    except (UnusableError, ValueError):
        return
    assert all(isinstance(text, str) for text in (example.prompt, *example.completions))
    UnreadColumns(kind, frozenset(columns)).add("somewhere", row, example)


# ---------------------------------------------------------------------------------------------- types of files

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufffd\ufeff"), max_size=20)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=4), st.sampled_from([",", "\t"]), st.booleans())
def test_csv_files_are_read_as_they_were_written(tmp_path_factory, rows, delimiter, compressed):
    from minippo.data.tables import file_source

    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("prompt", "chosen", "rejected"), *rows])
    content = b"\xef\xbb\xbf" + text.getvalue().encode()
    path = tmp_path_factory.mktemp("csv") / f"t.{'csv' if delimiter == ',' else 'tsv'}{'.gz' if compressed else ''}"
    path.write_bytes(gzip.compress(content) if compressed else content)
    source = file_source(path, "data.preferences")
    assert source.columns() == ["prompt", "chosen", "rejected"]
    assert [tuple(row.values()) for _, row in source.rows()] == rows


@pytest.mark.parametrize("written", [json.dumps, repr])
def test_conversations_in_a_csv_file_are_read_as_such(tmp_path, written):
    with (tmp_path / "p.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["messages"])
        for i in range(9):
            turns = [{"role": "user", "content": f"It's {i}?"}, {"role": "assistant", "content": f'"{i}", yes'}]
            rows.writerow([written(turns)])
    corpus = OwnData(DataConfig(source="files", demonstrations=str(tmp_path / "p.csv")), 1)
    found = set(items(corpus, "demonstrations"))
    assert found <= {Demonstration(human(f"It's {i}?"), f' "{i}", yes') for i in range(9)}
    assert len(found) == 7  # two prompts are held out
    (tmp_path / "p.csv").write_text("messages\n\"[{'role': 'user'}\n {'role': 'assistant'}]\"\n")
    with pytest.raises(ValueError, match=r"line 2: column 'messages' holds .*, which begins like a list of turns but"):
        OwnData(DataConfig(source="files", demonstrations=str(tmp_path / "p.csv")), 1)


@pytest.mark.parametrize("name", ["p.json", "p.json.gz", "p.jsonl"])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_of_objects_is_read_as_rows(tmp_path, name, indent):
    rows = [{"prompt": f"Pé{i}" + "é" * i, "chosen": " a", "rejected": " b"} for i in range(99)]
    content = b"\xef\xbb\xbf\n" + json.dumps(rows, indent=indent, ensure_ascii=False).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    corpus = OwnData(DataConfig(source="files", preferences=str(tmp_path / name)), 1)
    assert {c.prompt for c in items(corpus, "preferences")} == {row["prompt"] for row in rows}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("p.csv", "prompt,chosen,rejected\nP, a\n", "line 2: 2 fields, expected 3 (prompt, chosen, rejected)"),
        ("p.csv", 'prompt,chosen,rejected\nP," a,b\n', "line 2: unexpected end of data"),
        ("p.csv", 'prompt,chosen,rejected\nP,"a" b, c\n', "line 2: ',' expected after '\"'"),
        ("p.csv", "prompt;chosen;rejected\n", "has the columns prompt;chosen;rejected, but preferences need"),
        ("p.csv", "prompt,chosen,rejected\n", "has no rows"),
        ("p.csv", "prompt,chosen,chosen,rejected\nP,a,b,c\n", "has the column 'chosen' 2 times, expected once"),
        ("p.json", '[{"prompt": "P"}, 3]', "element 2 should be an object, but is 3"),
        ("p.json", '[{"prompt": "P"}', "is not valid JSON: Expecting ',' delimiter: line 1 column 17"),
        ("p.json", "[" * 200_000, "is not valid JSON: maximum recursion depth exceeded"),
        ("p.json", "[]", "has no rows"),
    ],
)
def test_invalid_files_are_refused_with_their_place(tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content)
    kind = "prompts" if '"prompt": "P"}, 3' in content else "preferences"
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        OwnData(DataConfig(source="files", **{kind: str(tmp_path / name)}), 1)
    assert str(tmp_path / name) in str(error.value)


def test_descriptions_of_a_downloaded_dataset_are_no_tables(tmp_path):
    for name in ("dataset_info.json", "dataset_infos.json", "state.json"):
        (tmp_path / name).write_text('{"features": {}}')
    (tmp_path / "train.json").write_text("".join(json.dumps({"prompt": f"P{i}"}) + "\n" for i in range(9)))
    assert len(items(OwnData(DataConfig(source="files", prompts=str(tmp_path)), 1), "prompts")) == 9


# ---------------------------------------------------------------------------------------------- what is not read


def pairs(**columns) -> list[dict]:
    """40 rows; a column is a function of the row's number."""
    return [{"prompt": f"P{i}", **PAIR, **{name: of(i) for name, of in columns.items()}} for i in range(40)]


@pytest.mark.parametrize(
    "text",
    [
        lambda i: f"What of the film {i}?",
        lambda i: f"Film number {i}",
        lambda i: "Say it in a few words.",  # the same everywhere, but a sentence
        lambda i: "What now?",
        lambda i: "今天的电影怎么样呢" if i == 7 else "",
        lambda i: {"user": {"texts": [f"What of the film {i}?"]}},
        lambda i: [{"role": "user", "content": f"What of the film {i}?"}],
        lambda i: None if i < 39 else "Only the last one has a remark.",
    ],
)
def test_text_that_no_layout_reads_is_refused_unless_it_is_ignored(tmp_path, text):
    sentence = r"line \d+: column 'remark' holds .*, but only prompt, chosen, rejected are read: .*--data.ignore remark"
    with pytest.raises(ValueError, match=sentence):
        read(tmp_path, pairs(remark=text))
    corpus = read(tmp_path, pairs(remark=text), ignore="other, remark")
    assert corpus.report["preferences, train"]["values of column 'remark' not read"] == 40
    assert len(items(corpus, "preferences")) == 40


def test_a_text_that_repeats_the_whole_row_is_not_lost(tmp_path):
    """As in Alpaca. A passage that the question is about would be."""
    rows = [{"instruction": f"Name film {i}.", "input": "", "output": f"It is {i}."} for i in range(9)]
    filled = [row | {"text": f"Below is a task.\n{row['instruction']}\n### Response:\n{row['output']}"} for row in rows]
    corpus = read(tmp_path, filled, "demonstrations")
    assert len(items(corpus, "demonstrations")) == 7  # two prompts are held out
    assert corpus.report["demonstrations, train"]["values of column 'text' not read"] == 9
    assert len(items(read(tmp_path, filled, "prompts"), "prompts")) == 9
    passages = [row | {"text": f"It is a passage about film {i}, as it is"} for i, row in enumerate(rows)]
    with pytest.raises(ValueError, match="column 'text' holds 'It is a passage about film 0, as it is' "):
        read(tmp_path, passages, "demonstrations")


def test_a_passage_that_contains_the_question_and_the_answer_is_text(tmp_path):
    def passage(*texts: str) -> str:
        return f"Passage {texts[0]} says: {' or '.join(texts)}, some like it."

    row = {"chosen": "Yes", "rejected": "No"}
    rows = [{"prompt": f"Q{i}", **row, "text": passage(f"Q{i}", "Yes", "No")} for i in range(12)]
    with pytest.raises(ValueError, match="line 1: column 'text' holds 'Passage Q0 says: "):
        read(tmp_path, rows)
    rows = [{"instruction": f"Q{i}", "output": "Yes", "text": passage(f"Q{i}", "Yes", f"{i**5}")} for i in range(12)]
    with pytest.raises(ValueError, match="line 3: column 'text' holds 'Passage Q2 says: "):
        read(tmp_path, rows, "demonstrations")


@pytest.mark.parametrize("column", ["input", "query", "context", "instruction"])
@pytest.mark.parametrize("value", ["dog", "7", "lan", ["dog"]])
def test_one_word_of_a_question_beside_the_prompt_is_text(tmp_path, column, value):
    rows = [{"prompt": f"Translate to language {i}: ", column: value, "completion": "god"} for i in range(12)]
    with pytest.raises(ValueError, match=rf"line 1: column '{column}' holds .*--data.ignore {column}"):
        read(tmp_path, rows, "demonstrations")
    repeated = [row | {"prompt": f"{row['prompt']}dog, 7, lan. "} for row in rows]
    assert len(items(read(tmp_path, repeated, "demonstrations"), "demonstrations")) == 10
    assert len(items(read(tmp_path, [row | {column: ""} for row in rows], "demonstrations"), "demonstrations")) == 10
    assert len(items(read(tmp_path, rows, "demonstrations", ignore=column), "demonstrations")) == 10


def test_all_columns_of_text_are_named_together(tmp_path):
    rows = pairs(first=lambda i: f"What of the film {i}?", id=str, second=lambda i: f"And why not {i}?")
    with pytest.raises(ValueError, match=r"rename 'first' and 'second' .*\(--data.ignore first,second\)"):
        read(tmp_path, rows)


def test_text_inside_the_columns_that_are_read_is_counted(tmp_path):
    rows = []
    for i in range(9):
        answer = {"role": "assistant", "content": f"Yes {i}.", "thinking": "Let me think.", "name": "Ann"}
        call = [{"function": {"name": "sum", "arguments": '{"a": 1, "b": 2}'}}]
        rows.append({"messages": [{"role": "user", "content": f"Is it {i}?"}, answer | {"tool_calls": call}]})
    corpus = read(tmp_path, rows, "demonstrations")
    assert corpus.report["demonstrations, train"] == {
        "rows read": 9,
        "values of column 'messages[].thinking' not read": 9,
        "values of column 'messages[].tool_calls[].function.arguments' not read": 9,
        "left out: prompt held out": 2,
    }
    scored = [
        {"model": "m", "response": f"It is {place}.", "overall_score": place, "critique": "You could say more."}
        for place in range(3)
    ]
    report = read(tmp_path, [{"instruction": f"Q{i}", "completions": scored} for i in range(9)]).report
    counts = {"rows read": 9, "values of column 'completions[].critique' not read": 9}
    assert report["preferences, train"].items() >= counts.items()
    three = [{"text": " Saw a film."}, {"text": " A film."}, {"text": " The third one."}]
    rows = [{"info": {"post": f"I saw film {i}."}, "summaries": three, "choice": 0} for i in range(9)]
    assert read(tmp_path, rows).report["preferences, train"]["values of column 'summaries[].text' not read"] == 9


def test_ids_numbers_and_categories_are_no_text(tmp_path):
    rows = pairs(
        id="id-{}".format,
        url=lambda i: f"https://example.org/?q={i}",
        score=float,
        flag=lambda i: i % 2 == 0,
        date=lambda i: f"2024-01-{i:02} 10:00:00",
        source=lambda i: ["Stack Exchange", "open books"][i % 2],
        prompt=lambda i: f"What of {i}?",
        messages=lambda i: [{"role": "user", "content": f"What of {i}?"}, {"role": "assistant", "content": " a"}],
        nothing=lambda i: None,
    )
    counts = read(tmp_path, rows).report["preferences, train"]
    assert counts == {"rows read": 40} | {
        f"values of column {name!r} not read": 40 for name in ("id", "url", "date", "source")
    }


def test_ignored_columns_are_not_read_even_if_a_layout_would(tmp_path):
    rows = [{"question": f"Q{i}", "system": "Be brief.", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(9)]
    assert {c.prompt for c in items(read(tmp_path, rows, ignore="system"), "preferences")} == {
        human(f"Q{i}") for i in range(9)
    }


def test_answers_in_another_column_are_left_out_only_where_they_are_not_wanted(tmp_path):
    rows = pairs(completion=lambda i: f"It is what it is, {i} times.")
    with pytest.raises(ValueError, match="column 'completion' holds "):
        read(tmp_path, rows)
    assert len(items(read(tmp_path, rows, "prompts"), "prompts")) == 40


def test_prompts_and_demonstrations_may_come_from_a_file_of_preferences(tmp_path):
    rows = [
        {"prompt": f"What of {i}?", "chosen": f" It is {i} of it.", "rejected": " I do not know."} for i in range(9)
    ]
    corpus = read(tmp_path, rows, "prompts")
    assert len(items(corpus, "prompts")) == 9
    assert corpus.report["prompts, train"]["values of column 'rejected' not read"] == 9


def test_long_values_are_shortened_before_they_are_quoted():
    class Last:
        def __repr__(self):
            raise AssertionError("all of it was written")

    assert shown_value([*"abcdefgh", Last()]) == "['a', 'b', 'c', 'd', 'e', 'f', ...] (list)"


def test_turns_before_the_answers_are_read_under_the_name_that_the_message_proposes(tmp_path):
    def rows(column: str) -> list[dict]:
        return [{column: [{"role": "user", "content": f"What of {i}?"}], **PAIR} for i in range(9)]

    with pytest.raises(ValueError, match="rename 'messages' \\(to 'prompt', "):
        read(tmp_path, rows("messages"))
    assert set(items(read(tmp_path, rows("prompt")), "prompts")) == {human(f"What of {i}?") for i in range(9)}


def test_the_index_in_a_csv_file_is_no_text(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(",Unnamed: 0,prompt,chosen,rejected\n" + "".join(f"{i},{i},P{i}, a, b\n" for i in range(9)))
    corpus = OwnData(DataConfig(source="files", preferences=str(path)), 1)
    assert corpus.report["preferences, train"] == {"rows read": 9}


@pytest.mark.parametrize("kind", ["demonstrations", "prompts"])
def test_single_messages_of_trees_are_refused(tmp_path, kind):
    rows = [{"text": f"What of {i}?", "role": "prompter", "parent_id": None} for i in range(9)]
    with pytest.raises(ValueError, match=rf"{kind}.jsonl has single messages of trees .* expected whole conversations"):
        read(tmp_path, rows, kind)


# ---------------------------------------------------------------------------------------------- unusable texts


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("\0", "unreadable characters"),
        (" " * 1_000_000, "more than 100,000 spaces in a row"),
        ("\n" * 100_001 + "x", "more than 100,000 spaces in a row"),
        ("\u00a0" * 100_001 + "x", "more than 100,000 spaces in a row"),
    ],
)
@pytest.mark.parametrize("column", ["prompt", "rejected"])
def test_texts_that_no_tokenizer_can_read_are_counted(tmp_path, tokenizer, bad, problem, column):
    rows = [*pairs(), {"prompt": "P", **PAIR, column: f"so{bad}"}]
    assert read(tmp_path, rows).report["preferences, train"][f"dropped: {problem}"] == 1
    assert tokenizer.encode("x" + " " * 100_000 + "x")


def test_names_of_columns_need_not_be_valid_unicode(tmp_path):
    (tmp_path / "p.jsonl").write_text(
        "".join(f'{{"prompt": "P{i}", "chosen": " a", "rejected": " b", "\\ud83d": "x"}}\n' for i in range(9))
    )
    corpus = OwnData(DataConfig(source="files", preferences=str(tmp_path / "p.jsonl")), 1)
    assert corpus.report["preferences, train"]["values of column '\\\\ud83d' not read"] == 9


# ---------------------------------------------------------------------------------------------- preferences alone


def test_preferred_answers_become_demonstrations_if_there_are_none(tmp_path):
    rows = [{"prompt": f"P{i}", "chosen": f" a{i}", "rejected": f" b{i}"} for i in range(200)]
    corpus = read(tmp_path, rows)
    train = {(c.prompt, c.ranked[0]) for c in corpus.comparisons("train")}
    found = [(d.prompt, d.completion) for d in items(corpus, "demonstrations")]
    assert Counter(found) == Counter(train)  # nothing held out is demonstrated
    name = "preferred completions, because data.demonstrations is empty"
    assert corpus.report["demonstrations"] == {name: len(train)}
    given = read(tmp_path, [{"prompt": f"P{i}", "completion": " c"} for i in range(200)], "demonstrations")
    assert "demonstrations" not in given.report


def test_only_good_answers_become_demonstrations(tmp_path):
    rows = [{"prompt": f"P{i}", "completion": f" {i}", "label": i % 2} for i in range(100)]
    found = items(read(tmp_path, rows), "demonstrations")
    assert found
    assert all(int(d.completion) % 2 == 1 for d in found)
