"""Runs in the environment of a real Nova: sends recorded notifications through its real notifiers.

python notify.py FOLDER RECORDED
"""

import importlib
import json
import sys
from pathlib import Path

from nova import config, context, rpc

FOLDER, RECORDED = Path(sys.argv[1]), Path(sys.argv[2])

config.parse_args(["nova-compute", "--config-file", str(FOLDER / "nova.conf")], configure_db=False)
for module in sys.argv[3:]:
    importlib.import_module(module)
for line in RECORDED.read_text().splitlines():
    message = json.loads(line)
    given = context.RequestContext.from_dict(message["context"])
    publisher, event_type = message["publisher_id"], message["event_type"]
    if event_type.startswith("compute."):
        notifier = rpc.get_notifier(*publisher.split(".", 1))
    else:
        notifier = rpc.get_versioned_notifier(publisher)
    notifier.info(given, event_type, message["payload"])
print(json.dumps({"modules": sorted({"eventlet", "kafka"} & set(sys.modules))}))
