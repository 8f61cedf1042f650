"""S3: put, get, list, presign, send in parts. Blocking on purpose: async callers use asyncio.to_thread."""

from models.blobs.keys import check_key, check_prefix
from models.blobs.parts import Part, PartStore
from models.blobs.store import BlobInfo, BlobStore

__all__ = ["BlobInfo", "BlobStore", "Part", "PartStore", "check_key", "check_prefix"]
