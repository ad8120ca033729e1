"""What PyYAML makes of documents: a JSON list of them on stdin, in hexadecimal; for each a line with its value, or null if it is refused.

Values are lists of their type and what they are made of, so that 1, 1.0 and "1" differ; a fraction is told by its 64 bits.
"""

import json
import struct
import sys

import yaml


def told(value):
    if value is None:
        return ["null"]
    if type(value) in (bool, int, str):
        return [type(value).__name__, value]
    if type(value) is float:
        return ["float", struct.unpack(">Q", struct.pack(">d", value))[0]]
    if type(value) is list:
        return ["list", [told(item) for item in value]]
    if type(value) is dict:
        return ["dict", [[told(key), told(item)] for key, item in value.items()]]
    return [type(value).__name__]


for document in json.load(sys.stdin):
    try:
        value = told(yaml.load(bytes.fromhex(document), Loader=yaml.FullLoader))
    except Exception:
        value = None
    print(json.dumps(value))
