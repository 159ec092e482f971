"""A decoder's file: the same decoder again, or a clear error."""

import pytest
import torch
from torch import nn

from lightning_interp import DatasetError
from lightning_interp.methods.graph.decoder_files import load_decoder, save_decoder
from lightning_interp.methods.graph.up_convolution import UpConvolution
from lightning_interp.results.files import write_safetensors


def test_a_saved_decoder_draws_the_same(tmp_path):
    decoder = UpConvolution(torch.rand(3) + 1, torch.rand(3, 12, 20), 2, width=8)
    nn.init.normal_(decoder.output.weight)
    save_decoder(decoder, tmp_path / "deep" / "decoder.safetensors")
    maps = torch.rand(2, 3, 3, 5)
    assert torch.equal(load_decoder(tmp_path / "deep" / "decoder.safetensors")(maps), decoder(maps))


@pytest.mark.parametrize("kind", ["absent", "foreign", "cut", "folder"])
def test_files_that_hold_no_decoder_are_refused(kind, tmp_path):
    path = tmp_path / "decoder.safetensors"
    if kind == "foreign":
        write_safetensors(path, {"weight": torch.ones(2).numpy()})
    elif kind == "cut":
        save_decoder(UpConvolution(torch.ones(2), torch.zeros(3, 8, 8), 1), path)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(DatasetError, match=r"decoder\.safetensors"):
        load_decoder(path)
