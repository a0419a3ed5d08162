"""Machinery of this package that other packages use. It is not part of the public interface."""

from funcnet.models._llama import LlamaRMSNorm as LlamaRMSNorm
from funcnet.models._self_attention import SelfAttention as SelfAttention
