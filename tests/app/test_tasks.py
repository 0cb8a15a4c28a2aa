"""The tasks themselves: what a form means, batches, scores, the next case to label, and fine-tuning."""

import json
import math
import time
import warnings
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import httpx
import nibabel as nib
import numpy as np
import pytest
import tiny
import torch
from serving import TINY

import perturbox as px
from perturbox import io
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import discover
from perturbox.attacks.recipes.ensemble import DEFAULT
from perturbox.job.execute import Job, run_job
from perturbox.jobs import Order, Record
from perturbox.load import load_victim
from perturbox.types import InputError

TRAINABLE = f"{Path(__file__).parent / 'trainable.py'}:volume"
CPU = torch.device("cpu")
MODULES = ("activelearning", "backend", "forms", "infers", "options", "scoring", "trainers", "victims")
ADVERSARIAL = "a__pgd__0123abcd"


@pytest.fixture(scope="module")
def lib(tmp_path_factory):
    """The app's modules in this process, serving the two tiny victims."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {name: import_module(f"lib.{name}") for name in MODULES}
        found["finetune"] = import_module("lib.trainers.finetune")
    lib = SimpleNamespace(**found)
    lib.options_of = lambda **conf: found["options"].Options.read(conf, {}, [])
    lib.options = lib.options_of(home=str(tmp_path_factory.mktemp("home")), victims=f"{TINY},{TRAINABLE}")
    lib.backend.victims = lib.victims.load(lib.options)
    yield lib
    lib.backend.victims = {}


@pytest.fixture
def store(lib, tmp_path):
    """store(*names) -> a datastore with a tiny scan of that name each."""

    def store(*names: str):
        from monailabel.datastore.local import LocalDatastore

        folder = tmp_path / "studies"
        folder.mkdir()
        for seed, name in enumerate(names):
            tiny.write_scan(folder / f"{name}.nii.gz", seed=seed)
        return LocalDatastore(str(folder), extensions=["*.nii.gz"])

    return store


@pytest.fixture
def here(lib, monkeypatch, tmp_path):
    """Orders are carried out in this process; the list of those that were."""

    class Here:
        def __init__(self):
            self.orders = []

        def run(self, order, poll=0.0):
            self.orders.append(order)
            folder = tmp_path / f"job-{len(self.orders)}"
            run_job(order.job, folder)
            return Record(f"{len(self.orders):032x}", order, time.time(), "done"), folder

        def forget(self, folder):
            pass

    here = Here()
    monkeypatch.setattr(lib.backend, "current", lambda: here)
    return here


def label_finally(store, name: str) -> None:
    """With what the trainable victim predicts, so that nothing but an attack makes it wrong."""
    scan = io.read_volume(store.get_image_uri(name))
    file = Path(store.get_image_uri(name)).parent.parent / f"{name}.nii.gz"
    io.write_labels(file, load_victim(TRAINABLE).predict(scan), scan)
    store.save_label(name, str(file), "final", {})


# ---------------------------------------------------------------- forms and orders


def order(lib, task: str = "tiny-pgd", **request):
    return lib.backend.order_for(task, request, "/data/ct.nii.gz", "ct")


def test_an_empty_request_means_the_defaults_of_the_command_line(lib):
    job = order(lib).job
    assert job == Job(image="/data/ct.nii.gz", victim=TINY, attack="pgd", steps=20, norm="linf")
    assert order(lib, "tiny") == Order("segment", Job("/data/ct.nii.gz", TINY), name="ct", client="stock infer")


@pytest.mark.parametrize(
    ("sent", "field", "meant"),
    [
        ({"eps": "2.5"}, "eps", 2.5),
        ({"eps": 2}, "eps", 2.0),
        ({"eps": ""}, "eps", None),
        ({"steps": " 7 "}, "steps", 7),
        ({"steps": 7.0}, "steps", 7),
        ({"target": "all"}, "target", ()),
        ({"target": "liver"}, "target", ("liver",)),
        ({"target": "liver,bone"}, "target", ("liver", "bone")),
        ({"target": ["bone"]}, "target", ("bone",)),
        ({"target": ["all", "liver", "bone"]}, "target", ()),
        ({"norm": ["linf", "l2"]}, "norm", "linf"),
        ({"norm": "l2"}, "norm", "l2"),
        ({"alpha": "", "restarts": "2"}, "settings", {"restarts": "2"}),
        ({"loss": list(LOSSES)}, "settings", {"loss": "dice-ce"}),
        ({"random_start": False}, "settings", {"random_start": False}),
        ({"result_extension": ".nrrd", "client_id": "x", "model": "y", "label_tag": "z"}, "settings", {}),
        ({"seed": "11"}, "seed", 11),
        ({"device": ["cpu"]}, "device", "cpu"),
    ],
    ids=str,
)
def test_what_comes_back_from_a_form_is_understood(lib, sent, field, meant):
    assert getattr(order(lib, **sent).job, field) == meant


def test_every_forms_defaults_are_the_recipes_own(lib):
    for name, recipe in discover().items():
        if not recipe.remote:
            assert f"tiny-{name}" not in lib.backend.tasks()
            continue
        form = lib.forms.fields(lib.backend.victims["tiny"], recipe, "cpu")
        attack = recipe.build(4.0, recipe.norms[0], 20, order(lib, f"tiny-{name}", **form).job.settings)
        assert attack.parameters == recipe.build(4.0, recipe.norms[0], 20, {}).parameters


def test_the_job_apis_request_says_the_same(lib):
    sent = {"eps": "3", "target": "liver", "goal": "vanish", "restarts": "2", "seed": 4}
    assert lib.backend.request_of(order(lib, **sent)) == {
        "kind": "attack",
        "image": "ct",
        "victim": "tiny",
        "device": "cpu",
        "force": False,
        "attack": "pgd",
        "eps": 3.0,
        "eps_unit": "native",
        "norm": "linf",
        "steps": 20,
        "goal": "vanish",
        "seed": 4,
        "target": ["liver"],
        "settings": {"restarts": "2"},
    }


# ---------------------------------------------------------------- the one queue, from another process


def test_a_far_process_gets_the_very_result(server, lib, tmp_path):
    far = lib.backend.Far(server.url, server.token)
    path = server.studies / "case_b.nii.gz"
    asked = lib.backend.order_for("tiny-fgsm", {"eps": 10, "seed": 2}, str(path), "case_b")
    record, folder = far.run(asked, poll=0.1)
    run_job(asked.job, tmp_path / "direct")
    for name in ("adversarial", "adversarial_seg", "perturbation"):
        far_away, direct = (nib.load(place / f"{name}.nii.gz") for place in (folder, tmp_path / "direct"))
        assert np.array_equal(np.asanyarray(far_away.dataobj), np.asanyarray(direct.dataobj))
    assert server.http.get(f"/perturbox/jobs/{record.id}").json()["state"] == "done"
    far.forget(folder)
    assert not folder.exists()
    far.client.close()


def test_it_waits_where_the_queue_is_full_and_says_why_where_a_job_fails(lib):
    said = []

    def serve(request: httpx.Request) -> httpx.Response:
        said.append(request.method)
        if said == ["POST"]:
            return httpx.Response(429, json={"error": "queue-full", "detail": "Full.", "what_to_do": "Wait."})
        problem = {"error": "worker-died", "detail": "It died.", "what_to_do": "Submit it again."}
        return httpx.Response(202, json={"id": "7", "state": "failed", "error": problem})

    far = lib.backend.Far("http://server", None)
    far.client = httpx.Client(base_url="http://server", transport=httpx.MockTransport(serve))
    with pytest.raises(lib.backend.Unfinished, match=r"It died\. Submit it again\."):
        far.run(order(lib), poll=0.001)
    assert said == ["POST", "POST", "GET"]


# ---------------------------------------------------------------- scoring and the next case


def test_a_score_is_the_worst_mean_dice_over_the_ensemble(lib, store, here, tmp_path):
    datastore = store("a", ADVERSARIAL)
    scores = lib.scoring.Robustness()({"eps": "10", "steps": "2"}, datastore)
    means = {}
    for name in DEFAULT.split("+"):
        attack, _, loss = name.partition(":")
        settings = {"loss": loss} if loss else {}
        job = Job(datastore.get_image_uri("a"), TINY, attack, eps=10.0, norm="linf", steps=2, settings=settings)
        rows = run_job(job, tmp_path / name.replace(":", "-"))["metrics"]["adversarial"]
        means[name] = {structure: row["dice"] for structure, row in rows.items()}
    worst = min(means, key=lambda name: np.mean(list(means[name].values())))
    found = scores["a"]
    assert found["dice"] == means[worst]
    assert found["worst_dice"] == pytest.approx(np.mean(list(means[worst].values())))
    assert set(found["members"]) == set(means) and found["members"][found["attack"]] == min(found["members"].values())
    assert means[found["attack"]] == means[worst]
    assert set(scores) == {"a"} and [order.job.attack for order in here.orders] == ["ensemble"]
    assert datastore.get_image_info("a")["robustness"] == found
    assert {"victim": "tiny", "eps": 10.0, "steps": 2}.items() <= found.items()
    json.dumps(scores, allow_nan=False)


def test_a_case_that_cannot_be_attacked_says_why_and_the_others_are_scored(lib, store, here):
    datastore = store("a", "b")
    flat = np.full(tiny.SHAPE, -1000, np.int16)
    flat[0, 0, 0] = -990
    nib.save(nib.Nifti1Image(flat, np.eye(4)), datastore.get_image_uri("a"))
    scores = lib.scoring.Robustness()({"eps": 4, "steps": 1}, datastore)
    assert scores["a"]["worst_dice"] is None and "found none of its structures" in scores["a"]["problem"]
    assert 0 <= scores["b"]["worst_dice"] <= 1
    answer = lib.activelearning.MostFragile()({}, datastore)
    assert answer["id"] == "b" and answer["worst_dice"] == scores["b"]["worst_dice"]
    label_finally(datastore, "b")
    answer = lib.activelearning.MostFragile()({}, datastore)
    assert answer["id"] == "a" and answer["why"].startswith("could not be scored: The model found none")


@pytest.mark.parametrize("setting", [{"eps": "much"}, {"steps": "1.5"}, {"victim": "lung"}])
def test_a_score_with_settings_that_cannot_be_used_is_refused(lib, store, here, setting):
    datastore = store("a")
    with pytest.raises(InputError):
        lib.scoring.Robustness()(setting, datastore)
    assert here.orders == [] and "robustness" not in datastore.get_image_info("a")


def test_the_most_fragile_case_comes_first(lib, store):
    datastore = store("a", "b", "c", "d", "e", ADVERSARIAL)
    for name, worst in (("a", 0.9), ("b", 0.2), ("d", 0.1), ("e", 0.5)):
        datastore.update_image_info(name, {"robustness": {"worst_dice": worst}})
    datastore.update_image_info("e", {"adversarial": True})
    label_finally(datastore, "d")
    offered = []
    while answer := lib.activelearning.MostFragile()({}, datastore):
        offered.append((answer["id"], answer["why"]))
        label_finally(datastore, answer["id"])
    assert offered == [
        ("c", "not scored yet"),
        ("b", "worst-case Dice 0.200, the lowest of 2 cases"),
        ("a", "worst-case Dice 0.900, the lowest of 1 cases"),
    ]


def test_what_cannot_be_scored_comes_last(lib, store):
    """An MR in a folder of CT would be offered first, for ever."""
    datastore = store("a", "b", "c", "d")
    like = {"victim": "tiny", "eps": 4.0, "steps": 10, "when": 1.0}
    datastore.update_image_info("a", {"robustness": {**like, "worst_dice": None, "problem": "Not CT."}})
    datastore.update_image_info("b", {"robustness": {**like, "worst_dice": 0.9}})
    datastore.update_image_info("d", {"robustness": {**like, "worst_dice": 0.3}})
    offered = []
    while answer := lib.activelearning.MostFragile()({}, datastore):
        offered.append((answer["id"], answer["why"]))
        label_finally(datastore, answer["id"])
    assert offered == [
        ("c", "not scored yet"),
        ("d", "worst-case Dice 0.300, the lowest of 2 cases scored with tiny at eps 4, 10 steps"),
        ("b", "worst-case Dice 0.900, the lowest of 1 cases scored with tiny at eps 4, 10 steps"),
        ("a", "could not be scored: Not CT. Nothing else is left."),
    ]


def test_scores_of_other_settings_are_not_ranked_together(lib, store):
    datastore, strategy = store("a", "b", "c"), lib.activelearning.MostFragile()
    old, new = ({"victim": "tiny", "eps": eps, "steps": 10, "when": when} for eps, when in ((8.0, 1.0), (4.0, 2.0)))
    datastore.update_image_info("a", {"robustness": {**old, "worst_dice": 0.1}})
    datastore.update_image_info("b", {"robustness": {**new, "worst_dice": 0.8}})
    datastore.update_image_info("c", {"robustness": {**new, "worst_dice": 0.5}})
    assert strategy({}, datastore) == {
        "id": "a",
        "worst_dice": None,
        "why": "not scored yet with tiny at eps 4, 10 steps",
    }
    assert strategy({"eps": "8"}, datastore)["id"] == "b"
    label_finally(datastore, "a")
    assert strategy({}, datastore)["id"] == "c"


def test_a_strategy_keeps_to_the_tag_and_the_labels_it_is_asked_for(lib, store):
    datastore, first = store("a", "b", "c"), lib.activelearning.FirstCase()
    for name in ("a", "b"):
        label_finally(datastore, name)
    assert first({}, datastore)["id"] == "c"
    assert first({"label_tag": "original"}, datastore)["id"] == "a"
    datastore.update_label_info("a", "final", {"label_info": [{"name": "liver", "idx": 1}]})
    assert first({"labels": ["liver"]}, datastore)["id"] == "b"
    assert first({"labels": ["spleen"]}, datastore)["id"] == "a"


def test_chance_never_offers_what_an_attack_left(lib, store):
    datastore = store("a", ADVERSARIAL)
    assert {lib.activelearning.AnyCase()({}, datastore)["id"] for _ in range(20)} == {"a"}


def test_the_first_case_comes_first_and_never_what_an_attack_left(lib, store):
    datastore, first = store("c", ADVERSARIAL, "b"), lib.activelearning.FirstCase()
    offered = []
    while answer := first({}, datastore):
        offered.append(answer["id"])
        label_finally(datastore, answer["id"])
    assert offered == ["b", "c"]


def test_a_batch_leaves_out_what_an_attack_left_unless_it_is_named(lib, store):
    datastore, batch = store("a", "b", ADVERSARIAL), lib.infers.Batch()
    assert sorted(batch.get_images({}, datastore)) == ["a", "b"]
    assert batch.get_images({"images": [ADVERSARIAL]}, datastore) == [ADVERSARIAL]


# ---------------------------------------------------------------- fine-tuning


def test_training_is_on_windows_under_attack(lib, monkeypatch):
    finetune, victim = lib.finetune, load_victim(TRAINABLE)
    volume, told = tiny_volume(), []
    case = finetune._on_grid(victim, volume, victim.predict(volume))
    (example,) = finetune._windows(victim, [case], 1, np.random.default_rng(0))
    settings = finetune.Settings(epochs=1, crops=1, eps=10.0, steps=5)
    finetune.finetune(victim, [(volume, victim.predict(volume))], settings, lambda epoch, loss: told.append(loss))
    attack = px.harden(
        "pgd", partial(finetune._loss, victim), 10.0, prepare=victim.normalise, seed=settings.seed, steps=5
    )
    before = finetune._loss(victim, victim.network(victim.normalise(example.x)), example)
    under = attack(victim.network, example.x, example)
    assert told == [under.item()] and under.item() > 1.5 * before.item()


def test_windows_of_a_small_scan_are_padded_without_weight(lib):
    finetune, victim = lib.finetune, load_victim(TRAINABLE)
    x = torch.arange(10 * 12 * 20.0).view(1, 1, 10, 12, 20)
    labels = torch.ones(1, 10, 12, 20, dtype=torch.int64)
    example = finetune._cut(victim, x, labels, (5, 6, 19))
    assert example.x.shape == (1, 1, 16, 16, 16)
    assert float(example.weight.sum()) == 10 * 12 * 16
    assert torch.equal(example.x[0, 0, :10, :12], x[0, 0, :, :, 4:])


def tiny_volume(seed: int = 0):
    from perturbox.types import Volume

    return Volume(tiny.scan(seed=seed)[None].astype(np.float32), np.diag([*tiny.SPACING, 1.0]))


def test_fine_tuning_makes_a_sturdier_victim_beside_the_old(lib, store, tmp_path):
    names = ("a", "b", "c", "d", ADVERSARIAL)
    datastore = store(*names)
    for name in names:
        label_finally(datastore, name)
    before = load_victim(TRAINABLE).sha256
    task = lib.trainers.AdversarialFinetuning(lib.options)
    request = {
        "victim": "trainable",
        "eps": "10",
        "steps": "3",
        "max_epochs": "4",
        "learning_rate": "0.05",
        "crops": "6",
    }
    report = task(request, datastore)

    assert report["victim"] == "trainable-robust" and report["trained_on"] == 2
    assert report["judged_on"] == "2 cases not trained on" and report["judged_by"] == "ensemble"
    assert report["gain"] == report["after"]["attacked_dice"] - report["before"]["attacked_dice"]
    assert report["before"]["clean_dice"] == pytest.approx(1.0, abs=0.02)
    assert report["before"]["attacked_dice"] < 0.8
    assert report["after"]["attacked_dice"] > report["before"]["attacked_dice"] + 0.15
    assert report["after"]["clean_dice"] > 0.9
    assert load_victim(TRAINABLE).sha256 == before

    served = lib.victims.load(lib.options)
    assert set(served) == {"tiny", "trainable", "trainable-robust"}
    sturdy = load_victim(served["trainable-robust"].spec)
    assert sturdy.title == "Three ranges, fine-tuned against PGD at 10 HU" and sturdy.sha256 != before
    again = lib.trainers.judge(sturdy, lib.trainers.labelled(datastore)[-2:], lib.finetune.Settings(eps=10.0))
    assert again == report["after"]  # what is served is what was judged
    stats = task.stats()
    assert stats["best_metric"] == report["after"]["attacked_dice"] and stats["epoch"] == stats["total_epochs"] == 4
    # One step of next to nothing is no gain, though attacks that set out elsewhere end elsewhere.
    second = task({**request, "max_epochs": "1", "crops": "1", "learning_rate": "1e-9"}, datastore)
    assert second["victim"] == "trainable-finetuned" and second["gain"] < lib.trainers.GAIN < report["gain"]


@pytest.mark.parametrize(
    ("before", "after", "held_out", "sturdier"),
    [
        ((0.9, 0.2), (0.9, 0.6), 2, True),
        ((0.9, 0.2), (0.9, 0.6), 1, False),
        ((0.9, 0.2), (0.9, 0.203), 2, False),
        ((0.9, 0.2), (0.8, 0.6), 2, False),
        ((0.9, None), (0.9, 0.6), 2, False),
    ],
)
def test_a_model_is_called_robust_only_for_a_gain_that_counts(lib, before, after, held_out, sturdier):
    before, after = (dict(zip(("clean_dice", "attacked_dice"), pair, strict=True)) for pair in (before, after))
    assert lib.trainers.is_sturdier(before, after, held_out) is sturdier


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({}, "No image has a final label; label one in your viewer and submit it, then train."),
        ({"victim": "lung"}, "This server has no victim 'lung'; it serves "),
        ({"max_epochs": "0"}, "'max_epochs' must be at least 1, not 0."),
        ({"learning_rate": "fast"}, "'learning_rate' needs a number, not 'fast'."),
        ({"device": "tpu"}, "Unknown device 'tpu'; use cpu or cuda."),
    ],
)
def test_training_that_cannot_work_is_refused_in_a_sentence(lib, store, request_, sentence):
    with pytest.raises(InputError) as refusal:
        lib.trainers.AdversarialFinetuning(lib.options)(request_, store("a"))
    assert str(refusal.value).startswith(sentence)


def test_a_label_that_does_not_fit_the_model_is_named(lib, store, tmp_path):
    datastore = store("a")
    scan = io.read_volume(datastore.get_image_uri("a"))
    for values, sentence in ((np.full(tiny.SHAPE, 9), "can't be used"), (np.zeros(tiny.SHAPE, int), "is empty")):
        io.write_labels(tmp_path / "label.nii.gz", values, scan, overwrite=True)
        datastore.save_label("a", str(tmp_path / "label.nii.gz"), "final", {})
        with pytest.raises(InputError, match=f"The final label of 'a' {sentence}"):
            lib.trainers.AdversarialFinetuning(lib.options)({"victim": "trainable"}, datastore)


def test_a_victim_without_weights_is_not_trained(lib):
    with pytest.raises(InputError, match="tiny has no weights to train; choose another victim"):
        lib.finetune.finetune(load_victim(TINY), [], lib.finetune.Settings(), lambda epoch, loss: None)


# ---------------------------------------------------------------- in the processes that MONAI Label starts


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """A server of this file's own, for its store is changed: case_a and case_b, both victims, a token."""
    from serving import start_server

    folder = tmp_path_factory.mktemp("busy")
    (folder / "studies").mkdir()
    for seed, name in enumerate(("case_a", "case_b")):
        tiny.write_scan(folder / "studies" / f"{name}.nii.gz", seed=seed)
    server = start_server(folder, token="another-token", victims=(TINY, TRAINABLE))
    yield server
    server.stop()


