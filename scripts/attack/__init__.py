"""Attacks a service of its own on loopback, and shows for how long a good client had to wait."""
