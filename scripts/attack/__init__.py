"""Attacks a service on loopback, and measures how long a good client has to wait."""
