"""Makes the bucket ``intake`` unless it is there. Run with botocore; AWS_ variables name server and keys."""  # noqa: INP001 - a script alone, mounted into a container

import botocore.session
from botocore.exceptions import ClientError

client = botocore.session.get_session().create_client("s3")
try:
    client.head_bucket(Bucket="intake")
except ClientError as error:
    if error.response["Error"]["Code"] != "404":
        raise
    client.create_bucket(Bucket="intake")
