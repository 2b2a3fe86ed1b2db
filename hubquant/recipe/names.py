"""What things on the Hub are called."""

from __future__ import annotations

import re

HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
HUB_PREFIX = "hub:"
