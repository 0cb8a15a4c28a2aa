"""What a model or a scan can have wrong: refused in one sentence that says what to do, before anything of it ran."""

import builtins
import json
import os
import pickle
import re
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import test_bundle
import test_nnunet_folder
import test_sidecar
import torch
import victims
from safetensors.torch import save_file
from torch import nn

from perturbox.load import load_victim, nnunet, read_spec
from perturbox.load.sidecar import write_sidecar
from perturbox.model.ensemble import ensemble_of
from perturbox.model.victim import Victim
from perturbox.model.windows import Window
from perturbox.types import InputError, Volume

bundle, folder, file = test_bundle.make, test_nnunet_folder.make, test_sidecar.make
Wrong = tuple[Callable[[Path], object], str]
EVIL = {"_target_": "os.system", "command": "touch ran"}


class Payload:
    """Leaves a file when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def of_bundle(spoil) -> Callable[[Path], object]:
    return lambda place: load_victim(str(spoil(place / "bundle")))


def of_folder(**changes) -> Callable[[Path], object]:
    return lambda place: load_victim(str(folder(place / "model", **changes)))


def of_file(**changes) -> Callable[[Path], object]:
    return lambda place: load_victim(str(file(place, "safetensors", **changes)))


def with_metadata(place: Path, **changes) -> Path:
    made = bundle(place)
    told = json.loads((made / "configs" / "metadata.json").read_text())
    (made / "configs" / "metadata.json").write_text(json.dumps({**told, **changes}))
    return made


def weights(made: Path, content: object) -> Path:
    torch.save(content, made / "models" / "model.pt")
    return made


def plain_pickle(place: Path) -> Path:
    made = bundle(place)
    (made / "models" / "model.pt").write_bytes(pickle.dumps(Payload(), protocol=2))
    return made


def zipped(place: Path, name: str, link: bool = False) -> object:
    archive = place / "bundle.zip"
    with zipfile.ZipFile(archive, "w") as made:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16 if link else 0
        made.writestr(entry, "../../outside")
    return load_victim(str(archive))


def linked(place: Path) -> object:
    made = bundle(place / "bundle")
    (made / "models" / "model.pt").rename(place / "model.pt")
    (made / "models" / "model.pt").symlink_to(place / "model.pt")
    return load_victim(str(made))


def without(place: Path, name: str) -> object:
    made = bundle(place / "bundle")
    (made / name).unlink()
    return load_victim(str(made))


def old_folder(place: Path) -> object:
    (place / "plans.pkl").write_bytes(pickle.dumps(Payload()))
    return load_victim(str(place))


def payload_in_a_fold(place: Path) -> object:
    return load_victim(str(folder(place / "model", checkpoint={"logging": Payload()})))


def bare_safetensors(place: Path) -> object:
    save_file({"weight": torch.zeros(2, 1, 3, 3, 3)}, place / "net.safetensors")
    return load_victim(str(place / "net.safetensors"))


def torchscript(place: Path) -> object:
    (place / "net.ts").write_bytes(b"")
    (place / "net.json").write_text(json.dumps(test_sidecar.TOLD))
    return load_victim(str(place / "net.ts"))


def a_victim(**changes) -> Victim:
    settings = {"labels": {"background": 0, "a": 1, "b": 2}, "window": Window((8, 8, 8)), "unit": "intensity"}
    return Victim("made", **({"network": victims.conv_net(3)} | settings | changes))


def a_scan(channels: int = 1, dims: int = 3) -> Volume:
    data = np.random.default_rng(0).normal(0, 1, (channels, *(9, 8, 7)[:dims])).astype(np.float32)
    return Volume(data, np.eye(4), "intensity", np.dtype(np.float32))


INTERACTIVE = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "AddClickSignalsd", "keys": "image"}]
OTHER = a_victim(labels={"background": 0, "a": 1, "c": 2})
WRONG: dict[str, Wrong] = {
    **{f"bundle: {name}": (of_bundle(spoil), words) for name, (spoil, words) in test_bundle.WRONG.items()},
    **{f"nnU-Net: {name}": (of_folder(**told), words) for name, (told, words) in test_nnunet_folder.WRONG.items()},
    **{f"sidecar: {name}": (of_file(**changes), words) for name, (changes, words) in test_sidecar.WRONG.items()},
    # What would run.
    "a network that is a command": (of_bundle(lambda p: bundle(p, network_def=EVIL)), "add --trust"),
    "an inferer that is a command": (of_bundle(lambda p: bundle(p, inferer=EVIL)), "The inferer 'os.system' isn't"),
    "an import in an entry": (
        of_bundle(lambda p: bundle(p, inferer="$__import__('os').system('touch ran')")), "would run code"
    ),
    "an import behind a reference": (
        of_bundle(lambda p: bundle(p, inferer="@evil", evil="$__import__('os').system('touch ran')")), "would run code"
    ),
    "a lambda that calls": (
        of_bundle(lambda p: bundle(p, [{"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: exit(x)"}])),
        "would run code",
    ),
    "a comprehension": (of_bundle(lambda p: bundle(p, inferer="$[exit() for _ in (1,)]")), "would run code"),
    "a transform that is a command": (
        of_bundle(lambda p: bundle(p, None, {**EVIL, "keys": "image"})), "code of its own"
    ),
    "a payload in a state dict": (
        of_bundle(lambda p: weights(bundle(p), {"model": Payload()})), "could run code when loaded"
    ),
    "a plain pickle": (of_bundle(plain_pickle), "could run code when loaded"),
    "a payload in a fold": (payload_in_a_fold, "could run code when loaded"),
    "nnU-Net v1": (old_folder, "nnU-Net v1"),
    "TorchScript": (torchscript, "add --trust"),
    "an archive that leaves its folder": (lambda p: zipped(p, "../outside.txt"), "leaves its folder"),
    "an absolute name in an archive": (lambda p: zipped(p, "/tmp/outside.txt"), "leaves its folder"),
    "a backslash in an archive": (lambda p: zipped(p, "..\\outside.txt"), "leaves its folder"),
    "a link in an archive": (lambda p: zipped(p, "bundle/models/model.pt", link=True), "pack the file itself"),
    "a link out of the folder": (linked, "leads out of the bundle"),
    # What doesn't fit.
    "a missing sidecar": (bare_safetensors, "perturbox victim sidecar"),
    "a sidecar of a folder": (lambda p: write_sidecar(read_spec(str(bundle(p / "b")))), "A sidecar belongs to"),
    "no weights": (lambda p: without(p, "models/model.pt"), "copy the model's whole folder"),
    "no metadata": (lambda p: without(p, "configs/metadata.json"), "copy the model's whole folder"),
    "no configuration": (lambda p: without(p, "configs/inference.json"), "only bundles made for inference"),
    "weights that are none": (of_bundle(lambda p: weights(bundle(p), [1, 2])), "save the network's state_dict()"),
    "an interactive bundle": (
        of_bundle(lambda p: bundle(p, preprocessing={"_target_": "Compose", "transforms": INTERACTIVE})),
        "waits for clicks or prompts",
    ),
    "other channels than labels": (
        lambda p: load_victim(str(with_metadata(p / "b", network_data_format={
            "outputs": {"pred": {"num_channels": 5}}}))).predict(a_scan()),
        "has no channel for",
    ),
    "a scan of other channels": (lambda p: a_victim().on(a_scan(4)), "give one file with one value per voxel"),
    "a flat image": (lambda p: a_victim().on(a_scan(dims=2)), "load the whole scan"),
    "one channel": (
        lambda p: a_victim(network=nn.Conv3d(1, 1, 1), labels={"background": 0, "a": 1}).predict(a_scan()),
        "set regions=",
    ),
    "an archive without a bundle": (lambda p: zipped(p, "readme.txt"), "it is no MONAI bundle"),
    "an empty folder": (lambda p: load_victim(str(p)), "name the model's"),
    "no folder": (lambda p: load_victim(f"bundle:{p / 'lost'}"), "name its folder or zip"),
    "an option nobody knows": (lambda p: load_victim(f"nnunet:{p}:fold=0"), "there is folds=…"),
    "two models of other labels": (lambda p: ensemble_of([a_victim(), OTHER]), "combine models of the same labels"),
    "half of two models": (lambda p: load_victim("ct-organs+ct-lungs"), "Unknown victim 'ct-lungs'"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_thing_is_one_sentence(tmp_path, monkeypatch, name):
    do, words = WRONG[name]
    real = nnunet.importlib.import_module
    stand_in = type("architectures", (), {"PlainConvUNet": test_nnunet_folder.Net})
    monkeypatch.setattr(
        nnunet.importlib, "import_module", lambda name, *rest: stand_in if name == nnunet.PACKAGE else real(name, *rest)
    )
    monkeypatch.setattr(builtins, "exit", lambda *_: pytest.fail("an expression was called"))
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    with pytest.raises(InputError) as refusal:
        do(place)
    said = str(refusal.value)
    assert words in said and "\n" not in said
    assert re.search(r"[.!?]$", said) and re.search("[;,:(]", said), "a sentence says what is wrong, then what to do"
    assert not (place / "ran").exists(), "something of it ran"
    assert [path.name for path in tmp_path.iterdir()] == ["place"], "something was written beside it"


def test_they_are_many():
    assert len(WRONG) >= 40
