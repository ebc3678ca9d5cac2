"""The bundled corpus: film reviews from a small grammar, ranked by simulated annotators (data/README.md).

`gold_score` is the simulated human: it labels the comparisons and judges the policy's responses in evaluations, and
nothing is ever trained on it. `is_grammatical` and `split_sentences` measure how well formed responses are, and
`bayes_accuracy` is the best accuracy that a reward model can expect on the noisy labels.

`python -m minippo.reviews` generates the corpus (`build.py`, `writer.py`). Training only reads the files in `data/` and
never imports the generator.
"""

from minippo.reviews.annotators import BayesAccuracy, bayes_accuracy
from minippo.reviews.gold import gold_score
from minippo.reviews.grammar import is_grammatical, split_sentences

__all__ = ["BayesAccuracy", "bayes_accuracy", "gold_score", "is_grammatical", "split_sentences"]
