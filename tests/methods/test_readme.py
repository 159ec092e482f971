"""The example of how to add a method works as it stands."""

import re
from pathlib import Path

import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger

import lightning_interp
from tests.helpers.lightning import loader, make_module, make_trainer
from tests.helpers.probes import RandomProbe
from tests.helpers.quiet import LIGHTNING_NOISE

pytestmark = [*map(pytest.mark.filterwarnings, LIGHTNING_NOISE)]
PAGE = Path(lightning_interp.__file__).parent / "methods" / "README.md"


def test_the_example_measures_trains_and_is_read_again(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    names = {"__name__": "the_example"}
    exec(block, names)
    callback = names["BorderPeaks"](RandomProbe(9), ["features.4"], batch_size=4)
    trainer = make_trainer(tmp_path, callbacks=[callback], logger=TensorBoardLogger(tmp_path, name=None, version=""))
    trainer.fit(make_module(), loader(), loader(shuffle=False))
    share = callback.result["features.4"].share
    assert ((share >= 0) & (share <= 1)).all()
    assert {"border/features.4/border_share", "border/features.4/border_share_by_chance"} <= set(
        trainer.callback_metrics
    )
    again = lightning_interp.load(tmp_path / "interp" / "border" / "epoch_0001")
    assert torch.equal(again["features.4"].share, share)