def finished(server, route: str, seconds: float = 400) -> dict:
    """The status of a background task once it is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        task = server.http.get(route).json()
        if task["status"] not in ("SUBMITTED", "RUNNING"):
            return task
        time.sleep(0.5)
    raise AssertionError(f"{route} isn't over: {task}")


def objects(server) -> dict:
    return server.http.get("/datastore/?output=all").json()["objects"]


@pytest.mark.slow
def test_a_batch_attacks_every_patient_once(busy, tmp_path):
    sent = {"eps": "10", "steps": "2", "label_tag": "attacked"}
    assert busy.http.post("/batch/infer/tiny-pgd?images=all", json=sent).status_code == 200
    task = finished(busy, "/batch/infer")
    assert task["status"] == "DONE", task["details"]
    jobs = {job["id"]: job for job in busy.http.get("/perturbox/jobs").json()["jobs"]}
    found = objects(busy)
    for name in ("case_a", "case_b"):
        (image,) = [key for key in found if key.startswith(f"{name}__pgd__")]
        info = found[image]["image"]["info"]
        assert info["adversarial"] is True and info["source"] == name and info["job"] in jobs
        labels = nib.load(busy.studies / "labels" / "attacked" / f"{name}.nii.gz")
        expected = tiny.volume(CPU).predict(io.read_volume(busy.studies / f"{image}.nii.gz"))
        assert np.array_equal(np.asanyarray(labels.dataobj), expected)


@pytest.mark.slow
def test_scores_are_stored_and_the_most_fragile_is_offered_first(busy, tmp_path):
    assert busy.http.post("/scoring/robustness", json={"eps": "10", "steps": "2"}).status_code == 200
    task = finished(busy, "/scoring/")
    assert task["status"] == "DONE", task["details"]
    found = {name: entry["image"]["info"] for name, entry in objects(busy).items()}
    worst = {name: info["robustness"]["worst_dice"] for name, info in found.items() if "robustness" in info}
    assert set(worst) == {"case_a", "case_b"} and all(math.isfinite(value) for value in worst.values())
    sample = busy.stock_client(tmp_path).next_sample("most_fragile", {})
    assert sample["id"] == min(worst, key=lambda name: (worst[name], name))


@pytest.mark.slow
def test_a_trained_victim_is_served_after_a_reload(busy, tmp_path):
    client = busy.stock_client(tmp_path)
    scan = io.read_volume(busy.studies / "case_a.nii.gz")
    io.write_labels(tmp_path / "truth.nii.gz", tiny.volume(CPU).predict(scan), scan)
    client.save_label("case_a", str(tmp_path / "truth.nii.gz"), "final", {})
    asked = {"victim": "trainable", "eps": "10", "learning_rate": "0.05", "max_epochs": "2"}
    client.train_start("adversarial_finetuning", asked)
    task = finished(busy, "/train/")
    assert task["status"] == "DONE", task["details"]
    stats = client.info()["train_stats"]["adversarial_finetuning"]
    assert stats["judged_on"] == "the case it was trained on"
    assert busy.http.post("/reload").status_code == 200
    before, one, two, after = task["details"]
    assert before.startswith("Before: clean Dice ") and after.startswith("After: clean Dice ")
    assert one.startswith("Epoch 1 of 2, loss under attack ") and two.startswith("Epoch 2 of 2, ")
    assert "trainable-finetuned-pgd" in client.info()["models"]  # one case says nothing of sturdiness
    file, told = client.infer("trainable-finetuned", "case_a", {})
    assert told["victim"] == "trainable-finetuned" and nib.load(file).shape == tiny.SHAPE


# ---------------------------------------------------------------- which victims there are


def served_from(lib, tmp_path, *sources: str) -> dict:
    """The victims of Python files with these bodies; the last is put where fine-tuned ones are kept."""
    specs = []
    for number, source in enumerate(sources):
        place = lib.victims.folder(tmp_path) if number == len(sources) - 1 else tmp_path
        place.mkdir(exist_ok=True)
        (place / f"v{number}.py").write_text(source, encoding="utf-8")
        specs.append(f"{place / f'v{number}.py'}:victim")
    return lib.victims.load(lib.options_of(home=str(tmp_path), victims=",".join(specs[:-1])))


NAMED = f"""
import dataclasses
from perturbox.load import load_victim

def victim(device):
    return dataclasses.replace(load_victim({TINY!r}), name=NAME)
"""


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        ((NAMED.replace("NAME", "'x'"), NAMED.replace("NAME", "'x'")), "name their victim 'x'; rename one"),
        ((NAMED.replace("NAME", "'a b'"), ""), "is named 'a b'; rename it with letters, digits and dashes."),
        (
            (NAMED.replace("NAME", "'x'"), NAMED.replace("NAME", "'x-pgd'")),
            "'x-pgd' is the name of a victim and of an attack's task; rename the victim.",
        ),
        ((NAMED.replace("NAME", "'x'"), "1 / 0"), "was fine-tuned here; fix or remove that file)."),
    ],
    ids=["twice", "spaces", "like-an-attack", "broken"],
)
def test_victims_that_cannot_be_told_apart_are_refused(lib, tmp_path, sources, sentence):
    with pytest.raises(InputError) as refusal:
        served_from(lib, tmp_path, *sources)
    assert sentence in str(refusal.value)
