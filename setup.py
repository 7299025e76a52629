"""Packages and compiled libraries; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["eokit", "eokit.*"]), "eokit_cli"],
    package_dir={"eokit_cli": "cli"},
)
