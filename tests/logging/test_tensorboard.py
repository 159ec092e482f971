"""A logger whose event file fails."""

import warnings

import pytest
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_interp.logging.tensorboard import outlive


def log_and_close(logger):
    """Every call of a training's rest."""
    for step in range(50):
        logger.log_metrics({"after": 1.0}, step=step)
        outlive(logger)
    logger.experiment.flush()
    logger.finalize("success")


def fail(logger):
    """End the writer thread as a full disk does."""

    def full(data):
        raise OSError("disk full")

    logger.experiment.file_writer.event_writer._async_writer._writer.write = full


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_failing_file_is_one_warning_for_every_call_that_follows(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="tb", version=0)
    outlive(logger)
    logger.log_metrics({"before": 1.0}, step=0)
    logger.experiment.flush()
    fail(logger)
    with pytest.warns(UserWarning, match=r"tb/version_0 could not be written: OSError: disk full\. .* once") as said:
        log_and_close(logger)
    assert len(said) == 1
    events = EventAccumulator(str(tmp_path / "tb" / "version_0")).Reload()
    assert events.Tags()["scalars"] == ["before"]


def test_sound_file_has_everything_and_nothing_is_said(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="tb", version=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(20):
            outlive(logger)
            logger.log_metrics({"loss": 1.0}, step=step)
        logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tb" / "version_0")).Reload()
    assert len(events.Scalars("loss")) == 20


def test_file_that_cannot_be_opened_is_left_to_lightning(tmp_path):
    (tmp_path / "tb").write_text("in the way")
    logger = TensorBoardLogger(tmp_path, name="tb", version=0)
    outlive(logger)
    with pytest.raises(OSError, match="tb"):
        _ = logger.experiment


def test_other_loggers_are_left_alone(tmp_path):
    logger = CSVLogger(tmp_path)
    outlive(logger)
    assert not list(tmp_path.iterdir())
