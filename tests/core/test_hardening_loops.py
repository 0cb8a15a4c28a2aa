"""`px.harden` in the loops of MONAI and Lightning, each installed for the length of a test."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import perturbox as px

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning"),
]


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, *requirements: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*command, "-c", str(ROOT / "constraints.txt"), *requirements], check=False)
    if done.returncode:
        pytest.skip(f"{', '.join(requirements)} could not be installed")
    monkeypatch.syspath_prepend(str(folder))


def batches() -> Any:
    draws = torch.Generator().manual_seed(0)
    made = []
    for _ in range(4):
        image = torch.rand(2, 1, 8, 8, generator=draws)
        made.append({"image": image, "label": (image > 0.5).long()})
    return made


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Conv2d(1, 2, 3, padding=1)


def loss(scores: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(scores, y[:, 0])


def by_hand() -> nn.Module:
    net = network()
    hard, optimiser = px.harden("pgd", loss, eps=0.1), torch.optim.SGD(net.parameters(), 0.5)
    for one in batches():
        optimiser.zero_grad()
        hard(net, one["image"], one["label"]).backward()
        optimiser.step()
    return net


def test_monais_trainer_ends_in_the_weights_of_a_plain_loop(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "pytorch-ignite")
    from monai.engines.trainer import SupervisedTrainer

    net = network()
    hard = px.harden("pgd", loss, eps=0.1)

    def prepare_batch(batch, device=None, non_blocking=False, **_):
        x, y = batch["image"].to(device), batch["label"].to(device)
        return hard.batch(net, x, y), y

    SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=1, train_data_loader=batches(), network=net,
        optimizer=torch.optim.SGD(net.parameters(), 0.5), loss_function=loss, prepare_batch=prepare_batch,
    ).run()  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), by_hand().parameters(), strict=True))


def test_lightnings_trainer_ends_in_the_weights_of_a_plain_loop(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "lightning", "lightning-utilities", "torchmetrics", "fsspec", "aiohttp", "tqdm")
    lightning = importlib.import_module("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network, self.hard = network(), px.harden("pgd", loss, eps=0.1)

        def training_step(self, batch, index):
            return self.hard(self.network, batch["image"], batch["label"])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.5)

    module = Module()
    lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    ).fit(module, DataLoader(batches(), batch_size=None))  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(module.network.parameters(), by_hand().parameters(), strict=True))
