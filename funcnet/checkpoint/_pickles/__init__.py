"""Pickles, read and written without running anything: a file names functions and classes, and none of them is called.

A pickle is a program: it names functions, and says what to call them with. Here the few calls that make tensors and
plain values are known and done by code of funcnet (``_known_calls``); what any other call would make becomes an
:class:`Opaque`, which keeps the call. ``_inert_unpickler`` reads, ``_tensor_pickler`` writes.
"""
