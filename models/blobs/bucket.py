"""The bucket itself: made when it is not there, with a rule that lets `temp/` expire."""

from botocore.exceptions import ClientError

from models.blobs.connection import NOT_FOUND, Connection, code_of

# A second line: the server removes what jobs started from a day after they end, and they may wait and be tried again.
TEMP_RULE = {"ID": "darkroom-temp", "Status": "Enabled", "Filter": {"Prefix": "temp/"}, "Expiration": {"Days": 3}}
# Stores without lifecycle rules (rclone takes the request for another bucket), and keys that may not set any.
NO_RULES = {"NotImplemented", "MethodNotAllowed", "BucketAlreadyExists", "AccessDenied"}


def ensure_bucket(connection: Connection) -> None:
    """Create the bucket unless it is there, and let `temp/` expire; safe when several processes start at once."""
    with connection.errors_of("create bucket", connection.bucket):
        try:
            connection.client.head_bucket(Bucket=connection.bucket)
        except ClientError as error:
            if code_of(error) not in NOT_FOUND | {"NoSuchBucket"}:
                raise
            _create(connection)
        _let_temp_expire(connection)


def _create(connection: Connection) -> None:
    try:
        connection.client.create_bucket(Bucket=connection.bucket)
    except ClientError as error:
        if code_of(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            raise


def _let_temp_expire(connection: Connection) -> None:
    """Adds our rule to those that the bucket's owner has set, where the store knows rules."""
    client, bucket = connection.client, connection.bucket
    try:
        try:
            rules = client.get_bucket_lifecycle_configuration(Bucket=bucket).get("Rules", [])
        except ClientError as error:
            if code_of(error) != "NoSuchLifecycleConfiguration":
                raise
            rules = []
        if TEMP_RULE["ID"] not in {rule.get("ID") for rule in rules}:
            wanted = {"Rules": [*rules, TEMP_RULE]}
            client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=wanted)
    except ClientError as error:
        if code_of(error) not in NO_RULES:
            raise
