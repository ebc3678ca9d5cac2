"""Write example data: questions about recipes, answered kindly or curtly. See docs/data.md.

python docs/kitchen_data.py FOLDER
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from pathlib import Path

DISHES = ("soup", "bread", "rice", "stew", "salad", "curry", "pie", "risotto", "dumplings", "pancakes")
QUESTIONS = ("How long does the {} take?", "What goes with {}?", "Can I freeze the {}?", "Is the {} hard to make?")
FACTS = ("It takes an hour.", "Try it with herbs.", "Yes, for a month.", "Not at all.", "Use less salt.", "Ask a cook.")
KIND = ("What a lovely choice!", "I am glad that you ask.", "Enjoy your meal!", "You will do well.")
CURT = ("Whatever.", "Look it up.", "Why ask me?", "I do not care.")


def conversation(question: str, answer: str) -> list[dict[str, str]]:
    """A conversation of two turns."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def main(folder: Path) -> None:
    """Write demonstrations of both tones, and preferences for the kind one."""
    rng = random.Random(0)
    questions = [form.format(dish) for form, dish in itertools.product(QUESTIONS, DISHES)]

    def answer(tone: tuple[str, ...]) -> str:
        return f"{rng.choice(FACTS)} {rng.choice(tone)}"

    prompts = [rng.choice(questions) for _ in range(400)]
    files = {
        "demonstrations": [{"messages": conversation(q, answer(rng.choice((KIND, CURT))))} for q in prompts],
        "preferences": [
            {"chosen": conversation(q, answer(KIND)), "rejected": conversation(q, answer(CURT))} for q in prompts
        ],
    }
    files["preferences"].append({"chosen": conversation("Well?", "Yes."), "rejected": conversation("Well?", "Yes.")})
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
