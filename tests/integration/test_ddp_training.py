"""Training on two processes: bit-identical with the callback, equal scores, and every fault told to all."""

import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lightning_interp import DatasetError, NetworkDissection, dissect, load_result
from tests.helpers import ddp_script
from tests.helpers.harmless import differences, digest, fit, make_dissection
from tests.helpers.lightning import make_module
from tests.helpers.probes import RandomProbe
from tests.helpers.quiet import LIGHTNING_NOISE
from tests.helpers.ranks import run_ranks, values
from tests.helpers.results import assert_same_counts

pytestmark = [pytest.mark.ddp, pytest.mark.timeout(120), *map(pytest.mark.filterwarnings, LIGHTNING_NOISE)]

TWO = {"strategy": "ddp", "devices": 2}
DEFINITION = {"batch_size": 6, "quantile": 0.05, "top_k": 2}


def train(rank, world, folder, images, options):
    """Train on this rank; what happened, and what was found if there was a probe."""
    dissection = make_dissection(images=images) if images else None
    trace, module, trainer = fit(folder, [dissection] if dissection else [], **TWO, **options)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return trace, module.state_dict(), dissection and dissection.result, scores


@pytest.mark.parametrize("options", [{}, {"workers": 1}, {"limit_val_batches": 0}], ids=str)
def test_training_is_bit_identical_and_scores_are_those_of_one_process(tmp_path, options):
    without = values(run_ranks(train, 2, tmp_path / "1", 0, options, timeout=50))
    # 13 images: 7 and 6.
    with_it = values(run_ranks(train, 2, tmp_path / "2", 13, options, timeout=50))
    for rank in range(2):
        assert not differences(without[rank][0], with_it[rank][0])
    assert digest(without[0][1]) == digest(with_it[0][1])
    # The ranks see different batches, so that equal traces would mean that nothing was distributed.
    assert differences(with_it[0][0], with_it[1][0])
    assert_same_counts(with_it[0][2], with_it[1][2])
    # Without validation, the other rank's batch statistics are not what a checkpoint would hold.
    module = make_module()
    module.load_state_dict(with_it[0][1])
    alone = dissect(module, RandomProbe(13), ["features.4"], **DEFINITION)
    assert_same_counts(with_it[0][2], alone)
    expected = {f"dissect/{name}": value for name, value in alone.scalars().items() if name != "seconds"}
    for _, _, _, scores in with_it:
        assert {name: scores[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    # The slower process may take longer, but one number is logged.
    assert with_it[0][3]["dissect/seconds"] == with_it[1][3]["dissect/seconds"]


def test_one_image_for_two_processes(tmp_path):
    one, other = values(run_ranks(train, 2, tmp_path, 1, {}, timeout=50))
    assert one[2].num_images == 1
    assert_same_counts(one[2], other[2])


class Corrupt(RandomProbe):
    def image(self, index):
        if index == 5:
            raise DatasetError("photo_5.jpg: cannot be decoded")
        return super().image(index)


class Stopping(RandomProbe):
    def image(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().image(index)


def train_on(rank, world, folder, probe, timeout):
    fit(folder, [NetworkDissection(probe, ["features.4"], batch_size=6, timeout=timeout)], **TWO)


def test_corrupt_image_of_one_process_is_told_by_all(tmp_path):
    outcomes = run_ranks(train_on, 2, tmp_path, Corrupt(14), 20.0, timeout=50)
    assert {outcome.error for outcome in outcomes} == {
        "ProbeError: the probe failed; rank 1: DatasetError: photo_5.jpg: cannot be decoded"
    }
    assert max(outcome.seconds for outcome in outcomes) < 10


def test_stopped_process_is_named(tmp_path):
    outcomes = run_ranks(train_on, 2, tmp_path, Stopping(14), 3.0, timeout=50, stragglers=[1])
    assert "Rank 1 failed to pass monitoredBarrier" in outcomes[0].error
    assert outcomes[0].seconds < 12
    assert outcomes[1].value is outcomes[1].error is None


def train_with_broken_output(rank, world, folder, what):
    """Train with TensorBoard while one thing that only rank zero does always fails; the warnings of it."""
    from pytorch_lightning.loggers import TensorBoardLogger

    import lightning_interp.methods.dissection.callback as module

    def no_ink(*args):
        raise RuntimeError("no ink")

    if what == "figure":
        module.detector_bars = no_ink
    elif rank == 0:
        folder.mkdir()
        (folder / "interp").write_text("in the way")
    dissection = make_dissection(report=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logger = TensorBoardLogger(folder, name="", version="")
        _, _, trainer = fit(folder, [dissection], logger=logger, **TWO)
    own = [str(warning.message) for warning in caught if str(warning.message).startswith("dissect: could not write")]
    return own, trainer.current_epoch, [entry["epoch"] for entry in dissection.history]


@pytest.mark.parametrize(("what", "text"), [("figure", "RuntimeError: no ink"), ("files", "Error: ")])
def test_output_that_fails_on_rank_zero_is_one_warning(tmp_path, what, text):
    (told, *first), (untold, *second) = values(
        run_ranks(train_with_broken_output, 2, tmp_path / "logs", what, timeout=80)
    )
    assert len(told) == 1
    assert told[0].startswith(f"dissect: could not write {what}: ")
    assert text in told[0]
    assert untold == []
    assert first == second == [2, [-1, 0, 1]]


# --- By Lightning's launcher, as a user starts it --------------------------------------------------------------------


class Script:
    """A run of the script; with its processes gone at the end of the ``with`` block."""

    def __init__(self, folder, fault):
        self.folder = folder
        command = [sys.executable, "-m", "tests.helpers.ddp_script", str(folder), fault]
        root = Path(__file__).parents[2]
        variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
        self.output = open(folder / "output.txt", "a+")  # noqa: SIM115 - closed below
        self.process = subprocess.Popen(
            command, cwd=root, env=variables, stdout=self.output, stderr=self.output, start_new_session=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.output.close()

    def wait(self, seconds=60):
        """The exit code and all that was printed; no process is left soon after."""
        code = self.process.wait(seconds)
        deadline = time.monotonic() + 15
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not self.alive()
        self.output.seek(0)
        return code, self.output.read()

    def alive(self):
        found = []
        for process in psutil.process_iter():
            try:
                if os.getpgid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return found

    def reads(self, rank):
        """When each image was read, on that process."""
        log = self.folder / f"reads_{rank}.txt"
        return [float(line.split()[0]) for line in log.read_text().splitlines()] if log.exists() else []

    def wait_for_reads(self, count, seconds=60):
        deadline = time.monotonic() + seconds
        while min(len(self.reads(0)), len(self.reads(1))) < count:
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.02)


def folders(path):
    return sorted(entry.name for entry in path.glob("interp/dissect/*"))


def test_failing_probe_ends_the_run_with_an_exit_code(tmp_path):
    with Script(tmp_path, "corrupt") as script:
        code, output = script.wait()
    assert code == 1
    assert output.count("ProbeError: the probe failed; rank 1: DatasetError: photo_5.jpg: cannot be decoded") >= 1
    assert not (tmp_path / "interp").exists()


# Lightning's note at a resume.
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_killed_process_ends_the_run_and_it_can_be_resumed(tmp_path):
    with Script(tmp_path, "die in epoch 1") as script:
        code, output = script.wait()
    assert code != 0
    assert folders(tmp_path) == ["epoch_0000"], output
    assert load_result(tmp_path / "interp" / "dissect" / "epoch_0000").num_images == ddp_script.IMAGES
    assert not list(tmp_path.rglob("*.tmp"))
    # By one process this time, which is quicker to start and makes no difference.
    assert ddp_script.main(tmp_path, "none", tmp_path / "checkpoints" / "last.ckpt", devices=1) == [0, 1, 2]
    epochs = [f"epoch_000{epoch}" for epoch in range(3)]
    assert folders(tmp_path) == [*epochs, "report.html", "report_images"]
    assert [load_result(tmp_path / "interp" / "dissect" / epoch).meta["epoch"] for epoch in epochs] == [0, 1, 2]


def test_termination_stops_the_probe_within_a_batch_on_all_processes(tmp_path):
    """Of 200 images a process, at 0.05 s each, only those of the batch under way are still read."""
    with Script(tmp_path, "slow") as script:
        script.wait_for_reads(10)
        told = time.time()
        os.kill(script.process.pid, signal.SIGTERM)
        # Lightning's own way out of a SIGTERM has exit code 0.
        script.wait()
    for rank in range(2):
        late = [when for when in script.reads(rank) if when > told]
        # A batch has two images; another one may begin before the signal has gone round.
        assert len(late) <= 4
    assert not (tmp_path / "interp").exists()
    assert not (tmp_path / "finished").exists()
