"""What a stock client gets of every kind of result: the facts are those of `results_made`."""

import inside  # noqa: F401
import numpy as np
import pytest
from monailabel.datastore.local import LocalDatastore

import results_made
from lib import backend
from perturbox import io
from perturbox.job.execute import Job
from perturbox.jobs import Order, Record

CASES = [case for case in results_made.cases() if case.schema == 2]


@pytest.fixture(scope="module")
def datastore(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    return LocalDatastore(str(folder), extensions=["*.nii.gz", "*.png"], auto_reload=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_stock_client_is_told_the_same(case, datastore, tmp_path):
    expected = results_made.write(case, tmp_path / "result")
    order = Order("attack", Job("scan", victim="made", attack="pgd"), name="case")
    record = Record(f"{CASES.index(case):08x}-made", order, 0.0, "done")
    file, told = backend.answer(order, record, tmp_path / "result", datastore)
    assert told["summary"] == {key: expected[key] for key in ("headline", "broken")}
    assert told["flow"] == expected["flow"]
    counted = results_made.became_in_files(tmp_path / "result", results_made.geometry(case)[1])
    flow = [(row["from"], row["to"], row["ml"]) for row in told["flow"]]
    assert results_made.sums(flow) == {name: pytest.approx(pair) for name, pair in counted.items()}
    assert told["verdicts"] == {name: row["verdict"] for name, row in expected["structures"].items()}
    for name, row in expected["structures"].items():
        assert (told["outlined"] is None or name in told["outlined"]) == row["outlined"]
        rows = told["metrics"]
        assert rows["clean"][name]["dice"] == pytest.approx(row["dice_before"])
        assert rows["adversarial" if row["outlined"] else "against_clean"][name]["dice"] == pytest.approx(
            row["dice_after"]
        )
        assert rows["adversarial"][name]["volume_ml"] == pytest.approx(row["after"])
    _, after, _ = results_made.maps(case)
    stored = io.read_volume(file, unit="label", allow_constant=True).data[0]
    assert np.array_equal(stored.reshape(after.shape), after)
