"""Weight files from strangers do no harm, and what cannot be loaded is said in one sentence."""

import pytest
import torch

from minippo.model import GPT, GPTConfig
from minippo.weights import load_pretrained, save_pretrained
from tests.hostile import refusal
from tests.weights.hostile_files import FILES


@pytest.mark.filterwarnings("ignore:.*(Sparse CSR|quantize_per|nested tensors)")
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
