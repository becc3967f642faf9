"""Compile one recipe YAML into the fastest training setup that fits each target, and say why."""

__version__ = "0.1.0"

AXOLOTL_VERSION = "0.19.0"
"""The Axolotl release whose config schema and behaviour every rule here was checked against."""
