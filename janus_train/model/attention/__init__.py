"""Attention that stays inside each document of a packed sequence, as transformers' attention interface.

documents   where the documents of a flat sequence are, and which of them share a call
packed      the attention itself, registered as `NAME`
grouped     its CPU form as one operator, for compiled layers
"""

from janus_train.model.attention.documents import Documents
from janus_train.model.attention.packed import NAME, packed_attention, sliding_window

__all__ = ["NAME", "Documents", "packed_attention", "sliding_window"]
