"""The files of an exported model, apart from what builds one: reading an export takes no training code."""

WEIGHTS_FILE = "open_clip_model.safetensors"
CONFIG_FILE = "open_clip_config.json"
FROZEN_TEXT_CONFIG_FILE = "clipfoundry_config.json"
"""Stands in place of open_clip's where there is no text tower."""
