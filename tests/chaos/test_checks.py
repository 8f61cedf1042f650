"""The judge of a chaos run finds what must be found: each test spoils a sound outcome in one way."""

from dataclasses import replace

import pytest

from tests.chaos.conftest import Outcome

FORGED = "whsec_" + "Zm9yZ2VkLWZvcmdlZC1mb3JnZWQtZm9yZ2VkIQ=="


def told(findings: list) -> list[tuple[str, str]]:
    return [(finding.verdict, finding.about) for finding in findings]


def test_a_sound_outcome_has_no_findings(outcome: Outcome) -> None:
    assert outcome.judge(spares_callers=True) == []


def test_an_accepted_job_that_is_nowhere_is_lost(outcome: Outcome) -> None:
    jobs = [job for job in outcome.evidence.jobs if job.id != "job_1"]
    assert ("lost", "job_1") in told(outcome.judge(jobs=jobs))


@pytest.mark.parametrize("status", ["queued", "running"])
def test_an_accepted_job_without_an_end_is_lost(outcome: Outcome, status: str) -> None:
    jobs = outcome.with_job("job_2", status=status, picture_keys=(), picture_sha256=())
    assert ("lost", "job_2") in told(outcome.judge(jobs=jobs))


def test_a_job_that_runs_for_nobody_is_found_though_no_client_knows_it(outcome: Outcome) -> None:
    stray = replace(outcome.job("job_9", status="running"), order="", tenant="globex", owner="Router#1")
    evidence = outcome.evidence
    found = outcome.judge(
        jobs=[*evidence.jobs, stray],
        pictures={**evidence.pictures, "job_9": []},
        objects={**evidence.objects, "job_9": frozenset()},
        ledger_s={},
    )
    assert told(found) == [("wrong", "job_9")]


def test_a_success_without_its_picture_is_lost(outcome: Outcome) -> None:
    gone = [outcome.picture("tenants/acme/job_1/1-0.png", found_sha256=None)]
    found = outcome.judge(pictures={**outcome.evidence.pictures, "job_1": gone})
    assert told(found) == [("lost", "job_1")]


def test_a_success_with_too_few_pictures_is_lost(outcome: Outcome) -> None:
    orders = dict(outcome.evidence.orders)
    orders["order of job_1"] = replace(orders["order of job_1"], num_images=2)
    assert told(outcome.judge(orders=orders)) == [("lost", "job_1")]


def test_a_job_that_the_api_denies_is_lost(outcome: Outcome) -> None:
    found = outcome.judge(answers={**outcome.evidence.answers, "job_1": "HTTP 404"})
    assert told(found) == [("lost", "job_1")]


def test_two_jobs_for_one_key_are_doubled(outcome: Outcome) -> None:
    twin = replace(outcome.job("job_8", tenant="globex"), order="order of job_2")
    evidence = outcome.evidence
    found = outcome.judge(
        jobs=[*evidence.jobs, twin],
        pictures={**evidence.pictures, "job_8": [outcome.picture(twin.picture_keys[0])]},
        objects={**evidence.objects, "job_8": frozenset(twin.picture_keys)},
        ledger_s={},
    )
    assert told(found) == [("doubled", "order of job_2")]


def test_two_ids_told_for_one_key_are_doubled_though_one_job_is_gone(outcome: Outcome) -> None:
    entries = [*outcome.evidence.entries, outcome.entry("accepted", "order of job_2", "job_8")]
    found = outcome.judge(entries=entries, answers={**outcome.evidence.answers, "job_8": "HTTP 404"})
    assert ("doubled", "order of job_2") in told(found)


def test_a_picture_that_no_result_names_is_doubled(outcome: Outcome) -> None:
    objects = {**outcome.evidence.objects, "job_3": frozenset({"tenants/acme/job_3/1-0.png"})}
    assert told(outcome.judge(objects=objects)) == [("doubled", "job_3")]


def test_more_pictures_than_were_asked_for_are_doubled(outcome: Outcome) -> None:
    keys = ("tenants/acme/job_1/1-0.png", "tenants/acme/job_1/1-1.png")
    jobs = outcome.with_job("job_1", picture_keys=keys, picture_sha256=(keys[0], keys[1]))
    found = outcome.judge(jobs=jobs, objects={**outcome.evidence.objects, "job_1": frozenset(keys)})
    assert ("doubled", "job_1") in told(found)


def test_pixels_that_its_seed_does_not_give_are_wrong(outcome: Outcome) -> None:
    spoilt = [outcome.picture("tenants/acme/job_1/1-0.png", wrong="is off by 200 of 255")]
    found = outcome.judge(pictures={**outcome.evidence.pictures, "job_1": spoilt})
    assert told(found) == [("wrong", "job_1")]


def test_bytes_of_another_sha256_are_wrong(outcome: Outcome) -> None:
    spoilt = [outcome.picture("tenants/acme/job_1/1-0.png", found_sha256="cd" * 32)]
    found = outcome.judge(pictures={**outcome.evidence.pictures, "job_1": spoilt})
    assert told(found) == [("wrong", "job_1")]


