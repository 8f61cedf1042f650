"""What a request calls a picture → its bytes: a data URI, a URL on the internet, the id of an upload."""

import base64
import binascii
import re

from serving.errors import BadInput, Conflict, TooLarge, Unprocessable
from serving.outbound import Outbound, OutboundError, TooMuch
from serving.uploads.uploads import Uploads

FETCH_TIMEOUT_S = 15.0
UPLOAD_PREFIX = "upl_"
DATA_URI = re.compile(r"data:image/[a-z0-9.+-]{1,40}(?:;[^,;]{1,100})*;base64,", re.IGNORECASE)


class NamedPictures:
    """Reads what a tenant may read. Says nothing of what the bytes are."""

    def __init__(self, outbound: Outbound, uploads: Uploads, *, max_bytes: int) -> None:
        self._outbound = outbound
        self._uploads = uploads
        self._max_bytes = max_bytes

    async def read(self, tenant: str, name: str, *, param: str) -> bytes:
        """Raises BadInput, NotFound or TooLarge, each naming `param`; Unavailable when the store is away."""
        if match := DATA_URI.match(name):
            data = _decoded(name[match.end() :], param)
        elif name.startswith(UPLOAD_PREFIX):
            data = await self._uploaded(tenant, name, param)
        elif name.startswith("https://"):
            data = await self._fetched(name, param)
        else:
            message = "An image is a data URI (data:image/…;base64,…), an https:// URL, or the id of an upload."
            raise BadInput(message, param=param, code="invalid_image_url")
        if len(data) > self._max_bytes:
            raise self._too_large(param)
        return data

    async def _uploaded(self, tenant: str, upload_id: str, param: str) -> bytes:
        try:
            return await self._uploads.read_image(tenant, upload_id, param=param)
        except (Unprocessable, Conflict) as error:
            raise BadInput(error.message, param=param, code="invalid_image_url") from error

    async def _fetched(self, url: str, param: str) -> bytes:
        try:
            answer = await self._outbound.get(url, timeout_s=FETCH_TIMEOUT_S, max_bytes=self._max_bytes)
        except TooMuch as error:
            raise self._too_large(param) from error
        except OutboundError as error:
            raise BadInput(f"The image could not be fetched: {error}", param=param, code="invalid_image_url") from error
        if answer.status != 200:
            message = f"The image could not be fetched: the answer was {answer.status}."
            raise BadInput(message, param=param, code="invalid_image_url")
        return answer.body

    def _too_large(self, param: str) -> TooLarge:
        return TooLarge(f"The image is larger than {self._max_bytes} bytes.", param=param, code="image_too_large")


def _decoded(text: str, param: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"The data URI is not valid base64: {error}.", param=param, code="invalid_image_url") from error
