"""The innermost loops, compiled by mypyc where there is a C compiler: `python -m service.native.build`.

Nothing else imports `kernel`: service/index/kernel.py takes what is compiled here, and plain Python where nothing is.
"""
