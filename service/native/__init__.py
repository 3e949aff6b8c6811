"""The innermost loops, compiled by mypyc where there is a C compiler: `python -m service.native.build`.

What is compiled is never used otherwise: loops.py takes it, or plain.py, which says the same in plain Python.
"""
