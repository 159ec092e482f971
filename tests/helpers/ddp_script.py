"""A training as users start it, on two processes by Lightning's own launcher: ``python -m``."""

import os
import signal
import sys
import time
from pathlib import Path

from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_interp import DatasetError, Every, NetworkDissection
from tests.helpers.lightning import loader, make_module, make_trainer
from tests.helpers.probes import RandomProbe

IMAGES = 12


class Watched(RandomProbe):
    """Notes when each image is read, by process; at image 5, so on rank 1, it may do something drastic."""

    def __init__(self, folder, fault):
        super().__init__(400 if fault == "slow" else IMAGES)
        self.log = folder / f"reads_{os.environ.get('LOCAL_RANK', '0')}.txt"
        self.fault, self.reads = fault, 0

    def image(self, index):
        with self.log.open("a") as log:
            log.write(f"{time.time()} {index}\n")
        if self.fault == "slow":
            time.sleep(0.05)
        if index == 5:
            self.reads += 1
            if self.fault == "corrupt":
                raise DatasetError("photo_5.jpg: cannot be decoded")
            if self.fault == "die in epoch 1" and self.reads == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().image(index)


def main(folder, fault, checkpoint=None, devices=2):
    dissection = NetworkDissection(
        Watched(folder, fault),
        ["features.4"],
        batch_size=2,
        quantile=0.05,
        schedule=Every(at_start=fault in ("slow", "corrupt")),
        timeout=20.0,
    )
    saving = ModelCheckpoint(dirpath=folder / "checkpoints", save_last=True)
    options = {
        "strategy": "ddp" if devices > 1 else "auto",
        "devices": devices,
        "enable_checkpointing": True,
        "num_sanity_val_steps": 0,
    }
    trainer = make_trainer(folder, callbacks=[dissection, saving], max_epochs=3, **options)
    trainer.fit(make_module(), loader(), loader(shuffle=False), ckpt_path=checkpoint)
    (folder / "finished").touch()
    return [entry["epoch"] for entry in dissection.history]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
