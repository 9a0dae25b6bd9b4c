"""Configs: fields, rules, command line, variants, the paper's tables."""
