"""Helpers that several test folders share: gateways, clients, logs, programs and strategies.

Test modules import from here and never from one another.
"""
