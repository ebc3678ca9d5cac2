"""Weight files from strangers do no harm, and what cannot be loaded is said in one sentence."""

import resource
import time

import pytest
import torch
from weights.hostile_files import FILES

from minippo.model import GPT, GPTConfig
from minippo.weights import load_pretrained, save_pretrained


def refusal(load, *arguments):
    """The sentence with which `load` refuses its input, in less than a second and 200 MB."""
    start, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ValueError, OSError)) as error:
        load(*arguments)
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # KiB
    sentence = str(error.value)
    assert "\n" not in sentence
    assert len(sentence) < 700
    return sentence


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused_in_one_sentence(tmp_path, name, capfd):
    torch.manual_seed(0)
    folder = tmp_path / "model"
    save_pretrained(GPT(GPTConfig(29, 12, layers=2, heads=2, channels=16)), folder)
    FILES[name](folder)
    sentence = refusal(load_pretrained, folder)
    assert str(folder) in sentence
    assert not set("\x1b\0") & {*sentence}
    assert "secret" not in sentence
    assert capfd.readouterr().out == ""
