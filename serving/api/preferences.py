"""What a client may say in headers about how its request is taken: Idempotency-Key, and Prefer (RFC 7240)."""

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header

from serving.errors import BadInput

KEY = re.compile(r"[\x20-\x7e]{1,255}")
WAIT = re.compile(r"(?:^|[,;\s])wait=([0-9]{1,9})(?:$|[,;\s])", re.IGNORECASE)
RESPOND_ASYNC = re.compile(r"(?:^|[,;\s])respond-async(?:$|[,;\s])", re.IGNORECASE)
KEY_HELP = "The same key and body within 24 h gives the first answer's object again; 1 to 255 printable characters."
PREFER_HELP = "respond-async: answer 202 with the job. wait=N: answer 200 if it ends within N seconds."


@dataclass(frozen=True, slots=True)
class Preference:
    """How the answer is wanted; other preferences are none of ours."""

    is_async: bool  # respond-async
    wait_s: int  # N of wait=N, 0 where it was not said

    def longest_wait_s(self, limit_s: int) -> int:
        """N, or BadInput where it is more than we wait."""
        if self.wait_s > limit_s:
            raise BadInput(f"Prefer: wait may be at most {limit_s} seconds.", param="Prefer")
        return self.wait_s


def read_preference(prefer: Annotated[str, Header(description=PREFER_HELP)] = "") -> Preference:
    """What the header says of waiting; nothing where there is none."""
    wait = WAIT.search(prefer)
    return Preference(RESPOND_ASYNC.search(prefer) is not None, int(wait[1]) if wait else 0)


def read_idempotency_key(
    idempotency_key: Annotated[str | None, Header(description=KEY_HELP)] = None,
) -> str | None:
    """The key as it came, or BadInput."""
    if idempotency_key is not None and not KEY.fullmatch(idempotency_key):
        raise BadInput("Idempotency-Key must be 1 to 255 printable ASCII characters.", param="Idempotency-Key")
    return idempotency_key


Preferred = Annotated[Preference, Depends(read_preference)]
IdempotencyKey = Annotated[str | None, Depends(read_idempotency_key)]
