"""Configs: fields and rules, files, command lines, the paper's tables."""
