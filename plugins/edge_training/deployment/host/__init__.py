"""The program that is sent to a host: pulls, checks, runs and swaps images there with nothing but Python's standard library.

It is packed into one file by :mod:`edge_training.deployment.program`. Orders, registry logins among them, come on standard input.
"""
