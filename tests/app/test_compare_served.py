"""Results on one scan side by side, from the server: the page and the numbers of `perturbox compare`."""

import json

import pytest
from jobs_client import fetch_json, submit, wait


@pytest.fixture(scope="module")
def jobs(server):
    """Two attacks on case_a, one on case_b, a segmentation."""
    asked = [{"image": "case_a", "eps": 12}, {"image": "case_a", "eps": 4}, {"image": "case_b", "eps": 4}]
    ids = [submit(server.http, kind="attack", attack="fgsm", **one)["id"] for one in asked]
    ids.append(submit(server.http, kind="segment", image="case_a")["id"])
    for id in ids:
        wait(server.http, id)
    return ids


def test_numbers_are_those_of_the_jobs_results(server, jobs):
    answer = server.http.get("/perturbox/compare", params={"job": jobs[:2], "format": "json"})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    records = [fetch_json(server.http, id) for id in jobs[:2]]
    (liver,) = (row for row in found["structures"] if row["structure"] == "liver")
    assert liver["dice"] == [record["metrics"]["adversarial"]["liver"]["dice"] for record in records]
    assert found["differ_in"]["limit"] == ["12 HU", "4 HU"]


def test_the_page_is_one_file_that_is_not_for_clinical_use(server, jobs):
    answer = server.http.get("/perturbox/compare", params={"job": jobs[:2]})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    assert "ADVERSARIAL - NOT FOR CLINICAL USE" in answer.text and "default-src 'none'" in answer.text
    assert str(server.home) not in answer.text and "case_a" not in answer.text


def test_what_cannot_be_compared_is_refused_without_a_path(server, jobs):
    def refused(*ids):
        answer = server.http.get("/perturbox/compare", params={"job": ids})
        assert str(server.home) not in answer.text
        return answer.status_code, json.dumps(answer.json())

    status, said = refused(jobs[0], jobs[2])
    assert status == 422 and f"'{jobs[2]}' is of another scan than '{jobs[0]}'" in said
    status, said = refused(jobs[0])
    assert status == 422 and "two to 6 result folders, not 1" in said
    status, said = refused(jobs[0], jobs[3])
    assert status == 422 and f"Job {jobs[3]} is of kind segment." in said and "Give those of attacks." in said
    assert refused(jobs[0], "nothing")[0] == 404
