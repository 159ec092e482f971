"""Charts that fail are one warning, and what a trial run left behind is gone."""

import pytest

from lightning_interp import NetworkDissection
from tests.helpers.lightning import loader, make_module, make_trainer
from tests.helpers.probes import RandomProbe
from tests.helpers.quiet import LIGHTNING_NOISE

pytestmark = [*map(pytest.mark.filterwarnings, LIGHTNING_NOISE)]


class Broken(NetworkDissection):
    def charts(self, result):
        raise RuntimeError("no charts")


def test_failing_charts_do_not_end_the_training(tmp_path):
    callback = Broken(RandomProbe(6), ["features.4"], batch_size=3)
    trainer = make_trainer(tmp_path, callbacks=[callback], max_epochs=1)
    with pytest.warns(UserWarning, match="dissect: could not write figures: RuntimeError: no charts"):
        trainer.fit(make_module(), loader(), loader(shuffle=False))
    assert "dissect/features.4/detectors" in trainer.callback_metrics


def test_the_limit_of_a_trial_run_goes_with_it(tmp_path):
    callback = NetworkDissection(RandomProbe(6), ["features.4"], batch_size=3)
    make_trainer(tmp_path, callbacks=[callback], fast_dev_run=True).fit(make_module(), loader(), loader(shuffle=False))
    assert callback.result.num_images == 3
    assert callback.engine.limit is None
