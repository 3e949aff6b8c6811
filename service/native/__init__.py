"""The innermost loops, compiled by mypyc where there is a C compiler: `python -m service.native.build`.

They are only ever used compiled: service/index/kernel.py takes what is compiled here, or plain Python.
"""
