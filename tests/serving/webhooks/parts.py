"""What tests of webhooks share: the three collections over a fresh database, and jobs that have ended."""

from dataclasses import replace
from typing import Any

from configs.settings import OutboundSettings, WebhookSettings
from serving.jobs.job import Job
from serving.mongo import Mongo
from serving.outbound import Outbound
from serving.webhooks.delivery import Delivery, new_delivery
from serving.webhooks.endpoint import Endpoint
from serving.webhooks.events import events_of
from serving.webhooks.work import Webhooks
from tests.serving.house import a_job, public_names

SETTINGS = WebhookSettings(lease_s=30.0)
URL = "https://hooks.test/"


def webhooks(mongo: Mongo, **settings: Any) -> Webhooks:
    made = SETTINGS.model_copy(update=settings)
    return Webhooks.over(mongo, Outbound(OutboundSettings(), resolve=public_names), made)


def ended(number: int = 1, **changes: Any) -> Job:
    values: dict[str, Any] = {"status": "succeeded", "started_at": 10.0, "finished_at": 20.0, "id": f"job_{number:06d}"}
    return replace(a_job(), **(values | changes))


def delivery_of(job: Job, endpoint: Endpoint, event: int = -1) -> Delivery:
    return new_delivery(events_of(job)[event], endpoint)
