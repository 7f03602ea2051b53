"""Asks the API whether it is ready: the database answers with a schema that it can use, and the broker is there."""

import json
import os
import sys
import urllib.request

server = os.environ["QUANTMILL_SERVER"]
with urllib.request.urlopen(f"{server}/readyz", timeout=30) as answer:
    status = json.load(answer)["status"]
print(f"{server} is {status}")
sys.exit(status != "ok")  # `degraded`: jobs are taken in, but the broker is away
