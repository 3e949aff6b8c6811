"""The innermost loops, compiled by Cython where there is a C compiler: `python -m service.native.build`.

`backend` chooses between the compiled modules and `fallback`, which gives the same answers in Python. The fallback has
no fast path for whole batches and request bodies: there it answers None or -1, and callers take their general decoder.
"""