def test_a_client_that_was_given_other_pictures_is_found(outcome: Outcome) -> None:
    entry = outcome.entry("answered", "order of job_1", "job_1", sha256=["cd" * 32], num=1)
    assert told(outcome.judge(entries=[*outcome.evidence.entries, entry])) == [("wrong", "job_1")]


def test_a_job_that_failed_or_was_cancelled_by_nobody_is_wrong(outcome: Outcome) -> None:
    for status, code in (("failed", "workers_lost"), ("cancelled", None)):
        jobs = outcome.with_job("job_2", status=status, error_code=code, picture_keys=(), picture_sha256=())
        assert ("wrong", "job_2") in told(outcome.judge(jobs=jobs))


def test_an_end_that_changed_after_a_client_saw_it_is_wrong(outcome: Outcome) -> None:
    jobs = outcome.with_job("job_3", status="succeeded")
    assert ("wrong", "job_3") in told(outcome.judge(jobs=jobs))


def test_a_missing_webhook_is_found(outcome: Outcome) -> None:
    deliveries = [d for d in outcome.evidence.deliveries if "job.succeeded" not in d.body]
    assert told(outcome.judge(deliveries=deliveries)) == [("wrong", "job_1")]


def test_a_webhook_that_we_refused_and_that_never_came_again_is_found(outcome: Outcome) -> None:
    deliveries = [replace(d, is_taken="job.succeeded" not in d.body) for d in outcome.evidence.deliveries]
    assert told(outcome.judge(deliveries=deliveries)) == [("wrong", "job_1")]


def test_a_webhook_of_the_wrong_end_is_found(outcome: Outcome) -> None:
    job = outcome.evidence.jobs[0]
    deliveries = [d for d in outcome.evidence.deliveries if "job.succeeded" not in d.body]
    found = outcome.judge(deliveries=[*deliveries, outcome.delivery(job, "job.failed")])
    assert told(found) == [("wrong", "job_1")]


def test_a_forged_signature_is_found(outcome: Outcome) -> None:
    job = outcome.evidence.jobs[0]
    deliveries = [*outcome.evidence.deliveries, outcome.delivery(job, "job.succeeded", secret=FORGED)]
    assert told(outcome.judge(deliveries=deliveries)) == [("wrong", "job_1")]


def test_a_body_changed_on_the_way_is_found(outcome: Outcome) -> None:
    deliveries = [replace(d, body=d.body.replace("job_1", "job_3")) for d in outcome.evidence.deliveries]
    assert ("wrong", "job_3") in told(outcome.judge(deliveries=deliveries))


def test_an_end_told_as_two_events_is_doubled(outcome: Outcome) -> None:
    job = outcome.evidence.jobs[0]
    deliveries = [*outcome.evidence.deliveries, outcome.delivery(job, "job.succeeded", event_id="another")]
    assert ("doubled", "job_1") in told(outcome.judge(deliveries=deliveries))


def test_the_same_event_may_come_twice(outcome: Outcome) -> None:
    job = outcome.evidence.jobs[0]
    deliveries = [*outcome.evidence.deliveries, outcome.delivery(job, "job.started", at_s=9)]
    assert outcome.judge(deliveries=deliveries) == []


def test_news_of_the_start_after_the_end_are_found(outcome: Outcome) -> None:
    job = outcome.evidence.jobs[0]
    deliveries = [d for d in outcome.evidence.deliveries if d.headers["webhook-id"] != "evt of job_1 job.started"]
    late = outcome.delivery(job, "job.started", at_s=9)
    assert told(outcome.judge(deliveries=[*deliveries, late])) == [("wrong", "job_1")]


@pytest.mark.parametrize("ledger_s", [1.4, 3.1, 6.0])
def test_a_share_that_differs_from_its_jobs_is_found(outcome: Outcome, ledger_s: float) -> None:
    assert told(outcome.judge(ledger_s={"globex": ledger_s})) == [("wrong", "globex")]


def test_what_a_killed_router_had_not_told_may_be_missing_and_no_more_may_be_there(outcome: Outcome) -> None:
    assert outcome.judge(ledger_s={"globex": 0.0}, uncounted_rounds=frozenset({1})) == []
    assert outcome.judge(ledger_s={"globex": 9.0}, uncounted_rounds=frozenset({1})) != []


def test_an_error_for_a_waiting_client_counts_only_where_it_should_be_spared(outcome: Outcome) -> None:
    refused = outcome.entry("refused", "order of job_1", status=500, code=None, text="Internal Server Error")
    entries = [*outcome.evidence.entries, refused]
    assert outcome.judge(entries=entries) == []
    assert told(outcome.judge(entries=entries, spares_callers=True)) == [("wrong", "order of job_1")]


def test_what_the_watcher_saw_going_backwards_is_doubled(outcome: Outcome) -> None:
    assert told(outcome.judge(backward=["job_1: its fence went from 3 to 2"])) == [("doubled", "job_1")]
