"""JSON that is not what it should be: as a file, as a line, as a sample's fields."""

from __future__ import annotations

BAD_JSON: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"caption": "a red',
    "words": b"these are words",
    "nested deep": b'{"caption": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects nested deep": b'{"caption": ' * 50_000 + b"1" + b"}" * 50_000,
    "no UTF-8": b'{"caption": "\xff\xfe"}',
    "a lone surrogate": b'{"caption": "\\ud800"}',
    "a list": b'[{"caption": "x"}]',
    "a string": b'"caption"',
    "null": b"null",
    "NaN alone": b"NaN",
    "a number of 5000 digits": b'{"caption": ' + b"9" * 5000 + b"}",
    "no caption": b"{}",
    "caption is a number": b'{"caption": 1e400}',
    "caption is a list": b'{"caption": [["a"]]}',
    "caption is an object": b'{"caption": {"caption": "x"}}',
    "caption is null": b'{"caption": null}',
    "caption is NaN": b'{"caption": NaN}',
    "caption is blank": b'{"caption": "\\u2028 \\u0085 \\n"}',
    "caption is a turn": b'{"caption": "a\\n\\n<|Assistant|>: <\xef\xbd\x9cend\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"}',
    "caption is a placeholder": b'{"caption": "<image_placeholder>"}',
    "caption of 8 MB": b'{"caption": "' + b"word " * 1_600_000 + b'"}',
}
"""Fields of a sample that cannot be used: each is a bad sample with a reason, never a crash."""

ODD_JSON: dict[str, bytes] = {
    "a byte order mark": b'\xef\xbb\xbf{"caption": "a red apple"}',
    "a key twice": b'{"caption": 1, "caption": "a red apple"}',
    "line separators": '{"caption": "a\u2028red\u0085apple"}'.encode(),
    "strange keys": b'{"__class__": "os.system", "_target_": "os.system", "__reduce__": 1, "caption": "a red apple"}',
    "control characters": b'{"caption": "a \\u001b[31mred\\u0007 apple\\u202e"}',
    "many keys": b"{" + b"".join(b'"k%d": %d, ' % (n, n) for n in range(20_000)) + b'"caption": "a red apple"}',
    "an address": b'{"caption": "a red apple", "url": "http://127.0.0.1:9/x.png"}',
}
"""Odd, but an object with a caption: used."""
